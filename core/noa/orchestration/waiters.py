"""Who waits for a slot of an agent: by priority, then in order of arrival."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from noa.model.ids import RunId

if TYPE_CHECKING:
    from noa.orchestration.supervisor import Supervisor

__all__ = ["Waiter", "Waiters"]


class Waiter:
    """One execution that waits.

    Attributes:
        slot: Gets the replica.
        run: For whose task.
        since: Monotonic seconds at which it began to wait.
    """

    __slots__ = ("key", "number", "run", "since", "slot")

    def __init__(self, slot: asyncio.Future[Supervisor], run: RunId, since: float, key: int, number: int) -> None:
        self.slot = slot
        self.run = run
        self.since = since
        self.key = key
        self.number = number


class Waiters:
    """The queue of one agent.

    Attributes:
        count: How many wait.
    """

    def __init__(self) -> None:
        self.count = 0
        self._queues: dict[int, OrderedDict[int, Waiter]] = {}
        self._untold: dict[int, Callable[[], None]] = {}
        self._runs: Counter[RunId] = Counter()
        self._numbers = 0

    def add(
        self,
        slot: asyncio.Future[Supervisor],
        *,
        priority: int,
        run: RunId,
        since: float,
        on_queued: Callable[[], None] | None = None,
    ) -> Waiter:
        """Put one more at the end of its priority. `on_queued` is for `tell_queued`."""
        self._numbers += 1
        waiter = Waiter(slot, run, since, -priority, self._numbers)
        self._queues.setdefault(-priority, OrderedDict())[waiter.number] = waiter
        self.count += 1
        self._runs[run] += 1
        if on_queued is not None:
            self._untold[waiter.number] = on_queued
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """It waits no more. Idempotent."""
        queue = self._queues.get(waiter.key)
        if queue is None or queue.pop(waiter.number, None) is None:
            return
        self.count -= 1
        self._untold.pop(waiter.number, None)
        self._runs[waiter.run] -= 1
        if not self._runs[waiter.run]:
            del self._runs[waiter.run]
        if not queue:
            del self._queues[waiter.key]

    def take_first(self) -> Waiter:
        """The one whose turn it is; it waits no more."""
        waiter = next(iter(self._queues[min(self._queues)].values()))
        self.remove(waiter)
        return waiter

    def counted(self, besides: Collection[RunId]) -> int:
        """How many wait for tasks of other runs than these."""
        return self.count - sum(self._runs.get(run, 0) for run in besides)

    def oldest(self, besides: Collection[RunId]) -> Waiter | None:
        """Who has waited for the longest for a task of another run than these."""
        found = [waiter for queue in self._queues.values() for waiter in _first(queue, besides)]
        return min(found, key=lambda waiter: waiter.number, default=None)

    def tell_queued(self) -> None:
        """Call every `on_queued` that was not called yet."""
        untold, self._untold = self._untold, {}
        for tell in untold.values():
            tell()

    def fail(self, error: Exception) -> None:
        """Nobody waits any more: each gets the error."""
        queues, self._queues, self.count = self._queues, {}, 0
        self._untold.clear()
        self._runs.clear()
        for queue in queues.values():
            for waiter in queue.values():
                if not waiter.slot.done():
                    waiter.slot.set_exception(error)


def _first(queue: OrderedDict[int, Waiter], besides: Collection[RunId]) -> Iterator[Waiter]:
    for waiter in queue.values():
        if waiter.run not in besides:
            yield waiter
            return
