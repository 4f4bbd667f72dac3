"""The pure core: one event in, all events that follow from it and the effects that they want out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from noa.engine.chains import Entry
from noa.engine.commands import CancelAttempt, Command, Effect, Execute, LookUp, SetTimer
from noa.engine.decide import Decider
from noa.engine.signals import judge
from noa.engine.state import RunState
from noa.model.events import Event, SignalApplied
from noa.model.ids import TaskPath
from noa.plugin import SignalRecord

__all__ = ["Core"]

_EFFECTS = frozenset({Execute, SetTimer, CancelAttempt, LookUp})


class Core:
    """Advances one run. The caller appends the events durably before it does the effects."""

    def __init__(self, state: RunState, decider: Decider) -> None:
        self.state = state
        self._decider = decider

    def advance(self, event: Event) -> tuple[list[Event], list[Effect]]:
        """Fold an event in, answer every decision that follows, until only effects are left.

        Returns:
            The events in order, the given one first, and the effects in order.
        """
        events = [event]
        return events, self._settle(self.state.apply(event), events, event.at_ms)

    def signalled(self, signal: SignalRecord, at_ms: int) -> tuple[list[Event], list[Effect]]:
        """Apply or refuse a signal, and what follows from it; nothing where it was taken before."""
        event = judge(self.state, signal, at_ms, self._decider.known(self.state))
        if event is None:
            return [], []
        events, effects = self.advance(event)
        if isinstance(event, SignalApplied) and event.kind == "mode":
            for resolved in self._decider.resolved(self.state, at_ms):
                more_events, more_effects = self.advance(resolved)
                events += more_events
                effects += more_effects
        return events, effects

    def recorded(self, signal: SignalRecord, at_ms: int) -> list[Event]:
        """Take a signal that came while nobody drove the run: the events; `outstanding` then has all effects."""
        return self.signalled(signal, at_ms)[0]

    def guards(self, task: TaskPath) -> tuple[Entry, ...]:
        """The strategies that may refuse an attempt of a task before it begins."""
        return self._decider.guards(self.state, self.state.tasks[task])

    def keeps(self, task: TaskPath) -> dict[str, int]:
        """Under which keys the outputs of a task are kept, and for how long (milliseconds; 0 for ever)."""
        return self._decider.keeps(self.state, self.state.tasks[task])

    def replay(self, events: Iterable[Event]) -> None:
        """Fold recorded events in; nothing is decided and nothing is wanted."""
        for event in events:
            self.state.apply(event)

    def outstanding(self, at_ms: int) -> tuple[list[Event], list[Effect]]:
        """After a replay: events that answer the open decisions, and the effects that have no outcome yet."""
        events: list[Event] = []
        return events, self._settle(list(self.state.pending.values()), events, at_ms)

    def _settle(self, commands: Iterable[Command], events: list[Event], at_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        queue = deque(commands)
        pending = self.state.pending
        while queue:
            command = queue.popleft()
            if type(command) in _EFFECTS:
                effects.append(command)  # type: ignore[arg-type]
            elif pending.get(command.key) is command:
                for answer in self._decider.decide(self.state, command, at_ms):  # type: ignore[arg-type]
                    events.append(answer)
                    queue.extend(self.state.apply(answer))
        return effects
