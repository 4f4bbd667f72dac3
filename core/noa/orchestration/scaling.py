"""How many replicas an agent should have: observations in, a number out. No clock, no I/O, no state of its own.

Up, where those that wait would wait for longer than is wanted: by as many as their work asks for, at once. Down, where
fewer would have done for a whole idle time, however the load went up and down within it: so a load that comes and goes
more often than that never starts and ends replicas in turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["UNHEARD_S", "Bounds", "Cut", "Load", "Past", "Verdict", "decide", "due_s"]

UNHEARD_S = 0.2
"""Where nothing has ended since executions began to wait, one that waited for so long is taken for a queue."""

Cut: TypeAlias = Literal["", "most", "room", "failing"]
"""Why fewer replicas are wanted than the load asks for: the declaration's maximum, the host, starts that fail."""

_UNCUT: Cut = ""
_FULL = 0.8
"""Fewer replicas would have done where they would have been this busy on average, and not more."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the agent's declaration says.

    Attributes:
        least: Never fewer; 0 lets the last one end too.
        most: Never more.
        idle_s: How long fewer must have done before some end.
        wait_s: How long an execution may wait for a slot before that is a reason for more.
    """

    least: int
    most: int
    idle_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What was seen of an agent.

    Attributes:
        at_s: When, on any clock that does not go backwards.
        replicas: Wanted until now.
        serving: Of them, those that take work.
        coming: Of them, those whose start is under way and did not fail before.
        kept: The first so many replicas include every one that serves or is coming.
        failing: Of them, those that did not start.
        slots: Executions at once of one replica; 0 for no limit.
        busy: Executions at once now.
        mean_busy: Executions at once, averaged since the last look.
        waiting: Executions that wait for a slot.
        oldest_s: How long the oldest of them has waited since there was a replica that served.
        ended_per_s: Executions that end in a second while some wait; None where none did yet.
        room: Replicas that the host has room for.
    """

    at_s: float
    replicas: int
    serving: int = 0
    coming: int = 0
    kept: int = 0
    failing: int = 0
    slots: int = 1
    busy: int = 0
    mean_busy: float = 0.0
    waiting: int = 0
    oldest_s: float = 0.0
    ended_per_s: float | None = None
    room: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered from look to look: when how many were needed, where nothing later needed as many.

    Attributes:
        needs: (seconds, replicas), replicas falling; at most one entry for each number of replicas.
        replicas: Wanted after the last look.
    """

    needs: tuple[tuple[float, int], ...] = ()
    replicas: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many replicas there should be from now on, and what was in the way of more."""

    replicas: int
    cut: Cut = ""


def decide(past: Past, load: Load, bounds: Bounds) -> tuple[Past, Verdict]:
    """How many replicas should there be, and what to remember for the next look."""
    asked = _asked(load, bounds.wait_s)
    needed = max(min(asked, bounds.most), min(load.replicas, _enough(load)))
    if load.replicas > past.replicas or (load.coming and load.waiting):
        needed = max(needed, load.replicas)  # the idle time of those that have just come has not begun
    up, cut = _allowed(asked, load, bounds)
    needs = _remember(past.needs, load.at_s, needed, bounds.idle_s)
    wanted = up if up > load.replicas else min(load.replicas, max(needs[0][1], bounds.least))
    if not load.waiting:
        wanted = min(wanted, max(load.kept, bounds.least))  # those that were not started yet are not needed now
    if load.failing and wanted > (startable := max(_startable(load), bounds.least)):
        wanted, cut = startable, "failing"
    return Past(needs, wanted), Verdict(wanted, cut)


def due_s(past: Past, bounds: Bounds) -> float:
    """When fewer may be wanted at the earliest, if nothing happens until then."""
    return past.needs[0][0] + bounds.idle_s if past.needs else 0.0


def _asked(load: Load, wait_s: float) -> int:
    """Replicas with which nobody would wait too long; 0 where nobody does, or it is too early to say."""
    if not load.waiting or not load.serving:
        return 0
    # More than one for each execution would find nothing to do; one without a limit waits for another reason.
    useful = math.ceil((load.busy + load.waiting) / load.slots) if load.slots else load.replicas + 1
    if load.ended_per_s:
        wait = load.waiting / load.ended_per_s
        return 0 if wait <= wait_s else min(useful, math.ceil(load.serving * wait / wait_s))
    return useful if load.oldest_s >= UNHEARD_S else 0


def _enough(load: Load) -> int:
    """Replicas that would have been enough for what went on since the last look."""
    least = 1 if load.mean_busy or load.busy or load.waiting else 0
    return max(least, math.ceil(load.mean_busy / (load.slots * _FULL) - 1e-9)) if load.slots else least


def _allowed(asked: int, load: Load, bounds: Bounds) -> tuple[int, Cut]:
    """As many of them as may be, and what was in the way of the others."""
    up, cut = asked, _UNCUT
    limits: list[tuple[Cut, int]] = [("most", bounds.most), ("room", load.room)]
    if load.failing:
        limits.append(("failing", _startable(load)))
    for why, limit in limits:
        if up > limit:
            up, cut = limit, why
    return up, cut


def _startable(load: Load) -> int:
    """With replicas that do not start, one at a time is tried again."""
    return max(load.kept, load.serving + load.coming + 1)


def _remember(
    needs: tuple[tuple[float, int], ...], at_s: float, needed: int, idle_s: float
) -> tuple[tuple[float, int], ...]:
    kept = [need for need in needs if need[1] > needed and need[0] > at_s - idle_s]
    return (*kept, (at_s, needed))
