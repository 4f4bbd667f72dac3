"""A clock that moves when told."""

from __future__ import annotations

import heapq
from collections.abc import Callable

__all__ = ["FakeClock"]


class _Call:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeClock:
    """Virtual time for an `Engine`; `advance` makes the calls that fall due, in order."""

    def __init__(self, now_ms: int = 1_000_000, jitter: float = 0.0) -> None:
        self._now_ms = now_ms
        self._jitter = jitter
        self._calls: list[tuple[int, int, _Call]] = []
        self._order = 0

    def now_ms(self) -> int:
        return self._now_ms

    def random(self) -> float:
        return self._jitter

    def call_at(self, due_ms: int, call: Callable[[], None]) -> _Call:
        made = _Call(call)
        self._order += 1
        heapq.heappush(self._calls, (due_ms, self._order, made))
        return made

    @property
    def next_due_ms(self) -> int | None:
        """When the next call falls due, or None."""
        while self._calls and self._calls[0][2].call is None:
            heapq.heappop(self._calls)
        return self._calls[0][0] if self._calls else None

    def advance(self, ms: int) -> None:
        """Move time on and make the calls that fall due."""
        until = self._now_ms + ms
        while (due := self.next_due_ms) is not None and due <= until:
            self._now_ms = max(self._now_ms, due)
            call = heapq.heappop(self._calls)[2].call
            if call is not None:
                call()
        self._now_ms = until
