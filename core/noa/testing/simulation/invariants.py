"""What must hold after every event, whatever happens. Each check looks at what the event touched, not at the whole run.

The monitor follows the journal on its own; it believes the engine's state only where it says so.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from noa.engine.commands import CancelAttempt, Execute, LookUp, SetTimer
from noa.engine.nodes import BlockNode, Past, StageNode, TaskNode
from noa.engine.rollback import Undoing
from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Complete,
    Event,
    Hold,
    LateResult,
    Recall,
    Recalled,
    RecoveryChosen,
    RollbackStarted,
    RunFinished,
    RunReopened,
    SignalApplied,
    Skip,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.failure import Failure
from noa.model.ids import TaskPath, task_path
from noa.model.plan import Plan, TaskPlan

if TYPE_CHECKING:
    from noa.testing.simulation.shell import Life

__all__ = ["Monitor", "difference"]

import os

LENIENT = bool(os.environ.get("LENIENT"))
_BAD = frozenset({"failed", "blocked", "cancelled"})
_COMPENSATION = "~compensate"


class Monitor:
    """Follows one run.

    Attributes:
        live: Attempts that go on, by task.
        done: Tasks that must not be executed again.
        asked: Tasks about which a person thinks.
    """

    def __init__(self, plan: Plan) -> None:
        self.live: dict[TaskPath, set[int]] = {}
        self.done: set[TaskPath] = set()
        self.asked: set[TaskPath] = set()
        self._plan = plan
        self._limits = {name: stage.max_parallel for name, stage in plan.stages.items()}
        self._busy: dict[str, int] = {}
        self._attempts: dict[TaskPath, int] = {}
        self._looking: set[TaskPath] = set()
        self._holds: dict[TaskPath, Hold] = {}
        self._begun: dict[TaskPath, TaskPlan] = {}
        self._unknown: set[TaskPath] = set()
        self._successes: Counter[TaskPath] = Counter()
        self._undone: Counter[TaskPath] = Counter()
        self._to_undo: dict[TaskPath, int] | None = None
        self._after: dict[TaskPath, set[TaskPath]] = {}
        self._signals: set[str] = set()
        self._checks = 0

    # --- events, one by one, as they are written

    def recorded(self, seq: int, event: Event, state: RunState) -> None:
        """An event is on disk.

        Args:
            state: Of the engine that wrote it, which may be some events ahead.

        Raises:
            AssertionError: It must not have happened.
        """
        try:
            self._recorded(event, state)
        except AssertionError as error:
            raise AssertionError(f"event {seq} {type(event).__name__}: {error}") from error

    def _recorded(self, event: Event, state: RunState) -> None:
        signal = getattr(event, "signal", "")
        assert not signal or signal not in self._signals, f"signal {signal} counts twice"
        self._signals.add(signal)
        match event:
            case TaskScheduled(task=path):
                self._scheduled(event, state)
            case AttemptSucceeded(task=path, attempt=attempt):
                assert attempt in self.live.get(path, ()), f"attempt {attempt} of '{path}' was not going on"
                self._idle(path)
                self._successes[path] += 1
                self._over(path)
            case AttemptFailed(task=path, attempt=attempt):
                assert attempt in self.live.get(path, ()), f"attempt {attempt} of '{path}' was not going on"
                self.live[path].discard(attempt)
                if not self.live[path]:
                    self._idle(path)
            case RecoveryChosen(task=path, decision=decision):
                self._chosen(path, decision)
            case Recalled(task=path, attempt=attempt, found=found):
                assert not self.live.get(path), f"'{path}' is executed while the store is asked"
                if found:
                    self._over(path)
                elif path in self._looking:
                    self._begin(path, attempt, state)
                self._looking.discard(path)
            case TaskSkipped(task=path):
                self._over(path)
            case SignalApplied(task=path, body=body):
                self._answered(path, str(body.get("choice")))
            case TimerFired(timer=timer):
                self._fired(timer)
            case LateResult(task=path, attempt=attempt):
                assert attempt not in self.live.get(path, ()), f"a result of '{path}' that was waited for came late"
            case RollbackStarted():
                self._rollback(state)
            case RunFinished():
                self._finished(event)

    def _scheduled(self, event: TaskScheduled, state: RunState) -> None:
        path = event.task
        assert not self.live.get(path), f"'{path}' is executed twice at once"
        assert path not in self.done, f"'{path}' was done and is executed again"
        before = self._attempts.get(path, 0)
        assert event.attempt > before, f"'{path}': attempt {event.attempt} after {before}"
        self._attempts[path] = event.attempt
        task = state.tasks[path]
        if path.endswith(_COMPENSATION):
            self._compensates(path)
        else:
            assert self._to_undo is None, f"'{path}' begins while the run is undone"
            for other in _depends_on(task, state):
                assert other.terminal, (
                    f"'{path}' begins before {_name(other)}, which it depends on and is {other.status}"
                )
        if event.cache_key:
            self._looking.add(path)
        else:
            self._begin(path, event.attempt, state)

    def _begin(self, path: TaskPath, attempt: int, state: RunState) -> None:
        self.live[path] = {attempt}
        if not path.endswith(_COMPENSATION):
            self._begun[path] = state.tasks[path].plan
            self._unknown.add(path)
        name = _stage_of(path)
        busy = self._busy[name] = self._busy.get(name, 0) + 1
        limit = self._limits[name]
        assert limit is None or busy <= limit, f"stage '{name}' runs {busy} tasks at once, at most {limit} are allowed"
        total = self._busy[""] = self._busy.get("", 0) + 1
        limit = self._plan.max_parallel
        assert limit is None or total <= limit, f"{total} tasks run at once, at most {limit} are allowed"

    def _idle(self, path: TaskPath) -> None:
        if self.live.pop(path, None) is not None:
            self._busy[_stage_of(path)] -= 1
            self._busy[""] -= 1

    def _over(self, path: TaskPath) -> None:
        if path.endswith(_COMPENSATION):
            self._compensated(path)
        else:
            self.done.add(path)

    def _chosen(self, path: TaskPath, decision: Any) -> None:
        assert not self.live.get(path), f"the chain of '{path}' is asked while an attempt goes on"
        assert path not in self.done, f"the chain of '{path}' is asked, which is done"
        if isinstance(decision, Complete | Skip):
            self._over(path)
        elif isinstance(decision, Hold):
            self._holds[path] = decision
        elif isinstance(decision, Recall):
            self._looking.discard(path)

    def _answered(self, path: TaskPath, choice: str) -> None:
        assert self._holds.pop(path, None) is not None, f"an answer was applied to '{path}', which did not ask"
        if choice in {"skip", "override"}:
            self._over(path)

    def _fired(self, timer: str) -> None:
        kind, _, name = timer.partition(":")
        path = TaskPath(name)
        if kind == "hedge":
            assert len(self.live.get(path, ())) == 1, f"'{path}' is hedged while {self.live.get(path)} go on"
            self._attempts[path] += 1
            self.live[path].add(self._attempts[path])
        elif kind == "hold" and path in self._holds:
            self._answered(path, self._holds[path].on_timeout)

    # --- rollback

    def _rollback(self, state: RunState) -> None:
        assert not any(self.live.values()), f"the rollback begins while {self._going_on()} go on"
        self._to_undo, self._after = {}, {}
        for path, plan in self._begun.items():
            owed = self._successes[path] - self._undone[path] if plan.compensate is not None else 0
            if path in self._unknown and _after_attempt(plan):
                owed = max(owed, 1)
            if owed > 0:
                self._to_undo[path] = owed
                self._after[path] = set()
        for path in self._to_undo:
            if path in state.tasks:
                for before in _all_before(state.tasks[path], state):
                    if before in self._after:
                        self._after[before].add(path)

    def _compensates(self, path: TaskPath) -> None:
        undone = _undone_by(path)
        assert self._to_undo is not None, f"'{path}' runs without a rollback"
        assert undone in self._to_undo or _after_attempt(self._begun[undone]), (
            f"'{undone}' is undone, which did nothing"
        )
        first = [other for other in self._after.get(undone, ()) if other in self._to_undo]
        assert not first, f"'{undone}' is undone before {sorted(first)}, which depend on it"

    def _compensated(self, path: TaskPath) -> None:
        undone = _undone_by(path)
        self._undone[undone] += 1
        self._unknown.discard(undone)
        most = self._attempts[undone] if _after_attempt(self._begun[undone]) else self._successes[undone]
        assert self._undone[undone] <= most, (
            f"'{undone}' is undone {self._undone[undone]} times, it was done {most} times"
        )
        if self._to_undo is not None and undone in self._to_undo:
            self._to_undo[undone] -= 1
            if not self._to_undo[undone]:
                del self._to_undo[undone]

    # --- the end, and what follows

    def _finished(self, event: RunFinished) -> None:
        assert not any(self.live.values()), f"the run is over while {self._going_on()} go on"
        rolled = event.status in {"rolled_back", "rollback_failed"}
        assert rolled == (self._to_undo is not None), f"the run {event.status}"
        if self._to_undo is not None:
            hidden = sorted(self._to_undo.keys() - set(event.left))
            assert not hidden, f"the run {event.status}, left are {event.left}; {hidden} were not undone either"
            wrong = [path for path in event.left if path not in self._to_undo and not _after_attempt(self._begun[path])]
            assert not wrong, f"the run {event.status}, left are {event.left}; {wrong} were undone"
            assert (event.status == "rolled_back") == (not event.left), f"the run {event.status}, left are {event.left}"

    def _going_on(self) -> list[TaskPath]:
        return [path for path, attempts in self.live.items() if attempts]

    def reopening(self, state: RunState, asked: RunReopened) -> None:
        """The run goes on; told before the event is applied. What is done stays, but for what depends on the rest."""
        self._to_undo = None
        self._holds.clear()
        self._looking.clear()
        if asked.rollback:
            return
        again = _redone(state, asked.from_task)
        self.done -= again
        self.asked.clear()

    def forked(self) -> None:
        """What follows is a run of its own: what was done before is not its to undo, but for what goes on."""
        self._successes.clear()
        self._undone.clear()
        self._unknown = {path for path, attempts in self.live.items() if attempts}

    # --- states

    def check(self, state: RunState, events: Iterable[Event]) -> None:
        """What an append left, as far as its events touched it."""
        assert state.finished or state.pending or state.held, "nothing will ever move this run"
        for path in {event.task for event in events if isinstance(event, _OF_A_TASK)}:
            task = state.tasks.get(path)
            if task is not None:
                assert set(task.live) == self.live.get(path, set()), (
                    f"'{path}' has the attempts {task.live}, its events say {self.live.get(path)}"
                )
        if state.finished:
            self.check_all(state)

    def check_all(self, state: RunState) -> None:
        """Count what the state counts."""
        counts: dict[str, int] = {}
        slots: dict[str, int] = {}
        for task in state.tasks.values():
            counts[task.status] = counts.get(task.status, 0) + 1
            if task.slot:
                slots[task.stage.plan.name] = slots.get(task.stage.plan.name, 0) + 1
        kept = {status: number for status, number in state.counts.items() if number}
        assert counts == kept, f"counted {counts}, kept {kept}"
        for name, stage in state.stages.items():
            assert stage.active == slots.get(name, 0), f"stage '{name}' counts {stage.active} slots of {slots}"
        assert state.open_stages == sum(1 for stage in state.stages.values() if not stage.terminal), "open stages"
        if state.finished:
            open_ = [task.path for task in state.tasks.values() if not task.terminal]
            assert not open_, f"the run is over, and {open_} are not"
            assert not state.held, f"the run is over, and {list(state.held)} are held"

    def executing(self, life: Life, path: TaskPath, attempt: int) -> None:
        """An engine has an agent begin."""
        others = [each.attempt for each in life.attempts.values() if each.path == path and each.attempt != attempt]
        assert (path, attempt) not in life.attempts, f"attempt {attempt} of '{path}' is executed twice at once"
        running = [each for each in others if each in self.live.get(path, ())]
        assert len(running) <= 1, f"attempt {attempt} of '{path}' begins beside {running}"
        assert path not in self.done, f"'{path}' is done and is executed again"

    def check_outstanding(self, life: Life) -> None:
        """What the state waits for is really under way; looked at now and then in large runs."""
        state = life.state
        self._checks += 1
        if len(state.pending) > 8 and self._checks % 16:
            return
        told = len(life.inbox)
        for command in state.pending.values():
            match command:
                case Execute(task=path, attempt=attempt) | CancelAttempt(task=path, attempt=attempt):
                    here = (path, attempt) in life.attempts
                case SetTimer(timer=timer):
                    here = timer in life.timers
                case LookUp(task=path, attempt=attempt):
                    here = (path, attempt) in life.asked_store
                case _:
                    here = False
            assert here or told, f"the run waits for {command}, and nothing does it"
        if self._checks % 16 == 0:
            self.check_all(state)


_OF_A_TASK = (TaskScheduled, AttemptSucceeded, AttemptFailed, RecoveryChosen, Recalled)


def _stage_of(path: TaskPath) -> str:
    return path.partition("/")[0].partition("[")[0]


def _undone_by(path: TaskPath) -> TaskPath:
    return TaskPath(path.removesuffix(_COMPENSATION))


def _after_attempt(plan: TaskPlan) -> bool:
    """Whether what began is undone too: a child run that did not succeed has undone nothing by itself."""
    return plan.compensate_after == "attempt" if plan.compensate is not None else plan.workflow is not None


def _name(node: TaskNode | StageNode) -> str:
    return f"'{node.path}'" if isinstance(node, TaskNode) else f"stage '{node.plan.name}'"


def _depends_on(task: TaskNode, state: RunState) -> Iterable[TaskNode | StageNode]:
    """What must be over before a task begins; the state is believed as to who is over."""
    for edge in task.plan.edges:
        yield task.block.tasks[edge.index]
    for dependency in task.plan.depends_on:
        stage = state.stages[dependency.stage]
        one = state.tasks.get(task_path(dependency.stage, "", dependency.task)) if dependency.task else None
        yield one if one is not None and stage.plan.single else stage
    for name in task.stage.plan.depends_on:
        yield state.stages[name]


def _all_before(task: TaskNode, state: RunState) -> set[TaskPath]:
    """All tasks that a task depends on, directly or not."""
    found: set[TaskPath] = set()
    seen: set[int] = set()
    queue: deque[TaskNode | StageNode | BlockNode] = deque(_direct(task, state))
    while queue:
        node = queue.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, TaskNode):
            found.add(node.path)
            queue.extend(_direct(node, state))
        elif isinstance(node, BlockNode):
            queue.extend(node.tasks)
        else:
            queue.extend(task for block in node.blocks.values() for task in block.tasks)
            queue.extend(state.stages[name] for name in node.plan.depends_on)
    return found


def _direct(task: TaskNode, state: RunState) -> Iterable[TaskNode | StageNode | BlockNode]:
    yield from _depends_on(task, state)
    if task.block.after is not None:
        yield task.block.after


def _redone(state: RunState, from_task: TaskPath) -> set[TaskPath]:
    """What a reopened run may do again: all that depends on what failed or was named; rather too much."""
    stages: set[str] = set()
    tasks: set[TaskPath] = set()
    queue: deque[TaskNode | str] = deque()
    for name, stage in state.stages.items():
        failed = [t for b in stage.blocks.values() for t in b.tasks if t.status in _BAD]
        queue.extend(t for t in failed if not (t.plan.optional and t.status == "failed"))
        if stage.status in _BAD and not stage.blocks:
            queue.append(name)
        elif stage.status in _BAD:
            queue.extend(stage.plan.dependents)
    if from_task:
        named = state.tasks[from_task]
        queue.append(named.stage.plan.name if named.stage.plan.repeats else named)
    while queue:
        node = queue.popleft()
        if isinstance(node, str):
            if node in stages:
                continue
            stages.add(node)
            inside = [t for block in state.stages[node].blocks.values() for t in block.tasks]
            tasks.update(t.path for t in inside)
            touched = node
        else:
            if node.path in tasks:
                continue
            tasks.add(node.path)
            queue.extend(node.block.tasks[index] for index in node.block.template.dependents[node.index])
            touched = node.stage.plan.name
        for name, stage in state.stages.items():
            if touched in stage.plan.depends_on:
                queue.append(name)
            for block in stage.blocks.values():
                queue.extend(t for t in block.tasks if any(d.stage == touched for d in t.plan.depends_on))
    return tasks


# --- equal states ------------------------------------------------------------------------------------------------

_LEFT_OUT = frozenset({"plan", "_out", "read", "template"})


def difference(one: RunState, other: RunState) -> str:
    """Where two states of a run differ; empty where they are equal."""
    found = _differ(vars(one), vars(other), "state")
    if found:
        return found
    for name, stage in one.stages.items():
        found = _differ(_slots(stage), _slots(other.stages[name]), f"stage {name}")
        if found:
            return found
        for key, block in stage.blocks.items():
            found = _differ(_slots(block), _slots(other.stages[name].blocks[key]), f"block {name}[{key}]")
            if found:
                return found
    for path, task in one.tasks.items():
        found = _differ(_slots(task), _slots(other.tasks[path]), f"task {path}")
        if found:
            return found
    return ""


def _slots(node: Any) -> dict[str, Any]:
    return {name: getattr(node, name) for name in node.__slots__}


def _differ(one: dict[str, Any], other: dict[str, Any], where: str) -> str:
    for name, value in one.items():
        if name in _LEFT_OUT:
            continue
        if value is other[name] or (type(value) in _PLAIN and value == other[name]):
            continue
        here, there = _plain(value), _plain(other[name])
        if here != there:
            return f"{where}.{name}: {here!r} and {there!r}"
    return ""


_PLAIN = frozenset({int, str, float, bool, Failure})


def _plain(value: Any) -> Any:
    """A value in which nodes are named, so that it can be compared."""
    plain = _AS_PLAIN.get(type(value))
    return value if plain is None else plain(value)


_AS_PLAIN: dict[type, Callable[[Any], Any]] = {
    TaskNode: lambda node: f"<task {node.path}>",
    StageNode: lambda node: f"<stage {node.plan.name}>",
    BlockNode: lambda node: f"<block {node.stage.plan.name}[{node.key}]>",
    Past: _slots,
    Undoing: lambda undoing: {name: _plain(part) for name, part in _slots(undoing).items()},
    dict: lambda mapping: {_plain(key): _plain(part) for key, part in mapping.items()},
    set: lambda parts: {_plain(part) for part in parts},
    list: lambda parts: tuple(map(_plain, parts)),
    tuple: lambda parts: tuple(map(_plain, parts)),
    deque: lambda parts: tuple(map(_plain, parts)),
}
