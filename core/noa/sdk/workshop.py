"""The thread in which a sidecar's actions run, apart from the event loop that serves gRPC.

An action that burns the processor or blocks its event loop delays other actions of the agent, never Health or Cancel.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import payload_pb2
from noa.errors import ArtifactError
from noa.model.execution import Log, Observation, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.model.payload import INLINE_LIMIT_BYTES
from noa.sdk.artifacts import Artifacts
from noa.sdk.runner import ActionRunner
from noa.sdk.threads import ThreadPool
from noa.sdk.wire import artifact_of, assignment_of, failed, observed, payload_of

__all__ = ["Outbox", "Workshop"]

log = logging.getLogger("noa.sdk")
_OUTBOX_MESSAGES = 1000
_FILES_THREADS = 4
_CANCELLED = Failure(code="CANCELLED", message="the execution was cancelled before it began")


class Outbox:
    """Takes messages of one execution from the workshop's thread to the serving loop, in batches and bounded.

    Args:
        serving: The loop that serves gRPC.
        publish: Called there with each message and its size.
        finish: Called there last, with the terminal message.
    """

    __slots__ = ("_dropped", "_finish", "_messages", "_publish", "_scheduled", "_serving")

    def __init__(
        self,
        serving: asyncio.AbstractEventLoop,
        publish: Callable[[pb.ExecuteResponse, int], None],
        finish: Callable[[pb.ExecuteResponse], None],
    ) -> None:
        self._serving = serving
        self._publish = publish
        self._finish = finish
        self._messages: deque[tuple[pb.ExecuteResponse, int]] = deque(maxlen=_OUTBOX_MESSAGES)
        self._scheduled = False
        self._dropped = 0

    def observe(self, observation: Observation) -> None:
        """Send an observation. On the workshop's thread."""
        for message in observed(observation):
            self._dropped += len(self._messages) == _OUTBOX_MESSAGES
            self._messages.append((message, message.ByteSize()))
        if not self._scheduled:
            self._scheduled = True
            self._serving.call_soon_threadsafe(self._flush)

    def end(self, terminal: pb.ExecuteResponse) -> None:
        """Send the terminal message. On the workshop's thread."""
        self._serving.call_soon_threadsafe(self._end, terminal)

    def _flush(self) -> None:
        self._scheduled = False
        messages = self._messages
        dropped, self._dropped = self._dropped, 0
        if dropped:
            notice = Log("warning", f"{dropped} observations were dropped: they came faster than they were sent")
            for message in observed(notice):
                self._publish(message, message.ByteSize())
        while messages:
            self._publish(*messages.popleft())

    def _end(self, terminal: pb.ExecuteResponse) -> None:
        self._flush()
        self._finish(terminal)


