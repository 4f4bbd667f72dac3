"""Who may use how much of what: all demands of an attempt are granted at once, or none.

`ResourceLedger` decides; it does no I/O, reads no clock and needs no event loop except in `acquire`. The rule:

* Waiting tickets are looked at by priority (higher first), then by arrival.
* A ticket is granted when all of its demands fit **and** no ticket before it waits for a resource that it uses. So
  small tickets pass a large one only where they cannot delay it, and holding one resource while waiting for another,
  the seed of every deadlock, does not exist.
* A ticket that has seen `AGING_GRANTS` grants since it arrived goes before every priority. So nothing starves.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import dropwhile, takewhile

from noa.orchestration.host import host_resources

__all__ = ["AGING_GRANTS", "ResourceLedger", "Ticket", "host_resources"]

AGING_GRANTS = 1_000
"""After so many grants to others a waiting ticket goes first, whatever its priority."""

_TOLERANCE = 1e-9
"""Sums of fractions such as 0.1 are not exact; relative to the capacity."""


class Ticket:
    """A demand for resources: waiting, granted or gone.

    Attributes:
        demands: Amount by resource, zero amounts left out.
        priority: Higher goes first.
        granted: Whether the ledger counts it as used.
    """

    __slots__ = ("_arrived", "_on_grant", "demands", "granted", "number", "priority")

    def __init__(self, demands: Mapping[str, float], priority: int, number: int, arrived: int) -> None:
        self.demands = {name: amount for name, amount in demands.items() if amount > 0}
        self.priority = priority
        self.number = number
        self.granted = False
        self._arrived = arrived
        self._on_grant: Callable[[], None] | None = None


class ResourceLedger:
    """Grants shares of named resources.

    Args:
        capacity: How much there is of each resource, in the resource's own unit (`cpu` cores, `memory` bytes).
    """

    def __init__(self, capacity: Mapping[str, float]) -> None:
        self._capacity: dict[str, float] = {name: float(amount) for name, amount in capacity.items()}
        self._used: dict[str, float] = dict.fromkeys(self._capacity, 0.0)
        self._holders: Counter[str] = Counter()
        self._waiting: dict[int, OrderedDict[int, Ticket]] = {}
        self._waiters: Counter[str] = Counter()
        self._numbers = 0
        self._grants = 0

    @property
    def capacity(self) -> Mapping[str, float]:
        """How much there is of each resource."""
        return dict(self._capacity)

    @property
    def used(self) -> Mapping[str, float]:
        """How much of each resource is granted now."""
        return dict(self._used)

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return sum(map(len, self._waiting.values()))

    def declare(self, capacity: Mapping[str, float]) -> None:
        """Add named pools, or change how much there is of one; what is granted already stays granted."""
        for name, amount in capacity.items():
            self._capacity[name] = float(amount)
            self._used.setdefault(name, 0.0)
        self._grant_waiting()

    def refusal(self, demands: Mapping[str, float]) -> str | None:
        """Why these demands can never be granted, as a sentence for a person; None when they can."""
        for name, amount in demands.items():
            if amount <= 0:
                continue
            if name not in self._capacity:
                known = ", ".join(sorted(self._capacity)) or "none"
                return f"resource '{name}' is not known. Known: {known}"
            if amount > self._capacity[name] * (1 + _TOLERANCE):
                return (
                    f"{_amount(name, amount)} of '{name}' are asked for, and there are only "
                    f"{_amount(name, self._capacity[name])}: ask for less, or raise the pool"
                )
        return None

    def request(
        self, demands: Mapping[str, float], *, priority: int = 0, on_grant: Callable[[], None] | None = None
    ) -> Ticket:
        """Ask for resources. The ticket is granted already, or `on_grant` is called once when it is.

        Args:
            demands: Amount by resource; `refusal` must have said None for them.
            priority: Higher goes first.
            on_grant: Called inside `release`, `withdraw` or `declare`; must not raise.
        """
        self._numbers += 1
        ticket = Ticket(demands, priority, self._numbers, self._grants)
        if not ticket.demands:
            ticket.granted = True
            return ticket
        self._waiting.setdefault(-priority, OrderedDict())[ticket.number] = ticket
        self._waiters.update(ticket.demands.keys())
        self._grant_waiting()
        if not ticket.granted:
            ticket._on_grant = on_grant
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Give back what a ticket was granted, or withdraw it where it still waits. Idempotent."""
        if not ticket.granted:
            self._forget(ticket)
        elif ticket.demands:
            ticket.granted = False
            for name, amount in ticket.demands.items():
                self._holders[name] -= 1
                # An empty resource is exactly empty: rounding does not add up over millions of grants.
                self._used[name] = self._used[name] - amount if self._holders[name] else 0.0
            ticket.demands = {}
        self._grant_waiting()

    async def acquire(self, demands: Mapping[str, float], *, priority: int = 0) -> Ticket:
        """Ask for resources and wait until all are granted. Cancelled while it waits, it leaves nothing behind."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not granted.done():
                granted.set_result(None)

        ticket = self.request(demands, priority=priority, on_grant=settle)
        if not ticket.granted:
            try:
                await granted
            except asyncio.CancelledError:
                self.release(ticket)
                raise
        return ticket

    def blocking(self, demands: Mapping[str, float]) -> str:
        """Which of these demands does not fit now, for a person; or that others are before it."""
        for name, amount in demands.items():
            free = self._capacity.get(name, 0.0) - self._used.get(name, 0.0)
            if amount > free + _TOLERANCE * self._capacity.get(name, 0.0):
                return f"{_amount(name, amount)} of '{name}' ({_amount(name, max(free, 0.0))} free)"
        return "resources that others asked for first: " + ", ".join(f"'{name}'" for name in demands)

    def _grant_waiting(self) -> None:
        if not self._waiting:
            return
        blocked: set[str] = set()
        granted: list[Ticket] = []
        for ticket in self._in_order():
            if blocked and len(blocked) >= len(self._waiters):
                break  # every resource that anybody waits for is spoken for
            names = ticket.demands.keys()
            if blocked.isdisjoint(names) and self._fits(ticket):
                self._take(ticket)
                granted.append(ticket)
            else:
                blocked.update(names)
        for ticket in granted:
            self._forget(ticket)
            if ticket._on_grant is not None:
                ticket._on_grant()

    def _in_order(self) -> Iterator[Ticket]:
        classes = [self._waiting[priority].values() for priority in sorted(self._waiting)]
        if len(classes) == 1:
            yield from classes[0]
            return
        aged = (takewhile(self._is_aged, tickets) for tickets in classes)
        yield from heapq.merge(*aged, key=lambda ticket: ticket.number)
        for tickets in classes:
            yield from dropwhile(self._is_aged, tickets)

    def _is_aged(self, ticket: Ticket) -> bool:
        return ticket.granted or self._grants - ticket._arrived >= AGING_GRANTS

    def _fits(self, ticket: Ticket) -> bool:
        for name, amount in ticket.demands.items():
            capacity = self._capacity.get(name, 0.0)
            if self._used.get(name, 0.0) + amount > capacity * (1 + _TOLERANCE):
                return False
        return True

    def _take(self, ticket: Ticket) -> None:
        ticket.granted = True
        self._grants += 1
        for name, amount in ticket.demands.items():
            self._used[name] += amount
            self._holders[name] += 1

    def _forget(self, ticket: Ticket) -> None:
        queue = self._waiting.get(-ticket.priority)
        if queue is None or queue.pop(ticket.number, None) is None:
            return
        if not queue:
            del self._waiting[-ticket.priority]
        for name in ticket.demands:
            self._waiters[name] -= 1
            if not self._waiters[name]:
                del self._waiters[name]


def _amount(name: str, amount: float) -> str:
    if name == "memory" and amount >= 1024 * 1024:
        return f"{amount / (1024 * 1024):,.0f} MiB"
    return f"{amount:g}"
