"""A complete agent, written against `protos/` and `agents/CONTRACT.md` alone.

It stands for the work of someone who has never seen this project: gRPC and the generated messages, nothing else of it.
Each rule of the contract is a method of its own, so that `faults` can break one at a time.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc

from .actions import Actions
from .executions import Execution, Executions
from .messages import WorkFailed, accepted, completed, duration, failed, heartbeat, is_terminal, seconds
from .payloads import Payloads

__all__ = ["ReferenceAgent"]

SERVICES = ("", "noa.agent.v1.AgentService")
ID_LIMIT = 512
MESSAGE_LIMIT = 4 << 20
GRACE_S = 5.0
HEARTBEAT_S = 5.0


class ReferenceAgent(pb_grpc.AgentServiceServicer):
    """An agent that keeps the contract.

    Args:
        listen: As in NOA_AGENT_LISTEN.
        token: As in NOA_AGENT_TOKEN.
        capacity: Executions at once; 0 means no limit.
        load_s: How long it prepares before it serves.
    """

    load_s = 0.0
    capacity = 64
    message_limit = MESSAGE_LIMIT

    def __init__(self, listen: str, token: str) -> None:
        self.listen = listen
        self.token = token
        self.payloads = self.make_payloads()
        self.work = self.make_actions()
        self.executions = self.make_executions()
        self.probes = health.aio.HealthServicer()
        self.loaded = False
        self.draining = False
        self.exit_status: asyncio.Future[int]

    def make_payloads(self) -> Payloads:
        """What reads inputs and writes outputs."""
        return Payloads()

    def make_actions(self) -> Actions:
        """What does the work."""
        return Actions()

    def make_executions(self) -> Executions:
        """What knows the executions."""
        return Executions()

    # --- from launch to exit

    async def serve(self) -> int:
        """Serve until told to end, and return the exit status."""
        loop = asyncio.get_running_loop()
        self.exit_status = loop.create_future()
        self.server = grpc.aio.server(options=self.options())
        pb_grpc.add_AgentServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.probes, self.server)
        await self.tell_probes()
        self.server.add_insecure_port(self.listen)
        self.watch_signals(loop)
        await self.server.start()
        threading.Thread(target=self.watch_stdin, args=(loop,), daemon=True).start()
        loading = asyncio.create_task(self.load())
        status = await self.exit_status
        loading.cancel()
        return status

    def options(self) -> list[tuple[str, Any]]:
        """Limits of messages, and patience with keepalive pings."""
        return [
            ("grpc.max_receive_message_length", self.message_limit),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
        ]

    async def load(self) -> None:
        """Prepare, and serve from then on."""
        await asyncio.sleep(self.load_s)
        self.loaded = True
        await self.tell_probes()

    def watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGTERM drains, the second one ends; SIGINT is not for agents."""
        loop.add_signal_handler(signal.SIGTERM, self.on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self.on_sigint)

    def on_sigint(self) -> None:
        """Nothing: the engine decides."""

    def on_sigterm(self) -> None:
        """Drain, or end at once where it drains already."""
        if self.draining:
            self.on_second_sigterm()
        else:
            self.drain_task = asyncio.create_task(self.drain())

    def on_second_sigterm(self) -> None:
        """End at once."""
        self.quit(128 + signal.SIGTERM)

    async def drain(self) -> None:
        """Let what runs end, take nothing new, then go."""
        self.draining = True
        await self.tell_probes()
        idle = not self.executions.active
        for execution in list(self.executions.active.values()):
            await execution.ended.wait()
        await self.server.stop(2)
        self.clear()
        self.exit_status.set_result(self.status_after_drain(idle))

    def status_after_drain(self, idle: bool) -> int:
        """The exit status after SIGTERM; `idle` says that there was nothing to wait for."""
        return 0

    def watch_stdin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait in a thread until the engine is gone."""
        while os.read(sys.stdin.fileno(), 4096):
            pass
        loop.call_soon_threadsafe(self.on_stdin_end)

    def on_stdin_end(self) -> None:
        """The engine is gone: so shall this."""
        self.quit(0)

    def quit(self, status: int) -> NoReturn:
        """End at once, with all that was started."""
        self.clear()
        sys.stderr.flush()
        os._exit(status)

    def clear(self) -> None:
        """Leave no process and no half-written file behind."""
        self.work.release_all()
        self.payloads.remove_temporary()

    # --- every call

    async def authenticate(self, request: Any, context: Any) -> None:
        """Refuse who does not know the token."""
        given = dict(context.invocation_metadata()).get("authorization")
        if not self.is_authentic(given):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "metadata authorization: Bearer TOKEN is required")

    def is_authentic(self, given: str | None) -> bool:
        """Whether the metadata is right, compared in constant time."""
        return hmac.compare_digest((given or "").encode(), f"Bearer {self.token}".encode())

    # --- Health

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        """Who this is, and whether it can take work."""
        await self.authenticate(request, context)
        return await self.health()

    async def health(self) -> pb.HealthResponse:
        """The answer."""
        return pb.HealthResponse(
            status=self.status(),
            message="loading" if not self.loaded else "",
            manifest=self.manifest(),
            capacity=self.capacity,
            in_flight=self.in_flight(),
        )

    def status(self) -> pb.HealthStatus:
        """Whether it can take work."""
        if self.draining:
            return pb.HEALTH_STATUS_DRAINING
        return pb.HEALTH_STATUS_SERVING if self.loaded else pb.HEALTH_STATUS_STARTING

    def in_flight(self) -> int:
        """Executions that go on."""
        return len(self.executions.active)

    def manifest(self) -> pb.Manifest:
        """Who this is."""
        actions = [action.message() for action in self.work.actions.values()]
        return pb.Manifest(name="reference", language="python", version="1", protocol_versions=[1], actions=actions)

    def probes_status(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        """What stock probes are told: the same as Health says."""
        if self.status() == pb.HEALTH_STATUS_SERVING:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING

    def probes_services(self) -> tuple[str, ...]:
        """The names that stock probes may ask for."""
        return SERVICES

    async def tell_probes(self) -> None:
        """Have stock probes told what Health says now."""
        for service in self.probes_services():
            await self.probes.set(service, self.probes_status())

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
        remaining_s = seconds(request, "deadline", float("inf")) - time.time()
        if self.is_past(remaining_s):
            self.executions.finish(execution, failed(self.too_late()))
            return execution
        execution.work = asyncio.create_task(self.perform(execution))
        execution.work.add_done_callback(lambda work: self.on_work_done(execution, work))
        if remaining_s < float("inf"):
            loop = asyncio.get_running_loop()
            execution.deadline = loop.call_later(max(remaining_s, 0), self.on_deadline, execution)
        return execution

    def is_past(self, remaining_s: float) -> bool:
        """Whether the deadline is over before anything began."""
        return remaining_s <= 0

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
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=self.count(first))

    def count(self, first: bool) -> int:
        """What a cancellation of one execution counts, by whether it is the first."""
        return int(first)

    def on_cancel_unknown(self, target: str) -> pb.CancelResponse:
        """Nothing is known of it, and nothing is remembered of having been asked."""
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)

    def on_cancel_finished(self, execution: Execution) -> pb.CancelResponse:
        """It has ended; its result stays."""
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_ALREADY_FINISHED)

    async def cancel_run(self, run_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        """Tell all of a run to end, release what is held, and answer once all that is done."""
        executions = self.executions.of_run(run_id)
        if not executions and not self.work.held.get(run_id):
            return self.on_cancel_unknown(run_id)
        told = sum(self.executions.tell_to_end(execution, why, grace_s) for execution in executions)
        released = await self.work.in_thread(self.work.release, run_id)
        for execution in executions:
            await execution.ended.wait()
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=told + released)
