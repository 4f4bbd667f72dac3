"""The three calls of the contract over grpc.aio: what sidecars and remote agents share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc
from grpc.aio import AioRpcError, Channel

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc
from noa.errors import AgentLostError, AgentMismatchError, AgentProtocolError, AgentStartError, NoaError
from noa.model.execution import Assignment, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.orchestration.stream import ExecutionStream, StreamBroken
from noa.orchestration.wire import MESSAGE_LIMIT_BYTES, PROTOCOL_VERSION, from_health, from_status, to_request
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentHealth, Observe

__all__ = ["GrpcConnection", "channel_options"]

log = logging.getLogger("noa.orchestration")

_HEALTH_TIMEOUT_S = 3.0
_SWEEP_S = 0.5
_POLL_FIRST_S = 0.01
_POLL_S = 0.05
_NOT_CONNECTED = "failed to connect to all addresses"
"""How gRPC's details begin where a call found no connection, so that nothing of it was sent."""


def channel_options(*extra: tuple[str, Any]) -> Sequence[tuple[str, Any]]:
    """Options of every channel: message limits, no proxy, quick reconnection."""
    return (
        ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        *extra,
    )


class GrpcConnection(AgentConnection):
    """One replica that speaks the contract over a channel. Subclasses open the channel and end what is behind it.

    Args:
        declaration: Of the agent.
        replica: Which one.
        context: What the connection may use.
    """

    def __init__(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> None:
        self._declaration = declaration
        self._name = declaration.name
        self._replica = replica
        self._context = context
        self._artifacts = context.artifacts
        self._channel: Channel | None = None
        self._stub: Any = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._streams: set[ExecutionStream] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._lost: str | None = None
        self._closed = False
        self._interval_s = float(declaration.options.get("health_interval_s", 2.0))
        self._silence_s = float(declaration.options.get("health_silence_s", 5.0))

    # --- the three calls ---------------------------------------------------------------------------------------

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """Do the work, or join it. A stream that breaks while the agent lives is joined again, once."""
        request = await to_request(assignment, self._artifacts)
        stream = ExecutionStream(assignment, observe, self._artifacts)
        if self._lost is not None or self._stub is None:
            raise self._unsent_error(stream.what)
        self._streams.add(stream)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._hang_up)
        try:
            outcome = await stream.read(self._stub.Execute(request, metadata=self._metadata))
            if stream.silent:
                self._spawn(self._cancel_unheard(assignment.execution_id, "heartbeat timeout"))
            return outcome
        except AgentProtocolError:
            self._spawn(self._cancel_unheard(assignment.execution_id, "the answer broke the contract"))
            raise
        except StreamBroken as broken:
            return await self._broken(stream, broken, request)
        finally:
            self._streams.discard(stream)

    async def _broken(self, stream: ExecutionStream, broken: StreamBroken, request: pb.ExecuteRequest) -> Outcome:
        meaning = from_status(broken.code, broken.details, stream.what, accepted=broken.accepted)
        if isinstance(meaning, Failure):
            return meaning
        if not isinstance(meaning, AgentLostError):
            raise meaning from broken
        if not await self._alive():
            if self._lost is not None and not broken.accepted and (broken.details or "").startswith(_NOT_CONNECTED):
                raise self._unsent_error(stream.what) from broken
            raise self._lost_error(stream.what, broken) from broken
        log.warning("%s: the stream broke (%s), the agent lives: joining again", stream.what, broken.code.name)
        try:
            return await stream.read(self._stub.Execute(request, metadata=self._metadata))
        except StreamBroken as again:
            meaning = from_status(again.code, again.details, stream.what, accepted=again.accepted)
            if isinstance(meaning, Failure):
                return meaning
            raise meaning from again

    def _hang_up(self) -> None:
        # One timer for all streams: one for each would cost more than the rest of a short execution.
        self._sweep = None
        for stream in self._streams:
            stream.hang_up()
        if self._streams:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_S, self._hang_up)

    async def _cancel_unheard(self, execution: ExecutionId, reason: str) -> None:
        """Tell an agent that nobody waits for its answer any more, in case it hears."""
        try:
            await self.cancel(execution=execution, grace_s=1.0, reason=reason)
        except NoaError as error:
            log.info("cancelling %s: %s", execution, error)

    async def health(self) -> AgentHealth:
        """Ask Health once."""
        return await self._health(_HEALTH_TIMEOUT_S)

    async def _health(self, timeout_s: float) -> AgentHealth:
        if self._stub is None:
            raise self._lost_error(f"agent '{self._name}'")
        try:
            answer = await self._stub.Health(pb.HealthRequest(), metadata=self._metadata, timeout=timeout_s)
        except AioRpcError as error:
            raise self._call_error("Health", error) from error
        return from_health(answer)

    async def cancel(
        self, *, execution: ExecutionId | None = None, run: RunId | None = None, grace_s: float = 5.0, reason: str = ""
    ) -> int:
        """Cancel one execution, or release everything held for a run."""
        if self._stub is None:
            return 0
        request = pb.CancelRequest(reason=reason)
        if execution is not None:
            request.execution_id = execution
        elif run is not None:
            request.run_id = run
        # A little less than what is waited here, so that the agent's own answer comes first.
        request.grace.FromMilliseconds(int(grace_s * 800))
        try:
            answer = await self._stub.Cancel(request, metadata=self._metadata, timeout=max(grace_s, 0.1))
        except AioRpcError as error:
            raise self._call_error("Cancel", error) from error
        return int(answer.cancelled)

    async def close(self, *, grace_s: float = 5.0) -> None:
        """End the watch and the channel. Idempotent."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for stream in list(self._streams):
            stream.stop(self._lost_error(stream.what))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    # --- for subclasses ----------------------------------------------------------------------------------------

    def _open(self, channel: Channel, token: str) -> None:
        """Use a channel from now on; an empty token sends none."""
        self._channel = channel
        self._stub = pb_grpc.AgentServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    async def _until_serving(self, deadline: float, answer_by: float) -> AgentHealth:
        """Poll Health until it says serving.

        Args:
            deadline: Loop time by which it must serve.
            answer_by: Loop time by which it must have answered at all.

        Raises:
            AgentStartError: It did not, or says that it cannot work.
            AgentMismatchError: It speaks another version of the contract.
            AgentUnauthenticatedError: It refuses the token.
        """
        loop = asyncio.get_running_loop()
        pause_s, last = _POLL_FIRST_S, ""
        while True:
            try:
                health = await self._health(max(0.1, min(_HEALTH_TIMEOUT_S, deadline - loop.time())))
            except AgentLostError as error:
                last = await self._explain(error)
                limit = answer_by
            else:
                self._check_protocol(health)
                if health.status == "serving":
                    return health
                if health.status == "not_serving":
                    raise AgentStartError(f"agent '{self._name}' cannot work: {health.message or 'NOT_SERVING'}")
                last = f"Health says {health.status.upper()}" + (f": {health.message}" if health.message else "")
                limit = deadline
            if loop.time() + pause_s > limit:
                raise AgentStartError(f"agent '{self._name}' was not ready in time: {last}", agent=self._name)
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_S, pause_s * 1.5)

    async def _explain(self, error: AgentLostError) -> str:
        """Why it does not answer, as a sentence.

        Raises:
            AgentStartError: It never will, so that nobody need wait.
        """
        return f"it does not answer ({error.parts.get('status', 'no connection')})"

    def _check_protocol(self, health: AgentHealth) -> None:
        if PROTOCOL_VERSION not in health.protocol_versions:
            spoken = ", ".join(map(str, health.protocol_versions)) or "none"
            raise AgentMismatchError(
                f"agent '{self._name}' ({health.name} {health.version}) speaks protocol {spoken} of the agent "
                f"contract; this noa speaks {PROTOCOL_VERSION}. Update the older of the two",
                agent=self._name,
                permanent=True,
            )

    def _watch(self) -> None:
        """From now on take a long silence of Health for the agent's death."""
        self._spawn(self._watch_health())

    async def _watch_health(self) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                health = await self._health(max(0.1, self._silence_s - self._interval_s))
            except NoaError as error:
                silent_s = loop.time() - heard
                if silent_s >= self._silence_s - 0.01:
                    return self._lose(f"it did not answer Health for {silent_s:.1f} s ({error.message})")
                continue
            heard = loop.time()
            if health.status == "not_serving":
                return self._lose(f"Health says NOT_SERVING: {health.message or 'no reason given'}")
            self._context.on_health(health)
            if health.status == "draining" and not self._streams:
                return self._lose("Health says DRAINING, and nothing goes on in it any more")

    def _lose(self, reason: str) -> None:
        """The agent is gone for good: fail what goes on, and tell the supervisor. Once."""
        if self._lost is not None or self._closed:
            return
        self._lost = reason
        for stream in list(self._streams):
            stream.stop(self._lost_error(stream.what))
        self._context.on_lost(reason)

    async def _alive(self) -> bool:
        """Whether the agent answers, after a stream broke."""
        try:
            await self._health(1.0)
        except NoaError:
            return False
        return self._lost is None and not self._closed

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost_error(self, what: str, broken: StreamBroken | None = None) -> AgentLostError:
        status = f"the connection broke ({broken.code.name}: {broken.details})" if broken is not None else ""
        why = self._lost or status or "its connection was closed"
        return AgentLostError(
            f"{what}: the agent went away before the attempt ended: {why}. The attempt may have had effects",
            agent=self._name,
            replica=self._replica,
        )

    def _unsent_error(self, what: str) -> AgentLostError:
        """The work was never sent: who asked may ask elsewhere."""
        return AgentLostError(
            f"{what}: the agent went away before it was asked: {self._lost or 'nothing answers at its address'}. "
            "Nothing was executed",
            agent=self._name,
            replica=self._replica,
            unsent=True,
        )

    def _call_error(self, call: str, error: AioRpcError) -> NoaError:
        code: grpc.StatusCode = error.code()
        meaning = from_status(code, error.details(), f"agent '{self._name}', {call}")
        if isinstance(meaning, Failure):
            return AgentLostError(meaning.message, status=code.name)
        return meaning
