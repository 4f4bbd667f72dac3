"""How many replicas of an agent are wanted, and by whom. Counts only: starting and ending them is the pool's."""

from __future__ import annotations

from dataclasses import dataclass

from noa.model.ids import RunId

__all__ = ["NOBODY", "Hold", "Holds"]

NOBODY = RunId("")
"""Stands for runs that are over: what they asked to stay, and what was started on their need."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What one run asked for. `keep`: it stays when the run is over."""

    replicas: int
    keep: bool = False


class Holds:
    """The wishes of runs about one agent.

    Holds do not add up: runs share replicas, and the largest wish counts. Replicas that were started because a task of
    a run needed them, and not because a run asked for them, are counted apart.

    Args:
        least: Replicas that the agent has as soon as anybody wants any.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._held: dict[RunId, Hold] = {}
        self._needed: dict[RunId, int] = {}

    def __contains__(self, run: RunId) -> bool:
        return run in self._held

    @property
    def held(self) -> dict[RunId, int]:
        """Replicas by run."""
        return {run: hold.replicas for run, hold in self._held.items()}

    @property
    def wanted(self) -> int:
        """How many replicas there should be; 0 where nobody wants any."""
        wishes = [*(hold.replicas for hold in self._held.values()), *self._needed.values()]
        return max(self._least, *wishes) if wishes else 0

    @property
    def least(self) -> int:
        """How many there must be as soon as a task needs one."""
        return max(self._least, *(hold.replicas for hold in self._held.values()), 1)

    def of(self, run: RunId) -> Hold | None:
        """What a run holds."""
        return self._held.get(run)

    def hold(self, run: RunId, hold: Hold | None) -> None:
        """Replace what a run holds; None for nothing."""
        if hold is None:
            self._held.pop(run, None)
        else:
            self._held[run] = hold

    def need(self, run: RunId, replicas: int) -> None:
        """So many were started because a task of this run needed one."""
        self._needed[run] = max(replicas, self._needed.get(run, 0))

    def need_at_most(self, replicas: int) -> None:
        """Fewer do for what the tasks of runs need; with 0 they need none now."""
        self._needed = {run: min(needed, replicas) for run, needed in self._needed.items()} if replicas else {}

    def need_no_more(self, run: RunId) -> None:
        """What was started on the need of this run is not needed by it any more."""
        self._needed.pop(run, None)

    def over(self, run: RunId) -> None:
        """A run is over: what it held ends unless it is kept; what its tasks needed stays for the next."""
        hold = self._held.pop(run, None)
        if hold is not None and hold.keep:
            before = self._held.get(NOBODY, hold)
            self._held[NOBODY] = max(hold, before, key=lambda one: one.replicas)
        needed = self._needed.pop(run, 0)
        if needed:
            self.need(NOBODY, needed)
