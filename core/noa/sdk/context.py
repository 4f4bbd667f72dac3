"""What an action sees of its execution, usable from async code and from worker threads alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

from noa.model.execution import Assignment, Log, Observation, OutputChunk, Progress
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.plugin import Observe
from noa.sdk.artifacts import Artifacts, path_of_uri
from noa.sdk.failures import ActionCancelled, printable

__all__ = ["Context", "LogLevel"]

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_PENDING_LIMIT = 1000
"""Observations that a worker thread may be ahead of the event loop; older ones are dropped and counted."""


class Context:
    """One execution, as its action sees it.

    Args:
        assignment: What is asked.
        observe: Where observations go; called on the event loop's thread only.
        artifact_prefix: `file:///…/` below which artifacts are created.
        deadline_s: When the execution must have ended, in seconds since the epoch; None for never.
    """

    __slots__ = (
        "_artifact_prefix", "_assignment", "_cancelled", "_deadline_s", "_dropped", "_fraction", "_loop", "_observe",
        "_pending", "_reason", "_scheduled", "_thread", "_waiters",
    )  # fmt: skip

    def __init__(
        self, assignment: Assignment, observe: Observe, artifact_prefix: str, deadline_s: float | None = None
    ) -> None:
        self._assignment = assignment
        self._observe = observe
        self._artifact_prefix = artifact_prefix
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._cancelled = False
        self._reason = ""
        self._fraction = 0.0
        self._pending: deque[Observation] | None = None
        self._scheduled = False
        self._dropped = 0
        self._waiters: list[asyncio.Future[None]] | None = None

    @property
    def execution_id(self) -> ExecutionId:
        """Names this attempt."""
        return self._assignment.execution_id

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of the task: give it to services outside, so that an effect is made once."""
        return self._assignment.idempotency_key

    @property
    def run_id(self) -> RunId:
        """The run that the task belongs to."""
        return self._assignment.run_id

    @property
    def task(self) -> TaskPath:
        """The task in its run, such as `process/inference`."""
        return self._assignment.task

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._assignment.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the execution must have ended (UTC); None for never."""
        return None if self._deadline_s is None else datetime.fromtimestamp(self._deadline_s, UTC)

    @property
    def artifacts(self) -> Artifacts:
        """Makes and opens artifacts."""
        return Artifacts(self._artifact_prefix)

    @property
    def output_dir(self) -> Path:
        """Folder for files that a person will read; created on first use.

        Raises:
            OSError: It cannot be created.
        """
        uri = self._assignment.output_uri
        folder = path_of_uri(uri) if uri else Path.cwd() / ".noa" / "output" / self.run_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # --- observations ------------------------------------------------------------------------------------------

    def progress(
        self,
        fraction: float | None = None,
        *,
        done: int | None = None,
        total: int | None = None,
        unit: str = "",
        message: str = "",
    ) -> None:
        """Say how far the work is.

        Args:
            fraction: 0 to 1; computed from `done` and `total` where both are given. It never goes back.
            done: Units done.
            total: Units in all.
            unit: What a unit is, in the plural, such as "files".
            message: What is being done, for a person.
        """
        if fraction is None and done is not None and total:
            fraction = done / total
        if fraction is not None:
            # min before max: a NaN gives the last fraction.
            self._fraction = fraction = max(self._fraction, min(1.0, fraction))
        self._emit(Progress(fraction=fraction, message=printable(message), done=done, total=total, unit=unit))

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Write a line to the run's log."""
        self._emit(Log(level=level, message=printable(message.rstrip("\n")), at_ms=time.time_ns() // 1_000_000))

    def debug(self, message: str) -> None:
        """Write a line for finding a fault."""
        self.log(message, "debug")

    def info(self, message: str) -> None:
        """Write a line about a normal event."""
        self.log(message, "info")

    def warning(self, message: str) -> None:
        """Write a line about something to look at that did not stop the work."""
        self.log(message, "warning")

    def error(self, message: str) -> None:
        """Write a line about something that failed."""
        self.log(message, "error")

    def output(self, text: str) -> None:
        """Show a piece of output while it is made."""
        self._emit(OutputChunk(text=printable(text)))

    def _emit(self, observation: Observation) -> None:
        if threading.get_ident() == self._thread:
            self._observe(observation)
            return
        pending = self._pending
        if pending is None:
            pending = self._pending = deque(maxlen=_PENDING_LIMIT)
        if len(pending) == _PENDING_LIMIT:
            self._dropped += 1
        pending.append(observation)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                # The loop is closed: nobody is left who could see it.
                pending.clear()

    def _flush(self) -> None:
        """Hand over what worker threads said. On the loop's thread."""
        self._scheduled = False
        pending = self._pending
        if pending is None:
            return
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._observe(Log("warning", f"{dropped} observations were dropped: they came faster than they were read"))
        while pending:
            self._observe(pending.popleft())

    # --- cancellation ------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether the execution was asked to end. Actions in threads look at it between pieces of work."""
        return self._cancelled

    def check_cancelled(self) -> None:
        """Raise where the execution was asked to end.

        Raises:
            ActionCancelled: It was; leave it alone after cleaning up.
        """
        if self._cancelled:
            raise ActionCancelled(self._reason)

    async def wait_cancelled(self) -> None:
        """Wait until the execution is asked to end."""
        if self._cancelled:
            return
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        if self._cancelled:  # asked meanwhile by another thread
            return
        await waiter

    def _cancel(self, reason: str) -> None:
        """Ask the execution to end. On the loop's thread."""
        if not self._cancelled:
            self._reason = reason
            self._cancelled = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.get_loop().call_soon_threadsafe(_wake, waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