class Workshop:
    """Runs the actions of one agent on an event loop of their own in a daemon thread."""

    def __init__(self, runner: ActionRunner) -> None:
        self.runner = runner
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Reading and writing payloads must not wait behind actions that fill the actions' pool.
        self._files = ThreadPool(_FILES_THREADS, f"noa-{runner.agent.name}-payloads")
        self._thread = threading.Thread(target=self._run, name=f"noa-{runner.agent.name}-actions", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except BaseException:  # an action raised KeyboardInterrupt or the like, which asyncio lets through
                log.exception("an action ended its event loop; it goes on")

    async def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the workshop and wait for it from the serving loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    def begin(self, request: pb.ExecuteRequest, deadline_s: float | None, outbox: Outbox) -> None:
        """Begin an execution. From any thread."""
        self._loop.call_soon_threadsafe(self._begin, request, deadline_s, outbox)

    def cancel_soon(self, execution_id: str, grace_s: float, reason: str) -> None:
        """Cancel an execution without waiting for its end. From any thread."""
        asyncio.run_coroutine_threadsafe(self.cancel(execution_id, grace_s, reason), self._loop)

    async def cancel(self, execution_id: str, grace_s: float, reason: str) -> None:
        """Cancel an execution and wait for its end, at most the grace. In the workshop."""
        name = ExecutionId(execution_id)
        if self.runner.has(name):
            await self.runner.cancel(execution=name, grace_s=grace_s, reason=reason)
        elif (task := self._tasks.get(execution_id)) is not None:
            task.cancel()  # it still reads its inputs or writes its outputs
            await asyncio.wait({task}, timeout=grace_s)

    async def release(self, run_id: str, executions: Sequence[str], grace_s: float, reason: str) -> int:
        """End these executions of a run, each at most the grace after it was told, then give up what else is held for
        the run; the count of the latter. In the workshop."""
        await asyncio.gather(*(self.cancel(one, grace_s, reason) for one in executions))
        return await self.runner.cancel(run=RunId(run_id), grace_s=grace_s, reason=reason)

    async def cancel_all(self, grace_s: float, reason: str) -> None:
        """Cancel every execution. In the workshop."""
        await asyncio.gather(*(self.cancel(one, grace_s, reason) for one in list(self._tasks)))

    def cancel_all_and_wait(self, grace_s: float, reason: str) -> None:
        """Cancel every execution from a thread that has no event loop; returns after the grace at the latest."""
        done = threading.Event()
        future = asyncio.run_coroutine_threadsafe(self.cancel_all(grace_s, reason), self._loop)
        future.add_done_callback(lambda _: done.set())
        done.wait(grace_s)

    def _begin(self, request: pb.ExecuteRequest, deadline_s: float | None, outbox: Outbox) -> None:
        task = self._loop.create_task(self._execute(request, deadline_s, outbox))
        self._tasks[request.execution_id] = task
        task.add_done_callback(partial(self._ended, request.execution_id, outbox))

    def _ended(self, execution_id: str, outbox: Outbox, task: asyncio.Task[None]) -> None:
        if self._tasks.get(execution_id) is task:
            del self._tasks[execution_id]
        if task.cancelled():
            outbox.end(failed(_CANCELLED))
        elif (error := task.exception()) is not None:
            log.error("%s failed outside its action", execution_id, exc_info=error)
            outbox.end(failed(Failure(code="INTERNAL", message=f"{type(error).__name__}: {error}")))

    async def _execute(self, request: pb.ExecuteRequest, deadline_s: float | None, outbox: Outbox) -> None:
        inputs = await self._inputs(request)
        if isinstance(inputs, Failure):
            outbox.end(failed(inputs))
            return
        began_s = time.perf_counter()
        outcome = await self.runner.execute(
            assignment_of(request, self.runner.agent.name, inputs),
            observe=outbox.observe,
            artifact_prefix=request.artifact_prefix,
            deadline_s=deadline_s,
        )
        outbox.end(await self._terminal(outcome, request.artifact_prefix, time.perf_counter() - began_s))

    async def _inputs(self, request: pb.ExecuteRequest) -> dict[str, Any] | Failure:
        payload = request.input
        kind = payload.WhichOneof("value")
        if kind is None or (kind == "inline" and not payload.inline):
            return {}
        if payload.content_type.partition(";")[0].strip() not in {"", "application/json"}:
            return _invalid(f"content type is {payload.content_type!r}, expected application/json")
        try:
            data = payload.inline
            if kind == "artifact":
                read = partial(Artifacts(request.artifact_prefix).read, artifact_of(payload.artifact))
                data = await self._files.run(read)
            value = msgspec.json.decode(data)
        except ArtifactError as error:
            return Failure.of(error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _invalid(f"not JSON: {error}")
        if not isinstance(value, dict):
            return _invalid(f"expected a JSON object, got {type(value).__name__}")
        return value

    async def _terminal(self, outcome: Outcome, prefix: str, took_s: float) -> pb.ExecuteResponse:
        if isinstance(outcome, Failure):
            return failed(outcome)
        completed = pb.Completed()
        completed.metrics.wall_time.FromNanoseconds(int(took_s * 1e9))
        completed.metrics.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for name, figure in outcome.metrics.items():
            completed.metrics.values[name] = figure
        if outcome.outputs:
            payload = await self._payload(msgspec.json.encode(outcome.outputs), prefix)
            if isinstance(payload, Failure):
                return failed(payload)
            completed.output.CopyFrom(payload)
        return pb.ExecuteResponse(completed=completed)

    async def _payload(self, data: bytes, prefix: str) -> payload_pb2.Payload | Failure:
        if len(data) <= INLINE_LIMIT_BYTES:
            return payload_pb2.Payload(content_type="application/json", inline=data)
        if not prefix:
            return Failure(
                code="PAYLOAD_TOO_LARGE",
                message=f"outputs have {len(data)} bytes; above {INLINE_LIMIT_BYTES} they go by reference, but the "
                "engine gave no artifact_prefix",
            )
        try:
            create = partial(Artifacts(prefix).create, data, "application/json")
            return payload_of(await self._files.run(create))
        except ArtifactError as error:
            return Failure.of(error)


def _invalid(what: str) -> Failure:
    return Failure(code="INVALID_INPUT", message=f"field 'input': {what}", details={"field": "input"})
