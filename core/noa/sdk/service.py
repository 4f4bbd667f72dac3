"""The three calls of the contract, from the serving loop's side. What an action does happens in the workshop."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc
from noa.model.failure import Failure
from noa.sdk.executions import Execution, ExecutionTable
from noa.sdk.wire import failed, manifest_of
from noa.sdk.workshop import Outbox, Workshop

__all__ = ["AgentService"]

_ACCEPTED = pb.ExecuteResponse(accepted=pb.Accepted(joined=False))
_JOINED = pb.ExecuteResponse(accepted=pb.Accepted(joined=True))
_HEARTBEAT = pb.ExecuteResponse(heartbeat=pb.Heartbeat())
_EXECUTION_ID_BYTES = 512
_HEARTBEAT_S = 5.0
_GRACE_S = 5.0
_WORK_SHARE = 0.8
"""Part of a run's grace for its executions; the rest is for giving up what else is held."""
_RELEASE_S = 0.25
"""How long a release is waited for at the least, so that a short grace too learns what was held."""
_RETRY_AFTER_MS = 1000
_STATUS = {
    "starting": pb.HEALTH_STATUS_STARTING,
    "serving": pb.HEALTH_STATUS_SERVING,
    "draining": pb.HEALTH_STATUS_DRAINING,
    "not_serving": pb.HEALTH_STATUS_NOT_SERVING,
}


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """Answers the engine.

    Args:
        workshop: Where the actions run.
        token: That every call must carry.
    """

    def __init__(self, workshop: Workshop, token: str) -> None:
        self.table = ExecutionTable()
        self.draining = False
        self._workshop = workshop
        self._authorization = f"Bearer {token}".encode()
        self._manifest = manifest_of(workshop.runner.describe())
        self._capacity = workshop.runner.agent.capacity
        self._releases: dict[str, asyncio.Future[int]] = {}

    @property
    def status(self) -> str:
        """What Health says: starting, serving, draining or not_serving."""
        return "draining" if self.draining else self._workshop.runner.describe().status

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> AsyncIterator[pb.ExecuteResponse]:  # noqa: N802 - named by the contract
        """Execute an action, or join it, and stream what happens."""
        await self._authorize(context)
        for field in ("execution_id", "run_id", "action"):
            if not getattr(request, field):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{field} is required")
        if len(request.execution_id.encode()) > _EXECUTION_ID_BYTES:
            text = f"execution_id has more than {_EXECUTION_ID_BYTES} bytes"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        # Nothing may wait from the look into the table until the feed listens, or a message would be missed.
        execution = self.table.find(request.execution_id)
        accepted = _JOINED
        if execution is None:
            accepted = _ACCEPTED
            refusal = self._refusal()
            if refusal is not None:
                yield accepted
                yield failed(refusal)
                return
            execution = self._begin(request)
        feed = execution.listen()
        try:
            yield accepted
            heartbeat_s = _seconds(request, "heartbeat_interval") or _HEARTBEAT_S
            message = None
            while message is None or message is not feed.terminal:
                message = feed.take()
                if message is None:
                    await feed.wait(heartbeat_s)
                    message = feed.take() or _HEARTBEAT
                yield message
        finally:
            execution.feeds.remove(feed)

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        """Say who this is and whether it can take work."""
        await self._authorize(context)
        health = self._workshop.runner.describe()
        status = "draining" if self.draining else health.status
        return pb.HealthResponse(
            status=_STATUS[status],
            message=health.message,
            manifest=self._manifest,
            capacity=self._capacity,
            in_flight=self.table.working,
        )

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        """Cancel an execution, or release everything held for a run."""
        await self._authorize(context)
        target = request.WhichOneof("target")
        asked_s = _seconds(request, "grace")
        grace_s = _GRACE_S if asked_s is None else asked_s
        if target == "execution_id" and request.execution_id:
            return self._cancel_execution(request.execution_id, grace_s, request.reason)
        if target == "run_id" and request.run_id:
            return await self._release_run(request.run_id, grace_s, request.reason)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "execution_id or run_id is required")
        raise AssertionError("abort raises")

    async def _authorize(self, context: Any) -> None:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                given = value.encode() if isinstance(value, str) else value
                if hmac.compare_digest(given, self._authorization):
                    return
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED, "metadata 'authorization: Bearer TOKEN' is missing or wrong"
        )

    def _refusal(self) -> Failure | None:
        name = self._manifest.name
        status = self.status
        if status != "serving":
            why = f"agent '{name}' is {status.replace('_', ' ')} and takes no new work"
        elif self._capacity and self.table.working >= self._capacity:
            why = f"agent '{name}' has {self.table.working} executions, its capacity is {self._capacity}"
        else:
            return None
        return Failure(code="OVERLOADED", message=why, retryable=True, retry_after_ms=_RETRY_AFTER_MS, source=name)

    def _begin(self, request: pb.ExecuteRequest) -> Execution:
        loop = asyncio.get_running_loop()
        execution = self.table.begin(request.execution_id, request.run_id)
        deadline_s = None
        if request.HasField("deadline"):
            deadline_s = request.deadline.ToMilliseconds() / 1000
            left_s = deadline_s - time.time()
            if left_s <= 0:
                self._expire(execution, begun=False)
                return execution
            execution.deadline = loop.call_later(left_s, self._expire, execution)
        self._workshop.begin(request, deadline_s, Outbox(loop, execution.publish, partial(self._end, execution)))
        return execution

    def _end(self, execution: Execution, terminal: pb.ExecuteResponse) -> None:
        if execution.told is not None and terminal.failed.failure.code != execution.told.code:
            terminal = failed(execution.told)  # its end and the word to end have crossed
        self.table.stopped(execution)
        self.table.finish(execution, terminal, now_s=time.monotonic())

    def _expire(self, execution: Execution, *, begun: bool = True) -> None:
        message = "the deadline passed while the work was going on" if begun else "the deadline had passed already"
        failure = Failure(code="DEADLINE_EXCEEDED", message=message, retryable=True, source=self._manifest.name)
        execution.told = execution.told or failure  # what was cancelled before stays so
        self.table.finish(execution, failed(execution.told), now_s=time.monotonic())
        if begun:
            self._abandon_at(execution, _GRACE_S)
            self._workshop.cancel_soon(execution.execution_id, _GRACE_S, "its deadline passed")
        else:
            self.table.stopped(execution)

    def _cancel_execution(self, execution_id: str, grace_s: float, reason: str) -> pb.CancelResponse:
        execution = self.table.find(execution_id)
        if execution is None:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)
        if execution.terminal is not None:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_ALREADY_FINISHED)
        first = self._tell(execution, grace_s, reason)
        self._workshop.cancel_soon(execution_id, grace_s, reason)
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=int(first))

    async def _release_run(self, run_id: str, grace_s: float, reason: str) -> pb.CancelResponse:
        work_s = grace_s * _WORK_SHARE
        executions = self.table.of_run(run_id)
        told = sum(self._tell(execution, work_s, reason) for execution in executions)
        names = [execution.execution_id for execution in executions]
        before = self._releases.get(run_id)
        release = asyncio.ensure_future(self._workshop.call(self._workshop.release(run_id, names, work_s, reason)))
        self._releases[run_id] = release
        release.add_done_callback(partial(self._released, run_id))
        await asyncio.wait([release], timeout=max(grace_s, _RELEASE_S))
        if release.done():
            held = release.result()
            # Two releases of a run follow each other, so the one before has ended too.
            found = bool(executions) or held > 0 or (before is not None and before.result() > 0)
        else:
            # It still gives something up; what that is was told by the release before, if there is one.
            can_hold = self._workshop.runner.can_hold
            held = int(can_hold and before is None)
            found = bool(executions) or can_hold
        outcome = pb.CANCEL_OUTCOME_CANCELLED if found else pb.CANCEL_OUTCOME_UNKNOWN
        return pb.CancelResponse(outcome=outcome, cancelled=told + held)

    def _released(self, run_id: str, release: asyncio.Future[int]) -> None:
        if self._releases.get(run_id) is release:
            del self._releases[run_id]

    def _tell(self, execution: Execution, grace_s: float, reason: str) -> bool:
        """Note that an execution is told to end; whether it had not been told before. The first reason stays."""
        first = execution.told is None
        if first:
            text = f"the execution was cancelled: {reason}" if reason else "the execution was cancelled"
            execution.told = Failure(code="CANCELLED", message=text, source=self._manifest.name)
        self._abandon_at(execution, grace_s)
        return first

    def _abandon_at(self, execution: Execution, grace_s: float) -> None:
        """End the stream of an execution whose code does not end by itself, also where it blocks its loop."""
        asyncio.get_running_loop().call_later(grace_s, self._abandon, execution)

    def _abandon(self, execution: Execution) -> None:
        execution.abandoned = True
        if execution.terminal is None and execution.told is not None:
            message = f"{execution.told.message}; its code did not end within the grace"
            failure = Failure(code=execution.told.code, message=message, source=self._manifest.name)
            self.table.finish(execution, failed(failure), now_s=time.monotonic())


def _seconds(request: Any, field: str) -> float | None:
    """A duration of a request, at least 0; None where it is unset."""
    if not request.HasField(field):
        return None
    value: float = getattr(request, field).ToMilliseconds() / 1000
    return max(0.0, value)
