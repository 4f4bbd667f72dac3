"""A core that a test moves by hand."""

from typing import Any

from noa.definitions import Evaluator
from noa.engine.commands import SetTimer
from noa.engine.core import Core
from noa.engine.decide import Decider
from noa.engine.durations import Durations
from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    RunCreated,
    TimerFired,
    decode_event,
    encode_event,
)
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry, SignalRecord

X = TaskPath("s/x")
BROKEN = Failure("BROKEN", "it broke", retryable=True)


class Driven:
    """A core that the test moves by hand; every event goes through the journal's encoding."""

    def __init__(self, plan: Plan, registry: Registry, durations: Durations | None = None, **inputs: Any) -> None:
        self.plan, self.registry, self.durations = plan, registry, durations
        self.events: list[Event] = []
        self.now_ms = 1_000_000
        self.effects: list[object] = []
        self.core = Core(RunState(plan), Decider(registry, Evaluator(), durations))
        self.take(
            RunCreated(
                at_ms=self.now_ms,
                run_id="r",
                workflow="w",
                version="1",
                definitions={},
                inputs=inputs,
                mode=plan.mode,
                debugs=registry.modes[plan.mode].debugs,
            )
        )

    @property
    def state(self) -> RunState:
        return self.core.state

    def take(self, event: Event) -> list[object]:
        """What follows from an event: the effects."""
        events, effects = self.core.advance(event)
        self.events += [decode_event(encode_event(e)) for e in events]
        self.effects = list(effects)
        return self.effects

    def signal(self, kind: str, signal: str = "one", **body: Any) -> Event:
        events, effects = self.core.signalled(
            SignalRecord(signal, RunId("r"), kind, "someone", "because", body, self.now_ms), self.now_ms
        )
        self.events += events
        self.effects = list(effects)
        return events[0]

    def fail(self, failure: Failure = BROKEN, task: TaskPath = X, attempt: int | None = None) -> list[object]:
        attempt = attempt or self.state.tasks[task].attempt
        return self.take(AttemptFailed(at_ms=self.now_ms, task=task, attempt=attempt, failure=failure))

    def succeed(self, task: TaskPath = X, attempt: int | None = None, **outputs: Any) -> list[object]:
        attempt = attempt or self.state.tasks[task].attempt
        return self.take(AttemptSucceeded(at_ms=self.now_ms, task=task, attempt=attempt, outputs=outputs))

    def fire(self, timer: str) -> list[object]:
        command = self.state.pending[f"timer:{timer}"]
        assert isinstance(command, SetTimer)
        self.now_ms = max(self.now_ms, command.due_ms)
        return self.take(TimerFired(at_ms=self.now_ms, timer=timer))

    def again(self) -> "Driven":
        """The same run in another engine, folded from the journal."""
        core = Core(RunState(self.plan), Decider(self.registry, Evaluator(), self.durations))
        core.replay(self.events)
        other = object.__new__(Driven)
        other.__dict__ = {**self.__dict__, "core": core, "events": list(self.events)}
        events, effects = core.outstanding(self.now_ms)
        other.events += events
        other.effects = list(effects)
        return other
