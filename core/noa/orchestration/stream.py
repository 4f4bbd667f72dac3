"""One execution's stream as the engine reads it: observations on, the first terminal message out, silence noticed."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc.aio import AioRpcError

from noa.agent.v1 import agent_service_pb2 as pb
from noa.errors import AgentProtocolError, NoaError
from noa.model.execution import Assignment, Outcome
from noa.model.failure import Failure
from noa.orchestration.wire import from_completed, from_failure, from_log, from_output, from_progress
from noa.plugin import ArtifactStore, Observe

__all__ = ["ExecutionStream", "StreamBroken"]

_PROGRESS_INTERVAL_S = 0.05
"""Progress that comes faster is read and dropped; the latest is always passed on."""

_PACE_BYTES_PER_S = 16 * 1024 * 1024
"""Logs and pieces of output that come faster wait in the agent: who watches could not follow, and who keeps them would
have to hold what the disk does not take as fast. Large results are artifacts."""

_END_WAIT_S = 0.5
"""How long a stream may stay open after its terminal message."""


class StreamBroken(Exception):
    """The call failed with a gRPC status before a terminal message. Never leaves this package.

    Attributes:
        accepted: Whether the agent had accepted the execution before.
    """

    def __init__(self, code: grpc.StatusCode, details: str | None, *, accepted: bool = False) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details
        self.accepted = accepted


class ExecutionStream:
    """Reads the stream of one execution.

    Args:
        assignment: What was asked.
        observe: Takes what is seen.
        artifacts: Where outputs by reference lie.
    """

    __slots__ = ("_accepted", "_artifacts", "_call", "_ended_at", "_flush", "_heard", "_loop", "_observe", "_owed",
                 "_paced_at", "_progress", "_silence", "_stop", "_told", "assignment")  # fmt: skip

    def __init__(self, assignment: Assignment, observe: Observe, artifacts: ArtifactStore) -> None:
        self.assignment = assignment
        self._observe = observe
        self._artifacts = artifacts
        self._loop = asyncio.get_running_loop()
        self._call: Any = None
        self._stop: NoaError | Failure | None = None
        self._progress: pb.Progress | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._silence: asyncio.TimerHandle | None = None
        self._told = 0.0
        self._heard = 0.0
        self._ended_at = 0.0
        self._accepted = False
        self._owed = 0.0
        self._paced_at = self._loop.time()

    def hang_up(self) -> None:
        """Close a stream that stays open long after its terminal message; for a look at all streams now and then."""
        if self._ended_at and self._call is not None and self._loop.time() - self._ended_at > _END_WAIT_S:
            self._call.cancel()

    def stop(self, why: NoaError | Failure) -> None:
        """End the reading: `read` raises the error or returns the failure."""
        if self._stop is None:
            self._stop = why
        if self._call is not None:
            self._call.cancel()

    async def read(self, call: Any) -> Outcome:
        """Read until the terminal message.

        Args:
            call: The `Execute` call that was just made.

        Raises:
            StreamBroken: The call failed; the execution may go on in the agent.
            AgentProtocolError: The stream ended without a result, or with one that the contract forbids.
            ArtifactError: The output is an artifact that is missing or damaged.
            NoaError: What `stop` was told.
        """
        self._call = call
        self._accepted = False
        if self._stop is not None:
            return self._stopped()
        limit_ms = self.assignment.timeouts.heartbeat_ms
        if limit_ms is not None:
            self._heard = self._loop.time()
            self._silence = self._loop.call_later(limit_ms / 1000, self._check_silence, limit_ms / 1000)
        try:
            terminal = await self._until_terminal(call)
        except asyncio.CancelledError:
            # Raised both when this task is cancelled and when `stop` cancelled the call.
            task = asyncio.current_task()
            if self._stop is None or (task is not None and task.cancelling()):
                raise
            return self._stopped()
        except AioRpcError as error:
            raise StreamBroken(error.code(), error.details(), accepted=self._accepted) from error
        except AgentProtocolError:
            call.cancel()
            raise
        finally:
            self._call = None
            if self._silence is not None:
                self._silence.cancel()
            if self._progress is not None:
                self._pass_on()
            if self._flush is not None:
                self._flush.cancel()
        if terminal is None:
            raise AgentProtocolError(f"{self.what}: the stream ended without `completed` or `failed`")
        if terminal.WhichOneof("event") == "failed":
            return from_failure(terminal.failed.failure, self.assignment.agent)
        return await from_completed(terminal.completed, self._artifacts, self.what)

    @property
    def silent(self) -> bool:
        """Whether it was ended because nothing was heard."""
        return isinstance(self._stop, Failure)

    @property
    def what(self) -> str:
        """Who was asked what, for errors."""
        return f"agent '{self.assignment.agent}', action '{self.assignment.action}'"

    async def _until_terminal(self, call: Any) -> pb.ExecuteResponse | None:
        """The first terminal message; the stream is then read to its end, which closes the call in order."""
        terminal: pb.ExecuteResponse | None = None
        timed = self._silence is not None
        try:
            async for message in call:
                if timed:
                    self._heard = self._loop.time()
                if message is None:
                    raise AgentProtocolError(f"{self.what}: the stream carried bytes that are not an ExecuteResponse")
                kind = message.WhichOneof("event")
                if kind == "accepted":
                    self._accepted = True
                    continue
                if terminal is not None:
                    continue
                if not self._accepted and kind is not None:
                    raise AgentProtocolError(
                        f"{self.what}: the stream began with `{kind}`; `accepted` must be its first message "
                        "(agents/CONTRACT.md, Execute)"
                    )
                if kind in {"completed", "failed"}:
                    terminal = message
                    self._ended_at = self._loop.time()
                else:
                    self._see(kind, message)
                    if kind in {"log", "output"}:
                        await self._pace(message.ByteSize())
        except (AioRpcError, asyncio.CancelledError):
            # How the stream ends does not matter once the result is here; who cancelled this task does.
            task = asyncio.current_task()
            if terminal is None or (task is not None and task.cancelling()):
                raise
        return terminal

    async def _pace(self, size: int) -> None:
        """Wait where more came than the rate allows, with a burst of a second's worth."""
        self._owed += size
        if self._owed <= _PACE_BYTES_PER_S:
            return
        now = self._loop.time()
        self._owed = max(0.0, self._owed - (now - self._paced_at) * _PACE_BYTES_PER_S)
        self._paced_at = now
        if self._owed > _PACE_BYTES_PER_S:
            await asyncio.sleep(self._owed / _PACE_BYTES_PER_S - 1.0)

    def _see(self, kind: str | None, message: pb.ExecuteResponse) -> None:
        if kind == "progress":
            self._progress = message.progress
            if self._flush is None:
                self._see_progress()
        elif kind == "log":
            self._observe(from_log(message.log))
        elif kind == "output":
            self._observe(from_output(message.output))

    def _see_progress(self) -> None:
        left = self._told + _PROGRESS_INTERVAL_S - self._loop.time()
        if left <= 0:
            self._pass_on()
        else:
            self._flush = self._loop.call_later(left, self._pass_on)

    def _pass_on(self) -> None:
        self._flush = None
        self._told = self._loop.time()
        progress, self._progress = self._progress, None
        if progress is not None:
            self._observe(from_progress(progress))

    def _check_silence(self, limit_s: float) -> None:
        left = self._heard + limit_s - self._loop.time()
        if left > 0.001:
            self._silence = self._loop.call_later(left, self._check_silence, limit_s)
            return
        self.stop(
            Failure(
                "HEARTBEAT_TIMEOUT",
                f"{self.what}: nothing was heard for {limit_s:g} s, not even a heartbeat",
                retryable=True,
                details={"agent": self.assignment.agent, "limit_ms": self.assignment.timeouts.heartbeat_ms},
            )
        )

    def _stopped(self) -> Failure:
        if isinstance(self._stop, Failure):
            return self._stop
        assert self._stop is not None
        raise self._stop
