"""A complete agent, written against `protos/` and `agents/CONTRACT.md` alone.

It stands for the work of someone who has never seen this project: gRPC and the generated messages, nothing else of it.
Each rule of the contract is a method of its own, so that `faults` can break one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from noa.agent.v1 import agent_service_pb2 as pb

from .executions import Execution
from .messages import WorkFailed, accepted, completed, duration, failed, heartbeat, is_terminal, seconds
from .serving import Serving

__all__ = ["ReferenceAgent"]

ID_LIMIT = 512
GRACE_S = 5.0
HEARTBEAT_S = 5.0
MOMENT_S = 0.2  # what a kill takes to arrive, also where there is no grace


class ReferenceAgent(Serving):
    """An agent that keeps the contract."""

    # --- Execute

    async def Execute(  # noqa: N802
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        """Begin or join an execution, and stream what happens."""
        await self.authenticate(request, context)
        if problem := self.problem_of(request):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        execution = self.find(request)
        joined = execution is not None
        if execution is None:
            refusal = self.refusal()
            if refusal is not None:
                self.on_refused(request, refusal)
                yield accepted(False)
                yield failed(refusal)
                return
            execution = self.begin(request)
        queue = execution.listen()
        try:
            yield self.first_message(joined)
            async for message in self.messages(queue, seconds(request, "heartbeat_interval", HEARTBEAT_S)):
                yield message
        finally:
            execution.leave(queue)
            self.on_stream_end(execution, context)

    def find(self, request: pb.ExecuteRequest) -> Execution | None:
        """The execution that this request joins or whose result it repeats."""
        return self.executions.find(request.execution_id)

    def first_message(self, joined: bool) -> pb.ExecuteResponse:
        """What each stream begins with."""
        return accepted(joined)

    def on_stream_end(self, execution: Execution, context: Any) -> None:
        """Nothing: a client that hangs up ends no work."""

    def problem_of(self, request: pb.ExecuteRequest) -> str:
        """Why this request cannot be an execution at all; empty where it can."""
        for field in self.required_fields():
            if not getattr(request, field):
                return f"{field} is required"
        size = len(request.execution_id.encode())
        return f"execution_id has {size} bytes, at most {ID_LIMIT} are allowed" if size > ID_LIMIT else ""

    def required_fields(self) -> tuple[str, ...]:
        """What must be set."""
        return ("execution_id", "run_id", "action")

    def refusal(self) -> WorkFailed | None:
        """Why nothing new can be taken now."""
        if self.draining:
            return self.overloaded("it was told to end and takes nothing new")
        if not self.loaded:
            return self.overloaded("it is still loading")
        if self.is_full():
            return self.overloaded(f"{self.capacity} executions go on and capacity is {self.capacity}")
        return None

    def is_full(self) -> bool:
        """Whether as much goes on as can."""
        return 0 < self.capacity <= len(self.executions.active)

    def overloaded(self, why: str) -> WorkFailed:
        """The failure that has the engine try again later."""
        return WorkFailed("OVERLOADED", f"this agent cannot take work now: {why}", retryable=True, retry_after_s=0.5)

    def on_refused(self, request: pb.ExecuteRequest, refusal: WorkFailed) -> None:
        """Nothing: a refusal is not remembered."""

    def begin(self, request: pb.ExecuteRequest) -> Execution:
        """Start the work in a task of its own."""
        execution = self.executions.begin(request)
        remaining_s = self.remaining_s(request)
        if remaining_s <= 0:
            self.executions.finish(execution, failed(self.too_late()))
            return execution
        execution.work = asyncio.create_task(self.perform(execution))
        execution.work.add_done_callback(lambda work: self.on_work_done(execution, work))
        if remaining_s < float("inf"):
            loop = asyncio.get_running_loop()
            execution.deadline = loop.call_later(remaining_s, self.on_deadline, execution)
        return execution

    def remaining_s(self, request: pb.ExecuteRequest) -> float:
        """How long the work may take; less than nothing where the deadline is past."""
        return seconds(request, "deadline", float("inf")) - time.time()

    def too_late(self) -> WorkFailed:
        """How work ends that takes too long."""
        return WorkFailed("DEADLINE_EXCEEDED", "the deadline passed before the work was done", retryable=True)

    def on_deadline(self, execution: Execution) -> None:
        """The work has had its time."""
        self.executions.tell_to_end(execution, self.too_late(), GRACE_S)

    def on_work_done(self, execution: Execution, work: asyncio.Task[pb.ExecuteResponse]) -> None:
        """The work has ended by itself or because it was cancelled."""
        if not work.cancelled():
            self.executions.finish(execution, work.result())
        elif execution.why is not None:
            self.executions.finish(execution, failed(execution.why))

    async def perform(self, execution: Execution) -> pb.ExecuteResponse:
        """Do the work; its terminal message."""
        request = execution.request
        try:
            action = self.work.find_action(request.action)
            inputs = await self.work.in_thread(self.payloads.read_input, request.input)
            self.work.check_input(action, inputs)
            output = await action.function(execution, inputs)
            payload = await self.work.in_thread(self.payloads.write_output, output, request.artifact_prefix)
        except WorkFailed as failure:
            return failed(failure)
        except Exception as error:  # the work may raise anything
            return self.panicked(error)
        return completed(payload, pb.Metrics(wall_time=duration(time.monotonic() - execution.started)))

    def panicked(self, error: Exception) -> pb.ExecuteResponse:
        """The terminal message of work that raised what it did not declare."""
        return failed(WorkFailed("INTERNAL", f"the work raised {type(error).__name__}: {error}"))

    async def messages(
        self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float
    ) -> AsyncIterator[pb.ExecuteResponse]:
        """What one stream says after `accepted`, with heartbeats where there is nothing to say."""
        while True:
            message = await self.next_message(queue, interval_s if interval_s > 0 else HEARTBEAT_S)
            yield message
            if is_terminal(message):
                return

    async def next_message(self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float) -> pb.ExecuteResponse:
        """The next message, or a heartbeat when none comes in time."""
        if not queue.empty():
            return queue.get_nowait()
        try:
            return await asyncio.wait_for(queue.get(), interval_s)
        except TimeoutError:
            return heartbeat()

    # --- Cancel

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        """Cancel an execution, or release all that is held for a run."""
        await self.authenticate(request, context)
        target = request.WhichOneof("target")
        if target is None or not getattr(request, target):
            return await self.on_no_target(context)
        why = WorkFailed("CANCELLED", f"cancelled: {request.reason or 'no reason was given'}")
        grace_s = max(seconds(request, "grace", GRACE_S), 0)
        if target == "execution_id":
            return self.cancel_execution(request.execution_id, why, grace_s)
        return await self.cancel_run(request.run_id, why, grace_s)

    async def on_no_target(self, context: Any) -> pb.CancelResponse:
        """It is not said what to cancel."""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "execution_id or run_id is required")
        raise AssertionError("abort raises")

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        """Tell one execution to end."""
        execution = self.executions.find(execution_id)
        if execution is None:
            return self.on_cancel_unknown(execution_id)
        if execution.terminal is not None:
            return self.on_cancel_finished(execution)
        first = self.executions.tell_to_end(execution, why, grace_s)
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=int(first))

    def on_cancel_unknown(self, target: str) -> pb.CancelResponse:
        """Nothing is known of it, and nothing is remembered of having been asked."""
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)

    def on_cancel_finished(self, execution: Execution) -> pb.CancelResponse:
        """It has ended; its result stays."""
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_ALREADY_FINISHED)

    async def cancel_run(self, run_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        """Tell all of a run to end, release what is held, and answer once all that is done or the grace is over."""
        executions = self.executions.of_run(run_id)
        if not executions and not self.work.held.get(run_id):
            return self.on_cancel_unknown(run_id)
        told = sum(self.executions.tell_to_end(execution, why, grace_s) for execution in executions)
        held = len(self.work.held.get(run_id, ()))
        ends = [asyncio.ensure_future(self.work.in_thread(self.work.release, run_id))]
        ends += [asyncio.ensure_future(execution.ended.wait()) for execution in executions]
        await asyncio.wait(ends, timeout=grace_s + MOMENT_S)
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=told + held)
