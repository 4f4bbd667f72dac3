"""How long attempts took in this process, by agent and action; what a hedge is timed by."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["Durations"]

_KEPT = 200


class Durations:
    """The latest durations of attempts that succeeded, shared by all runs of an engine."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], deque[int]] = {}

    def add(self, agent: str, action: str, duration_ms: int) -> None:
        """Note one."""
        key = (agent, action)
        found = self._taken.get(key)
        if found is None:
            found = self._taken[key] = deque(maxlen=_KEPT)
        found.append(duration_ms)

    def of(self, agent: str, action: str) -> Sequence[int]:
        """The latest 200, shortest first."""
        return sorted(self._taken.get((agent, action), ()))
