"""The core with a simulated shell: seeded, in virtual time, without I/O. Any schedule can be replayed by its seed.

done = Simulation(plan, work, registry=registry, seed=7).run()
again = Simulation(plan, work, registry=registry, seed=8, history=done.journal[:12]).run()   # a crash, then resume
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from noa.definitions import Evaluator, check_inputs
from noa.engine.commands import CancelAttempt, Effect, Execute, LookUp, SetTimer
from noa.engine.core import Core
from noa.engine.decide import Decider
from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    Recalled,
    RunCreated,
    RunResumed,
    TimerFired,
    decode_event,
    encode_event,
)
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry

__all__ = ["Asked", "Simulation", "StuckError"]


class StuckError(AssertionError):
    """The run is not over and nothing will ever move it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the simulated agents are asked."""

    task: TaskPath
    attempt: int
    agent: str
    action: str
    inputs: dict[str, Any]


Work = Callable[[Asked], Outcome]


class Simulation:
    """One run of a plan under a random schedule.

    Args:
        work: Gives the outcome of each attempt; called once for each time that an attempt is executed.
        seed: Decides in which order things happen.
        history: Events that an earlier simulation left; the run is resumed from them.
        check: Called with the state after each event that is journaled; for invariants.
        cancel_after: Ask for cancellation once the journal has this many events.
    """

    def __init__(
        self,
        plan: Plan,
        work: Work,
        *,
        registry: Registry,
        seed: int = 0,
        inputs: dict[str, Any] | None = None,
        history: Iterable[Event] = (),
        check: Callable[[RunState], None] | None = None,
        cancel_after: int | None = None,
    ) -> None:
        self.state = RunState(plan)
        self.executed: list[Asked] = []
        self.journal: list[Event] = list(history)
        self._core = Core(self.state, Decider(registry, Evaluator()))
        self._work = work
        self._random = random.Random(seed)
        self._inputs = check_inputs(plan, inputs or {})
        self._check = check or (lambda _state: None)
        self._cancel_after = cancel_after
        self._now_ms = 1_000_000
        self._open: dict[str, Effect] = {}

    @property
    def running(self) -> list[TaskPath]:
        """Tasks of which an attempt is going on."""
        return [effect.task for effect in self._open.values() if isinstance(effect, Execute | CancelAttempt)]

    def run(self, *, stop_after: int | None = None) -> Simulation:
        """Go on to the end, or until the journal has `stop_after` events (as if the engine had died then).

        Raises:
            StuckError: Nothing is outstanding and the run is not over.
        """
        self._begin()
        while not self.state.finished:
            if stop_after is not None and len(self.journal) >= stop_after:
                break
            if self._cancel_after is not None and len(self.journal) >= self._cancel_after:
                self._cancel_after = None
                self._take(CancelRequested(at_ms=self._now_ms, reason="asked by the simulation"))
                continue
            if not self._open:
                raise StuckError(f"nothing is outstanding; waiting: {list(self.state.pending)}")
            self._take(self._happen())
        return self

    def _begin(self) -> None:
        if self.journal:
            self._core.replay(decode_event(encode_event(event)) for event in self.journal)
            self._now_ms = max(event.at_ms for event in self.journal) + 1
            events, effects = self._core.outstanding(self._now_ms)
            self._record([RunResumed(at_ms=self._now_ms, owner="simulation", fence=2), *events], effects)
        else:
            created = RunCreated(
                at_ms=self._now_ms,
                run_id=RunId("simulated"),
                workflow=self.state.plan.name,
                version=self.state.plan.version,
                definitions={"": self.state.plan.sha256},
                inputs=self._inputs,
                mode=self.state.plan.mode,
            )
            self._take(created)

    def _take(self, event: Event) -> None:
        events, effects = self._core.advance(event)
        self._record(events, effects)

    def _record(self, events: list[Event], effects: list[Effect]) -> None:
        self.journal += events
        self._check(self.state)
        for effect in effects:
            self._open[effect.key] = effect
        # What has an outcome, or is wanted no longer, is not outstanding.
        self._open = {key: effect for key, effect in self._open.items() if self.state.pending.get(key) is effect}

    def _happen(self) -> Event:
        key = self._random.choice(sorted(self._open))
        effect = self._open.pop(key)
        self._now_ms += self._random.randrange(1, 50)
        match effect:
            case SetTimer(timer=timer, due_ms=due_ms):
                self._now_ms = max(self._now_ms, due_ms)
                return TimerFired(at_ms=self._now_ms, timer=timer)
            case LookUp(task=task, attempt=attempt):
                return Recalled(at_ms=self._now_ms, task=task, attempt=attempt)  # nothing is kept
            case CancelAttempt(task=task, attempt=attempt, reason=reason):
                failure = Failure("CANCELLED", reason)
                return AttemptFailed(at_ms=self._now_ms, task=task, attempt=attempt, failure=failure)
            case Execute(task=task, attempt=attempt):
                return self._executed(task, attempt)

    def _executed(self, path: TaskPath, attempt: int) -> Event:
        task = self.state.tasks[path]
        asked = Asked(path, attempt, task.agent, task.action, task.inputs or {})
        self.executed.append(asked)
        outcome = self._work(asked)
        if isinstance(outcome, Succeeded):
            return AttemptSucceeded(at_ms=self._now_ms, task=path, attempt=attempt, outputs=outcome.outputs)
        return AttemptFailed(
            at_ms=self._now_ms, task=path, attempt=attempt, failure=outcome, jitter=self._random.random()
        )
