"""One attempt on its way through the factory: where it is, and how it is made to end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from noa.model.execution import Assignment
from noa.model.failure import Failure
from noa.plugin import AgentConnection, Observe

if TYPE_CHECKING:
    from noa.orchestration.pool import Pool
    from noa.orchestration.resources import ResourceLedger

__all__ = ["Attempt"]


class Attempt:
    """One `AgentFactory.execute` that goes on.

    A verdict (cancelled, timed out) ends it: the agent is told, and `force` takes the attempt away from it where it
    does not obey. `execute` then answers with the verdict, whatever the agent said.

    Attributes:
        connection: The replica's connection that works on it; None while it queues.
        ticket_wanted: The ledger whose grant it waits for.
        pool: The agent's pool while it waits for, or has, a replica.
        since: Monotonic seconds at which its present phase began.
        verdict: What it must end with, once that was decided.
        forced: How often `force` cancelled the task; undone by `settle`.
        over: Whether `execute` has its outcome.
    """

    __slots__ = (
        "_ended", "assignment", "connection", "forced", "ledger", "observe", "over", "pool", "queue_until", "since",
        "stopping", "task", "verdict",
    )  # fmt: skip

    def __init__(self, assignment: Assignment, observe: Observe, task: asyncio.Task[object]) -> None:
        self.assignment = assignment
        self.observe = observe
        self.task = task
        self.connection: AgentConnection | None = None
        self.ledger: ResourceLedger | None = None
        self.pool: Pool | None = None
        self.since = time.monotonic()
        self.queue_until: float | None = None
        self.verdict: Failure | None = None
        self.stopping: asyncio.Task[None] | None = None
        self.forced = 0
        self.over = False
        self._ended: asyncio.Future[None] | None = None

    def force(self) -> None:
        """Take the attempt away from whatever it waits for, now."""
        if not self.task.done():
            self.forced += 1
            self.task.cancel()

    def settle(self) -> bool:
        """Undo the cancellations that `force` made. Whether somebody else cancelled the task too."""
        left = self.task.cancelling()
        while self.forced:
            self.forced -= 1
            left = self.task.uncancel()
        return left > 0

    def end(self) -> None:
        """Tell who waits in `wait_ended`."""
        self.over = True
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def wait_ended(self) -> None:
        """Wait until `execute` has its outcome."""
        if self.over:
            return
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._ended)

    def describe(self) -> str:
        """What it waits for, as a sentence for a person."""
        if self.ledger is not None:
            return f"waits for {self.ledger.blocking(self.assignment.resources)}"
        if self.connection is not None:
            return (
                f"agent '{self.assignment.agent}' works on '{self.assignment.action}' for "
                f"{time.monotonic() - self.since:.0f} s"
            )
        return self.pool.describe_wait() if self.pool is not None else ""
