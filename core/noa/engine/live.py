"""A run that goes on in this process, as callers hold it."""

from __future__ import annotations

import asyncio

from noa.engine.run import LiveRun
from noa.engine.state import RunState
from noa.model.ids import RunId

__all__ = ["Running"]


class Running:
    """A run that is going on in this process."""

    def __init__(self, live: LiveRun, task: asyncio.Task[RunState]) -> None:
        self.live = live
        self.task = task

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self.live.run_id

    @property
    def state(self) -> RunState:
        """Its state now; read only."""
        return self.live.state

    async def wait(self) -> RunState:
        """Until it is over; its last state.

        Raises:
            JournalError: The store failed or another engine took the run over; it can be resumed.
        """
        return await asyncio.shield(self.task)

    async def cancel(self, *, actor: str = "", reason: str = "", signal: str = "") -> None:
        """Ask it to end; returns at once. Idempotent."""
        await self.live.cancel(actor=actor, reason=reason, signal=signal)
