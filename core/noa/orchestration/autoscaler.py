"""Looks at one agent as often as that is worth it, and has as many replicas started or ended as `scaling` says."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from noa.model.ids import RunId
from noa.orchestration.holds import NOBODY, Holds
from noa.orchestration.room import Room
from noa.orchestration.scaling import Bounds, Load, Past, Verdict, decide, due_s
from noa.orchestration.waiters import Waiters
from noa.plugin import AgentDeclaration

if TYPE_CHECKING:
    from noa.orchestration.supervisor import Supervisor

__all__ = ["IDLE_S", "WAIT_S", "Autoscaler"]

log = logging.getLogger("noa.orchestration")

IDLE_S = 60.0
"""How long fewer replicas must have done before some end; `options.scale_down_after_s` changes it."""

WAIT_S = 0.5
"""How long executions may wait before more replicas start; `options.scale_up_wait_s` changes it."""

_QUEUE_LOOK_S = 0.1
_LOOK_S = 1.0
_SOONEST_S = 0.02
_BATCH_S = 0.5
"""Starting takes processor time: as many at once as there are cores, and as many again whenever so long has passed."""

_RATE_S = 1.0
_RATE_LEAST_S = 0.08


class Autoscaler:
    """One agent's. It looks ten times a second while somebody waits, once a second while something goes on, and
    otherwise not before a replica may end.

    Args:
        declaration: Of the agent.
        replicas: All that there may be.
        holds: Who wants how many.
        waiters: Its queue.
        room: Of the host.
        resize: Has so many replicas from now on and starts so many of them, because of a task of this run.
        tell: Takes what was decided and why, for a person.
    """

    def __init__(
        self,
        declaration: AgentDeclaration,
        replicas: Sequence[Supervisor],
        holds: Holds,
        waiters: Waiters,
        *,
        room: Room,
        resize: Callable[[int, int, RunId], None],
        tell: Callable[[str], None],
    ) -> None:
        options = declaration.options
        self._declaration = declaration
        self._replicas = replicas
        self._holds = holds
        self._waiters = waiters
        self._room = room
        self._resize = resize
        self._tell = tell
        self._idle_s = float(options.get("scale_down_after_s", IDLE_S))
        self._wait_s = float(options.get("scale_up_wait_s", WAIT_S))
        self._past = Past()
        self._busy = 0
        self._busy_since = self._looked = time.monotonic()
        self._busy_seconds = 0.0
        self._ended = 0
        self._rates: deque[tuple[float, int, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._batch_until = 0.0
        self._last = ""
        self._held_back = ""
        self.closed = False

    @staticmethod
    def scales(declaration: AgentDeclaration, most: int) -> bool:
        """Whether there is anything to decide."""
        return not declaration.addresses and most > declaration.min_replicas

    def describe(self) -> str:
        """What was decided last, and why there are no more where more are asked for."""
        return "; ".join(text for text in (self._last, self._held_back) if text)

    # --- what it is told ---------------------------------------------------------------------------------------

    def took(self) -> None:
        """An execution got a slot."""
        self._count_busy(1)
        if self._timer is None:
            self._look_in(_LOOK_S)

    def gave(self) -> None:
        """An execution gave its slot back."""
        self._count_busy(-1)
        self._ended += 1

    def queued(self) -> None:
        """Somebody waits, or what they wait for changed."""
        if not self._rates:
            self._rates.append((time.monotonic(), self._ended, self._serving()))
        self._look_in(_QUEUE_LOOK_S)

    def changed(self) -> None:
        """Fewer replicas are wanted by somebody, perhaps."""
        if self._timer is None:
            self._look_in(_LOOK_S)

    def close(self) -> None:
        """Look no more. Idempotent."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _serving(self) -> int:
        return sum(replica.state == "serving" for replica in self._replicas)

    def _count_busy(self, step: int) -> None:
        now = time.monotonic()
        self._busy_seconds += self._busy * (now - self._busy_since)
        self._busy_since = now
        self._busy += step

    # --- looking -----------------------------------------------------------------------------------------------

    def _look_in(self, seconds: float) -> None:
        """Look after so long, or sooner where that was to be."""
        if self.closed:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.closed:
            return
        now = time.monotonic()
        others = self._holds.held
        bounds = Bounds(
            least=max([self._declaration.min_replicas, *others.values()]),
            most=len(self._replicas),
            idle_s=self._idle_s,
            wait_s=self._wait_s,
        )
        oldest = self._waiters.oldest(others)
        load, why = self._load(now, self._waiters.counted(others), oldest.since if oldest is not None else now)
        self._past, verdict = decide(self._past, load, bounds)
        self._held_back = self._no_more(verdict, load, why) if load.waiting else ""
        if verdict.replicas != load.replicas:
            self._announce(verdict, load)
        if verdict.replicas != load.replicas or load.waiting:
            starts = self._starts(now, load)
            self._resize(verdict.replicas, starts, oldest.run if oldest is not None else NOBODY)
        self._look_again(bounds, load.waiting > 0)

    def _load(self, now: float, waiting: int, oldest_since: float) -> tuple[Load, str]:
        """What is seen, and what the host lacks for more, for a person."""
        self._count_busy(0)
        since, self._looked = self._looked, now
        mean_busy, self._busy_seconds = self._busy_seconds / max(now - since, 1e-6), 0.0
        wanted = self._holds.wanted
        going = [replica for replica in self._replicas if replica.state == "serving"]
        coming = [r for r in self._replicas if r.hopeful and r.state != "serving" and not r.failing]
        served_since = min((replica.serving_since for replica in going), default=now)
        room, why = self._room.replicas(self._declaration) if waiting else (len(self._replicas), "")
        slots = [replica.capacity for replica in going]
        load = Load(
            at_s=now,
            replicas=wanted,
            serving=len(going),
            coming=len(coming),
            kept=max((replica.index + 1 for replica in (*going, *coming)), default=0),
            failing=sum(replica.failing for replica in self._replicas[:wanted]),
            slots=0 if 0 in slots or not slots else max(1, sum(slots) // len(slots)),
            busy=self._busy,
            mean_busy=mean_busy,
            waiting=waiting,
            oldest_s=now - max(oldest_since, served_since),
            ended_per_s=self._rate(now, len(going)) if waiting else None,
            room=room,
        )
        if not waiting:
            self._rates.clear()
        return load, why

    def _rate(self, now: float, serving: int) -> float | None:
        """Executions that end in a second, with so many replicas; None where that cannot be said yet."""
        rates = self._rates
        if rates and rates[-1][2] != serving:
            rates.clear()
        while rates and rates[0][0] < now - _RATE_S:
            rates.popleft()
        rates.append((now, self._ended, serving))
        span_s, ended = now - rates[0][0], self._ended - rates[0][1]
        return ended / span_s if ended and span_s >= _RATE_LEAST_S else None

    def _starts(self, now: float, load: Load) -> int:
        """How many may start now. Of those that did not start, one at a time is tried again."""
        if load.failing:
            return 0 if load.coming else 1
        cores = max(2, math.ceil(self._room.cores))
        if now >= self._batch_until:
            self._batch_until = now + _BATCH_S
            return cores
        return max(0, cores - load.coming)

    def _announce(self, verdict: Verdict, load: Load) -> None:
        before, after = load.replicas, verdict.replicas
        if after > before:
            text = f"{before} -> {after}: {load.waiting:,} wait, oldest {load.oldest_s:.1f} s"
        elif verdict.cut == "failing":
            text = f"{before} -> {after}: {self._no_more(verdict, load, '')}"
        elif after >= load.kept:
            text = f"{before} -> {after}: the queue is over, and the others were not started yet"
        else:
            text = f"{before} -> {after}: no more were needed for {self._idle_s:g} s"
        self._last = f"scaled {text}"
        log.info("agent '%s': scaled %s", self._declaration.name, text)
        self._tell(text)

    def _no_more(self, verdict: Verdict, load: Load, why: str) -> str:
        if verdict.cut == "most":
            return f"no more than {len(self._replicas)}: that is max_replicas"
        if verdict.cut == "room":
            return f"no more than {max(load.room, load.replicas)}: {why}"
        if verdict.cut == "failing":
            failed = next((r for r in self._replicas if r.failing and r.error is not None), None)
            reason = failed.error.message if failed is not None and failed.error is not None else "it ended"
            name = f"replica {failed.index}" if failed is not None else "one"
            return f"no more than {verdict.replicas}: {name} does not start: {reason}"
        return ""

    def _look_again(self, bounds: Bounds, waiting: bool) -> None:
        if waiting:
            self._look_in(_QUEUE_LOOK_S)
        elif self._busy:
            self._look_in(_LOOK_S)
        elif self._holds.wanted > bounds.least:
            self._look_in(max(_SOONEST_S, due_s(self._past, bounds) - time.monotonic()))
