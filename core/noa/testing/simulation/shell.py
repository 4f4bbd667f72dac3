"""One simulated engine: what `noa.engine.run.LiveRun` does, in virtual time, with simulated agents.

It lives until it dies by a fault, loses its lease or has brought the run to an end. What it says and does is told to
the `World` that it lives in.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from noa.engine.commands import CancelAttempt, Effect, Execute, LookUp, SetTimer
from noa.engine.core import Core
from noa.engine.guards import Guards
from noa.engine.reopening import why_not_reopened
from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    LateResult,
    Recalled,
    RunCreated,
    RunReopened,
    RunResumed,
    TimerFired,
    decode_event,
)
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.orchestration.resources import ResourceLedger, Ticket
from noa.plugin import SignalRecord
from noa.testing.simulation.graphs import POOLS

if TYPE_CHECKING:
    from noa.testing.simulation.world import World

__all__ = ["Attempt", "Life"]


class Attempt:
    """An attempt that goes on at a simulated agent."""

    __slots__ = ("action", "agent", "attempt", "guards", "over", "path", "started_ms", "ticket")

    def __init__(self, path: TaskPath, attempt: int, agent: str, action: str, started_ms: int) -> None:
        self.path = path
        self.attempt = attempt
        self.agent = agent
        self.action = action
        self.started_ms = started_ms
        self.guards: tuple[Any, ...] = ()
        self.ticket: Ticket | None = None
        self.over = False


class Life:
    """An engine that drives the run, from its start or its resumption to its end.

    Attributes:
        fence: Its right to append.
        skew_ms: How far its clock is off.
        inbox: What happened and was not folded in yet.
        attempts: That go on at its agents.
    """

    def __init__(self, world: World, number: int, fence: int, skew_ms: int = 0) -> None:
        self.world = world
        self.number = number
        self.fence = fence
        self.skew_ms = skew_ms
        self.core = Core(RunState(world.plan), world.decider)
        self.state = self.core.state
        self.alive = True
        self.inbox: deque[Event | SignalRecord] = deque()
        self.attempts: dict[tuple[TaskPath, int], Attempt] = {}
        self.timers: dict[str, int] = {}
        self.asked_store: set[tuple[TaskPath, int]] = set()
        self.used: dict[str, float] = {}
        self._ledger = ResourceLedger(POOLS)
        self._guards = Guards()
        self._drive_queued = False

    def now_ms(self) -> int:
        """What its clock shows."""
        return self.world.now_ms + self.skew_ms

    # --- the door to execution: start, resume, retry, fork

    def start(self, created: RunCreated) -> None:
        """Begin the run."""
        self._commit(*self.core.advance(created))

    def take_over(self, reopened: RunReopened | None = None) -> None:
        """Go on with the run as its journal has it."""
        world, state, now_ms = self.world, self.state, self.now_ms()
        self.core.replay(decode_event(body) for body in world.journal)
        first: list[Event] = [RunResumed(at_ms=now_ms, owner=f"engine {self.number}", fence=self.fence)]
        state.apply(first[0])
        for signal in world.waiting_signals():
            first += self.core.recorded(signal, now_ms)
        if reopened is not None:
            refused = why_not_reopened(state.status, reopened.from_task, state.tasks, rollback=reopened.rollback)
            assert not refused, refused
            world.monitor.reopening(state, reopened)
            first.append(reopened)
            state.apply(reopened)
        events, effects = self.core.outstanding(now_ms)
        self._commit([*first, *events], effects)

    # --- the loop

    def tell(self, *happened: Event | SignalRecord) -> None:
        """Hand in what happened. It is folded in now, or a little later with what comes meanwhile."""
        self.inbox.extend(happened)
        if not self._drive_queued:
            self._drive_queued = True
            self.world.after(self.world.gathering_ms(), self, "drive")

    def drive(self) -> None:
        """Fold in what happened, append it, act."""
        self._drive_queued = False
        events: list[Event] = []
        effects: list[Effect] = []
        while self.inbox and not self.state.finished:
            new_events, new_effects = self._folded(self.inbox.popleft())
            events += new_events
            effects += new_effects
        if events:
            self._commit(events, effects)

    def _folded(self, event: Event | SignalRecord) -> tuple[list[Event], list[Effect]]:
        if isinstance(event, SignalRecord):
            return self.core.signalled(event, self.now_ms())
        state = self.state
        if isinstance(event, AttemptSucceeded | AttemptFailed):
            if not state.accepts(event.task, event.attempt):
                outcome = event.failure.code if isinstance(event, AttemptFailed) else "succeeded"
                self.world.count("late results")
                event = LateResult(at_ms=event.at_ms, task=event.task, attempt=event.attempt, outcome=outcome)
        elif isinstance(event, TimerFired):
            if f"timer:{event.timer}" not in state.pending:
                return [], []
        elif isinstance(event, Recalled) and not state.looks_up(event.task, event.attempt):
            return [], []
        return self.core.advance(event)

    def _commit(self, events: list[Event], effects: list[Effect]) -> None:
        if not self.world.append(self, events):
            return
        stop_at = self.world.dies_while_acting(self, len(effects))
        for number, effect in enumerate(effects):
            if number == stop_at:
                self.world.die(self, "crash among effects")
                return
            self._act(effect)
        if self.state.finished:
            self.alive = False
            self.world.ended(self)
        else:
            self.world.monitor.check_outstanding(self)

    # --- effects

    def _act(self, effect: Effect) -> None:
        match effect:
            case Execute(task=path, attempt=attempt):
                if self.state.accepts(path, attempt):
                    self._execute(path, attempt)
            case LookUp():
                self.asked_store.add((effect.task, effect.attempt))
                self.world.after(self.world.chance.randrange(6), self, "looked up", effect)
            case SetTimer(timer=timer, due_ms=due_ms):
                token = self.timers[timer] = self.world.token()
                self.world.at(due_ms - self.skew_ms, self, "timer", (timer, token))
            case CancelAttempt(task=path, attempt=attempt):
                self._cancel(path, attempt)

    def _execute(self, path: TaskPath, attempt: int) -> None:
        world, task = self.world, self.state.tasks[path]
        going_on = Attempt(path, attempt, task.agent, task.action, self.now_ms())
        world.monitor.executing(self, path, attempt)
        self.attempts[path, attempt] = going_on
        guards = self.core.guards(path)
        refusal = self._guards.admit(guards, task.agent, task.action, self.now_ms()) if guards else None
        if refusal is not None:
            world.count("attempts refused by a breaker")
            self.end(going_on, refusal)
            return
        going_on.guards = guards
        limits = task.plan.timeouts
        going_on.ticket = self._ledger.request(
            task.plan.resources, priority=task.plan.priority, on_grant=lambda: self._begin(going_on)
        )
        if going_on.ticket.granted:
            self._begin(going_on)
        elif limits.queue_ms is not None:
            world.after(limits.queue_ms, self, "ends", (going_on, Failure("QUEUE_TIMEOUT", "no resource", True)))

    def _begin(self, going_on: Attempt) -> None:
        task = self.state.tasks.get(going_on.path)
        if going_on.ticket is not None:
            for pool, amount in going_on.ticket.demands.items():
                self.used[pool] = self.used.get(pool, 0.0) + amount
                assert self.used[pool] <= POOLS[pool] + 1e-9, f"pool '{pool}' is over-granted: {self.used[pool]}"
        plan = task.plan if task is not None else None
        after_ms, outcome = self.world.outcome(going_on, plan)
        self.world.after(after_ms, self, "ends", (going_on, outcome))

    def _cancel(self, path: TaskPath, attempt: int) -> None:
        task = self.state.tasks[path]
        accepted = self.state.accepts(path, attempt)
        if task.plan.workflow is not None and (path, attempt) not in self.attempts and accepted:
            self._execute(path, attempt)  # the child run goes on in the store, and must end there
        going_on = self.attempts.get((path, attempt))
        failure = Failure("CANCELLED", "cancelled")
        if going_on is not None:
            self.world.after(self.world.chance.randrange(40), self, "ends", (going_on, failure))
        elif accepted:
            head: dict[str, Any] = {"at_ms": self.now_ms(), "task": path, "attempt": attempt}
            self.tell(AttemptFailed(failure=failure, **head))

    # --- what happens

    def happen(self, kind: str, what: Any) -> None:
        """Something that was put off is due."""
        match kind:
            case "drive":
                self.drive()
            case "ends":
                going_on, outcome = what
                queued = going_on.ticket is not None and not going_on.ticket.granted
                if not going_on.over and (queued or not _queue_timeout(outcome)):
                    self.end(going_on, outcome)
            case "timer":
                timer, token = what
                if self.timers.get(timer) == token:
                    del self.timers[timer]
                    self.tell(TimerFired(at_ms=self.now_ms(), timer=timer))
            case "looked up":
                self.asked_store.discard((what.task, what.attempt))
                self.tell(self.world.recalled(what, self.now_ms()))

    def end(self, going_on: Attempt, outcome: Outcome) -> None:
        """An attempt is over."""
        going_on.over = True
        del self.attempts[going_on.path, going_on.attempt]
        ticket = going_on.ticket
        if ticket is not None:
            if ticket.granted:
                for pool, amount in ticket.demands.items():
                    self.used[pool] -= amount
            self._ledger.release(ticket)
        failure = outcome if isinstance(outcome, Failure) else None
        if going_on.guards:
            self._guards.observe(going_on.guards, going_on.agent, going_on.action, failure, self.now_ms())
        event = self._event_of(going_on, outcome)
        self.tell(event)
        self.world.maybe_again(event)

    def _event_of(self, going_on: Attempt, outcome: Outcome) -> Event:
        path, now_ms = going_on.path, self.now_ms()
        took_ms = now_ms - going_on.started_ms
        head: dict[str, Any] = {"at_ms": now_ms, "task": path, "attempt": going_on.attempt, "duration_ms": took_ms}
        if isinstance(outcome, Succeeded):
            self.world.durations.add(going_on.agent, going_on.action, took_ms)
            keep = self.core.keeps(path) if path in self.state.tasks else {}
            return AttemptSucceeded(outputs=outcome.outputs, keep=keep, **head)
        return AttemptFailed(failure=outcome, jitter=self.world.chance.random(), **head)

    def unfinished(self) -> list[Event]:
        """What attempts that go on will give, though nobody here waits for it any longer."""
        return [
            self._event_of(each, Succeeded({"late": True}))
            for each in self.attempts.values()
            if each.ticket is not None
        ]


def _queue_timeout(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.code == "QUEUE_TIMEOUT"
