"""What outlives simulated engines: the journal, signals, kept outputs, time, people, and what goes wrong.

Everything follows from the seed of the schedule.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any
from zlib import crc32

import msgspec

from noa.definitions import Evaluator
from noa.engine.commands import LookUp, StartTask
from noa.engine.decide import Decider
from noa.engine.durations import Durations
from noa.engine.state import RunState
from noa.model.events import (
    ANSWERS,
    AttemptSucceeded,
    Event,
    Recalled,
    RunCreated,
    RunReopened,
    TaskScheduled,
    decode_event,
    encode_event,
)
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan, TaskPlan
from noa.plugin import Registry, SignalRecord
from noa.testing.simulation.invariants import Monitor, difference
from noa.testing.simulation.shell import Attempt, Life

__all__ = ["FAULTS", "World"]

FAULTS = (
    "crash before an append",
    "crash inside an append",
    "crash after an append",
    "crash among effects",
    "lease lost",
    "clock jump",
    "result told twice",
    "result of a dead engine",
    "cancel",
    "junk signal",
    "wrong answer",
    "reopened",
    "forked",
)
"""Kinds of what goes wrong, or is asked from outside."""

_FIRST_MS = 1_000_000_000
_MOST_EVENTS = 60_000


class World:
    """One run of a plan, with all engines that drive it one after the other, or against each other.

    Args:
        seed: Decides everything that is left to chance.
        without: Kinds of faults that do not happen.
        most_faults: After so many faults nothing goes wrong any more.
    """

    def __init__(
        self,
        plan: Plan,
        registry: Registry,
        *,
        seed: int | str,
        without: frozenset[str] = frozenset(),
        most_faults: int = 12,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.plan = plan
        self.chance = chance = random.Random(f"schedule {seed}")
        self.durations = Durations()
        self.decider = Decider(registry, evaluator or Evaluator(), self.durations)
        self.monitor = Monitor(plan)
        self.journal: list[bytes] = []
        self.now_ms = _FIRST_MS
        self.counts: Counter[str] = Counter()
        self.story: list[str] = []
        self.lives: list[Life] = []
        self._registry = registry
        self._without = without
        self._faults_left = most_faults
        self._seed = seed
        self._heap: list[tuple[int, int, Life | None, str, Any]] = []
        self._tokens = 0
        self._fence = 0
        self._signals: dict[str, SignalRecord] = {}
        self._kept: dict[str, tuple[dict[str, Any], int, int]] = {}
        self._over = False
        self._crashes = chance.choice((0.0, 0.0, 0.02, 0.05, 0.15))
        self._failing = chance.choice((0.0, 0.03, 0.1, 0.1, 0.3))
        self._hopeless = chance.choice((0.0, 0.0, 0.05, 0.15))
        self._slow = chance.choice((0.0, 0.05, 0.2))
        self._together = chance.choice((0.0, 0.5, 1.0))
        self._reopenings = chance.choice((0, 1, 1, 2))
        self._forks = chance.random() < 0.2

    # --- running

    def run(self) -> World:
        """Drive the run to its end.

        Raises:
            AssertionError: Something that must always hold does not; or the run stands still before its end.
        """
        self._plan_signals()
        created = RunCreated(
            at_ms=self.now_ms,
            run_id=RunId("simulated"),
            workflow=self.plan.name,
            version=self.plan.version,
            definitions={"": self.plan.sha256},
            mode=self.plan.mode,
            inputs={"number": 7, "yes": True, "no": False},
        )
        self._life().start(created)
        return self._go_on()

    def continue_from(self, journal: list[bytes]) -> World:
        """Drive a run that shares this past with another one."""
        self.journal = list(journal)
        state = RunState(self.plan)
        for number, body in enumerate(journal, 1):
            event = decode_event(body)
            if isinstance(event, RunReopened):
                self.monitor.reopening(state, event)
            state.apply(event)
            self.monitor.recorded(number, event, state)
            self.now_ms = max(self.now_ms, event.at_ms)
        self.monitor.forked()
        self._expect_people(state)
        self._plan_signals()
        self._life().take_over()
        return self._go_on()

    def _go_on(self) -> World:
        heap = self._heap
        while not self._over:
            assert heap, f"nothing will ever move this run: {self._standing()}"
            due_ms, _, life, kind, what = heapq.heappop(heap)
            self.now_ms = max(self.now_ms, due_ms)
            if life is None:
                self._happen(kind, what)
            elif life.alive:
                life.happen(kind, what)
            assert len(self.journal) < _MOST_EVENTS, "the run goes on for ever"
        self._check_the_end()
        return self

    def _standing(self) -> str:
        life = self.lives[-1]
        statuses = {task.path: task.status for task in life.state.tasks.values() if not task.terminal}
        return f"{statuses}, outstanding {list(life.state.pending)}, held {list(life.state.held)}"

    def _life(self, skew_ms: int = 0) -> Life:
        self._fence += 1
        life = Life(self, len(self.lives) + 1, self._fence, skew_ms)
        self.lives.append(life)
        self.tell(f"engine {life.number} begins")
        return life

    # --- time

    def at(self, at_ms: int, life: Life | None, kind: str, what: Any = None) -> None:
        """Let something happen at a time; at once where it has passed."""
        heapq.heappush(self._heap, (max(at_ms, self.now_ms), self.token(), life, kind, what))

    def after(self, delay_ms: int, life: Life | None, kind: str, what: Any = None) -> None:
        """Let something happen later."""
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self.token(), life, kind, what))

    def token(self) -> int:
        """A number that was never given before."""
        self._tokens += 1
        return self._tokens

    def gathering_ms(self) -> int:
        """How long an engine gathers what happens before it looks at it."""
        return self.chance.randrange(12) if self.chance.random() < self._together else 0

    # --- the journal

    def append(self, life: Life, events: list[Event]) -> bool:
        """Write events; False where the engine is no more."""
        before = self._strikes(life, "crash before an append", "crash inside an append", "lease lost")
        if before == "crash before an append":
            self.die(life, before)
            return False
        if before == "lease lost":
            self._take_the_lease()
        if life.fence != self._fence:
            self.count("appends refused")
            self.die(life, "append refused: another engine has the run", again=False)
            return False
        if before == "crash inside an append":
            events = events[: self.chance.randrange(1, len(events) + 1)]
        for event in events:
            self.journal.append(encode_event(event))
            if self._heeds:
                self.story.append(f"  {self.now_ms - _FIRST_MS:>7} {life.number} {_line(event)}")
            self.monitor.recorded(len(self.journal), event, life.state)
            if isinstance(event, AttemptSucceeded):
                for key, ttl_ms in event.keep.items():
                    self._kept[key] = (event.outputs, event.at_ms, ttl_ms)
            signal = getattr(event, "signal", "")
            if signal:
                self._signals.pop(signal, None)
        self.counts["events"] += len(events)
        if before == "crash inside an append":
            self.die(life, before)
            return False
        self.monitor.check(life.state, events)
        self._expect_people(life.state)
        after = self._strikes(life, "crash after an append")
        if after:
            self.die(life, after)
            return False
        return True

    _heeds = False

    def heed(self) -> World:
        """Keep the story in full, to be told."""
        self._heeds = True
        return self

    def tell(self, line: str) -> None:
        """Add to the story."""
        if self._heeds:
            self.story.append(f"# {self.now_ms - _FIRST_MS:>7} {line}")

    def count(self, what: str) -> None:
        """Count something that happened."""
        self.counts[what] += 1

    def waiting_signals(self) -> list[SignalRecord]:
        """Signals that were recorded and not applied."""
        return list(self._signals.values())

    def recalled(self, asked: LookUp, now_ms: int) -> Event:
        """What the store keeps; of keys that this run never wrote, sometimes what an earlier run left."""
        found = self._kept.get(asked.kept)
        if found is None and self.chance.random() < 0.3:
            found = ({"n": 1, "old": True}, now_ms - 10, 0)
        head: dict[str, Any] = {"at_ms": now_ms, "task": asked.task, "attempt": asked.attempt}
        if found is None or found[1] < asked.not_before_ms or (found[2] and found[1] + found[2] < now_ms):
            return Recalled(**head)
        self.count("outputs recalled")
        return Recalled(found=True, outputs=found[0], run="an-earlier-one", made_at_ms=found[1], **head)

    # --- what goes wrong

    def _strikes(self, life: Life, *kinds: str) -> str:
        """Which of these faults happens now; empty for none."""
        if not self._faults_left or self.chance.random() >= self._crashes:
            return ""
        kind = self.chance.choice(kinds)
        if kind in self._without or not life.alive or (not self.journal and "after" not in kind):
            return ""
        return self._fault(kind)

    def _fault(self, kind: str) -> str:
        self._faults_left -= 1
        self.count(kind)
        return kind

    def _may(self, kind: str, rate: float) -> bool:
        return bool(self._faults_left and kind not in self._without and self.chance.random() < rate)

    def dies_while_acting(self, life: Life, effects: int) -> int:
        """After how many of its effects the engine dies; -1 for not at all."""
        if effects > 1 and self._strikes(life, "crash among effects"):
            return self.chance.randrange(effects)
        return -1

    def die(self, life: Life, why: str, *, again: bool = True) -> None:
        """An engine is gone; another will take the run over. What its agents do may still be heard of."""
        life.alive = False
        self.tell(f"engine {life.number} dies: {why}")
        for event in life.unfinished():
            if self._may("result of a dead engine", 0.2):
                self._fault("result of a dead engine")
                self.after(self.chance.randrange(300), None, "late", event)
        if again:
            self.after(self.chance.randrange(200), None, "take over")

    def _take_the_lease(self) -> None:
        skew_ms = self._skew()
        life = self._life(skew_ms)
        life.take_over()

    def _skew(self) -> int:
        if self._may("clock jump", 0.1):
            self._fault("clock jump")
            return self.chance.choice((-5_000, -200, 200, 5_000))
        return 0

    def maybe_again(self, event: Event) -> None:
        """A result that was told may be told again."""
        if self._may("result told twice", 0.03):
            self._fault("result told twice")
            self.after(self.chance.randrange(100), None, "late", event)

    def _happen(self, kind: str, what: Any) -> None:
        match kind:
            case "take over":
                if not any(life.alive for life in self.lives):
                    self._life(self._skew()).take_over()
            case "late":
                for life in self.lives[-2:]:
                    if life.alive:
                        life.tell(what)
            case "signal":
                self._signal(what)
            case "person":
                self._answer(what)
            case "reopen":
                self._reopen()

    def outcome(self, going_on: Attempt, plan: TaskPlan | None) -> tuple[int, Outcome]:
        """How long an attempt takes, and what it gives."""
        chance = self.chance
        takes_ms = chance.randrange(1, 40)
        if chance.random() < self._slow:
            takes_ms = chance.randrange(40, 1500)
        limits = plan.timeouts if plan is not None else None
        if limits is not None and limits.execution_ms is not None and takes_ms > limits.execution_ms:
            return limits.execution_ms, Failure("EXECUTION_TIMEOUT", "too slow", retryable=True)
        asked = f"{self._seed} {going_on.path} {going_on.agent} {going_on.action}"
        hopeless = crc32(asked.encode()) % 1000 < 1000 * self._hopeless
        if chance.random() >= self._failing and not hopeless:
            return takes_ms, Succeeded({"n": going_on.attempt} if chance.random() < 0.6 else {})
        code = chance.choice(("FLAKY", "FLAKY", "BAD", "AGENT_LOST"))
        wait_ms = chance.randrange(50) if chance.random() < 0.1 else None
        return takes_ms, Failure(code, "bad luck", retryable=code != "BAD", retry_after_ms=wait_ms)

    # --- people

    def _plan_signals(self) -> None:
        chance = self.chance
        for _ in range(2):
            if self._may("cancel", 0.15):
                self._fault("cancel")
                self.after(chance.randrange(600), None, "signal", ("cancel", {}))
        if self._may("junk signal", 0.15):
            self._fault("junk signal")
            body = chance.choice(
                ({"task": "s0/t0", "choice": "skip"}, {"task": "no/such", "choice": "fail"}, {}, {"task": 5})
            )
            kind = chance.choice(("answer", "answer", "approve"))
            self.after(chance.randrange(400), None, "signal", (kind, body))

    def _expect_people(self, state: RunState) -> None:
        for path in state.held:
            if path not in self._asked:
                self._asked.add(path)
                self.after(self.chance.randrange(1, 300), None, "person", path)

    @property
    def _asked(self) -> set[TaskPath]:
        return self.monitor.asked

    def _answer(self, path: TaskPath) -> None:
        """A person answers a task that is held; sometimes wrongly, and then again."""
        self._asked.discard(path)
        alive = [life for life in self.lives if life.alive and path in life.state.held]
        if not alive:
            if self._over or any(life.alive for life in self.lives):
                return
            self._asked.add(path)
            self.after(50, None, "person", path)
            return
        hold = alive[-1].state.tasks[path].hold
        assert hold is not None
        choices = list(hold.choices or ANSWERS)
        if alive[-1].state.tasks[path].undoes is not None and choices != ["rollback"]:
            choices = [choice for choice in choices if choice != "rollback"]
        body: dict[str, Any] = {"task": path, "choice": self.chance.choice(choices)}
        if body["choice"] == "override":
            body["outputs"] = {"n": -1}
        if self._may("wrong answer", 0.2):
            self._fault("wrong answer")
            body = self.chance.choice(({"task": path, "choice": "maybe"}, {"task": path, "choice": "override"}))
        self._signal(("answer", body))
        self._asked.add(path)
        self.after(self.chance.randrange(100, 400), None, "person", path)

    def _signal(self, what: tuple[str, dict[str, Any]]) -> None:
        kind, body = what
        name = f"signal-{self.token()}"
        signal = SignalRecord(name, RunId("simulated"), kind, "somebody", "for a reason", body, self.now_ms)
        self._signals[name] = signal
        self.count("signals")
        self.tell(f"signal {kind} {body}")
        for life in self.lives[-2:]:
            if life.alive:
                life.tell(*[signal] * self.chance.choice((1, 1, 2)))

    # --- after the end

    def ended(self, life: Life) -> None:
        """An engine brought the run to its end."""
        self.tell(f"the run {life.state.status}")
        self.count(f"runs {life.state.status}")
        self._check_the_fold(life.state)
        if self._reopenings and "reopened" not in self._without and life.state.status != "rolled_back":
            self._reopenings -= 1
            self.after(self.chance.randrange(500), None, "reopen")
        else:
            self._over = True

    def _reopen(self) -> None:
        state = RunState(self.plan)
        for body in self.journal:
            state.apply(decode_event(body))
        how = self.chance.choice(("retry", "from task", "from task", "rollback"))
        from_task = TaskPath("")
        tasks = [path for path, task in state.tasks.items() if task.undoes is None]
        if how == "from task" and state.status != "rollback_failed" and tasks:
            from_task = self.chance.choice(tasks)
        elif state.status == "succeeded":
            how = "rollback"
        undoes = how == "rollback" or state.status == "rollback_failed"
        self._faults_left += 3
        self._fault("reopened")
        self.tell(f"reopened: {how} {from_task}")
        asked = RunReopened(at_ms=self.now_ms, from_task=from_task, rollback=undoes)
        self._life(self._skew()).take_over(asked)
        if not any(life.alive for life in self.lives) and not self._over:
            self.after(1, None, "take over")

    def forked(self) -> World | None:
        """A new run that shares a part of the past, brought to its end; None where none was wanted."""
        if not self._forks or "forked" in self._without:
            return None
        at = self.chance.randrange(1, len(self.journal))
        created = decode_event(self.journal[0])
        assert isinstance(created, RunCreated)
        inputs = created.inputs | {"number": 8}
        first = msgspec.structs.replace(created, run_id="forked", inputs=inputs, forked_from="simulated", forked_at=at)
        state = RunState(self.plan)
        past = [encode_event(first), *self.journal[1:at]]
        for body in past:
            state.apply(decode_event(body))
        if state.finished or state.undoing is not None:
            return None
        self._fault("forked")
        self.tell(f"forked at event {at}")
        fork = World(self.plan, self._registry, seed=f"{self._seed} fork", without=self._without, most_faults=4)
        fork._forks = False
        fork._heeds = self._heeds
        fork.story = self.story
        before = list(self.journal)
        fork.continue_from(past)
        assert self.journal == before, "a fork changed the run that it was made of"
        self.counts.update(fork.counts)
        return fork

    # --- at the end

    def _check_the_end(self) -> None:
        for life in self.lives:
            assert not life.alive or life.fence < self._fence, "an engine goes on after the end"

    def _check_the_fold(self, state: RunState) -> None:
        """The journal, folded anew, is the state that the engine had; every prefix of it can go on."""
        again = RunState(self.plan)
        for number, body in enumerate(self.journal, 1):
            event = decode_event(body)
            if isinstance(event, TaskScheduled):
                wanted = isinstance(again.pending.get(event.task), StartTask)
                assert wanted, f"folded anew, '{event.task}' begins (event {number}) though it was not its turn"
            again.apply(event)
            assert again.pending or again.held or again.finished, f"the first {number} events wait for nothing"
        found = difference(state, again)
        assert not found, f"folded anew, the state differs: {found}"


def _line(event: Event) -> str:
    text = encode_event(event).decode()
    return text.replace(f'"at_ms":{event.at_ms},', "")
