"""Says what each unfinished part of a run waits for. Pure: state and what was observed in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from noa.engine.commands import SetTimer
from noa.engine.nodes import StageNode, TaskNode
from noa.engine.state import RunState
from noa.model.events import ANSWERS, Hold
from noa.model.execution import Observation, Stage, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath

__all__ = ["Wait", "WaitKind", "explain_wait"]

WaitKind: TypeAlias = Literal[
    "dependency",  # other tasks or stages
    "slot",  # a slot of max_parallel
    "resource",
    "agent",  # a free or starting agent
    "work",  # an agent is doing it
    "cache",  # the store is being asked for outputs that are kept
    "timer",
    "person",  # somebody must answer
    "rollback",  # what must be undone before it
    "limit",  # not a wait: when a timeout of the run or of a stage ends it
    "cancellation",  # an agent was told to end
    "engine",  # nothing but the next move of the engine itself
]
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task, or a stage that has no task yet, waits for.

    Attributes:
        subject: Path of the task, or name of the stage.
        stage: Name of the stage.
        kind: What sort of thing it waits for.
        reason: A sentence without its subject, such as "waits for init/hash".
        names: What it waits for by name: tasks, stages, the agent, the pool; also those that `reason` leaves out.
        since_ms: When it began to wait, UTC epoch milliseconds; None where nobody can know.
        due_ms: When a timer lets it go on; None where there is none.
        question: What a person is asked; empty where nobody is, or nothing was said.
        choices: What a person can answer.
        default: The answer that counts at `due_ms`, where nobody answers before.
    """

    subject: str
    stage: str
    kind: WaitKind
    reason: str
    names: tuple[str, ...] = ()
    since_ms: int | None = None
    due_ms: int | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    default: str = ""


def explain_wait(
    state: RunState, now_ms: int, seen: Mapping[TaskPath, Observation] | None = None, *, driven: bool = True
) -> list[Wait]:
    """One Wait for each unfinished task of an open stage and for each stage that has not begun; none when all is over.

    Where a timeout of the run or of a stage is running, a Wait of kind "limit" says when it ends that. While the run is
    rolled back, there is one for each task that is not undone yet.

    Args:
        state: Of the run.
        now_ms: UTC epoch milliseconds; sentences about time count from here.
        seen: The latest `Stage` or `Waiting` observation of tasks, where it is known.
        driven: Whether an engine drives the run now; else attempts that were going on wait for one.
    """
    if state.finished:
        return []
    seen = seen or {}
    waits: list[Wait] = []
    for stage in state.stages.values():
        if stage.status in ("pending", "opening"):
            waits.append(_stage(state, stage))
        elif stage.hold is not None:
            waits.append(_held_stage(state, stage, now_ms))
        elif stage.status == "running":
            for block in stage.blocks.values():
                if not block.done:
                    waits += [_one(state, t, now_ms, seen, driven) for t in block.tasks if not t.terminal]
            if stage.advancing or not any(not b.done for b in stage.blocks.values()):
                name = stage.plan.name
                waits.append(Wait(name, name, "engine", "is about to open or to close", since_ms=_began(state, stage)))
    if state.undoing is not None:
        waits += _undoing(state, now_ms, seen, driven)
    if not waits:
        waits.append(Wait(state.plan.name, "", "engine", "is about to finish", since_ms=state.now_ms))
    return waits + list(_limits(state, now_ms))


def _one(state: RunState, task: TaskNode, now_ms: int, seen: Mapping[TaskPath, Observation], driven: bool) -> Wait:
    if driven or not task.attempt:
        return _task(state, task, now_ms, seen.get(task.path))
    return _left(state, task, now_ms)


def _stage(state: RunState, stage: StageNode) -> Wait:
    name = stage.plan.name
    open_names = tuple(d for d in stage.plan.depends_on if not state.stages[d].terminal)
    if stage.status == "pending" and open_names:
        reason = f"waits for {_named('stage', open_names)}"
        return Wait(name, name, "dependency", reason, open_names, since_ms=state.created_ms)
    return Wait(name, name, "engine", "is about to open", since_ms=state.now_ms)


def _task(state: RunState, task: TaskNode, now_ms: int, seen: Observation | None) -> Wait:
    path, stage, since = task.path, task.stage.plan.name, _since(state, task)
    match task.status:
        case "pending":
            names = tuple(_open_dependencies(state, task))
            return Wait(path, stage, "dependency", f"waits for {_named('', names)}", names, since)
        case "ready":
            return _slot(state, task, since)
        case "retrying":
            return _retry(state, task, now_ms, since)
        case "held":
            return _held(state, task, now_ms, since)
        case "recalling":
            reason = "looks for outputs that are kept from an earlier run"
            return Wait(path, stage, "cache", reason, since_ms=since)
        case "cancelling":
            reason = f"is being cancelled: {_asked(task)} was told to end attempt {task.attempt}"
            return Wait(path, stage, "cancellation", reason, (task.agent,) if task.agent else (), since)
        case "running":
            return _running(state, task, now_ms, seen)
        case "recovering":
            reason = f"failed ({task.failure}); the recovery chain is being asked"
            return Wait(path, stage, "engine", reason, since_ms=since)
        case _:
            return Wait(path, stage, "engine", "is about to start", since_ms=since)


def _left(state: RunState, task: TaskNode, now_ms: int) -> Wait:
    """Nobody drives the run, and the task had begun."""
    if task.status not in ("running", "cancelling"):
        return _task(state, task, now_ms, None)
    where = f"with agent '{task.agent}'" if task.agent else f"as sub-workflow '{task.plan.workflow}'"
    next_ = "ends it, as the run's cancellation is recorded" if task.status == "cancelling" else "asks for it again"
    reason = f"was going on {where} (attempt {task.attempt}) when its engine went away; a resume {next_}"
    return Wait(task.path, task.stage.plan.name, "engine", reason, since_ms=task.started_ms)


def _open_dependencies(state: RunState, task: TaskNode) -> Iterator[str]:
    for edge in task.plan.edges:
        other = task.block.tasks[edge.index]
        if not other.terminal:
            yield other.path
    for dependency in task.plan.depends_on:
        stage = state.stages[dependency.stage]
        if not stage.terminal:
            yield f"{dependency.stage}/{dependency.task}" if dependency.task else f"stage {dependency.stage}"


def _slot(state: RunState, task: TaskNode, since_ms: int) -> Wait:
    stage = task.stage
    if state.paused:
        reason = f"may begin, but {state.paused} has paused the run"
        return Wait(task.path, stage.plan.name, "person", reason, (state.paused,), since_ms)
    limit = stage.plan.max_parallel
    if limit is not None and stage.active >= limit and not task.slot:
        holders = tuple(
            t.path for b in stage.blocks.values() if not b.done for t in b.tasks if t.slot and t is not task
        )
        where = f"stage '{stage.plan.name}'"
    else:
        limit = state.plan.max_parallel
        holders = tuple(t.path for t in state.tasks.values() if t.slot and t is not task)
        where = "the workflow"
    reason = f"waits for a slot: {where} lets {limit} run at once (max_parallel), now {_named('', holders)}"
    return Wait(task.path, stage.plan.name, "slot", reason, holders, since_ms)


def _retry(state: RunState, task: TaskNode, now_ms: int, since_ms: int) -> Wait:
    due_ms = _due(state, f"retry:{task.path}") or now_ms
    failure = task.failure
    if failure is not None and failure.code == "CIRCUIT_OPEN":
        reason = f"is tried again {_in(due_ms, now_ms)}: until then a circuit breaker keeps attempts away ({failure})"
        names: tuple[str, ...] = (task.agent,)
    else:
        reason, names = f"is tried again {_in(due_ms, now_ms)}, after attempt {task.attempt} failed ({failure})", ()
    return Wait(task.path, task.stage.plan.name, "timer", reason, names, since_ms, due_ms)


def _held(state: RunState, task: TaskNode, now_ms: int, since_ms: int) -> Wait:
    return _asks(state, task.path, task.stage.plan.name, task.hold or Hold(), now_ms, since_ms, task.failure)


def _held_stage(state: RunState, stage: StageNode, now_ms: int) -> Wait:
    hold = stage.hold
    assert hold is not None
    name = stage.plan.name
    return _asks(state, name, name, hold, now_ms, stage.held_ms, None)


def _asks(
    state: RunState, subject: str, stage: str, hold: Hold, now_ms: int, since_ms: int | None, failure: Failure | None
) -> Wait:
    due_ms = _due(state, f"hold:{subject}")
    default = hold.on_timeout if due_ms is not None else ""
    reason = "is held for a person" + ("" if since_ms is None else f" {_for(since_ms, now_ms)}")
    if hold.question or failure is None:
        reason += f": {hold.question or 'what is to be done?'}"
    else:
        reason += f": it failed ({failure}); what is to be done?"
    if due_ms is not None:
        reason += f" ('{default}' counts {_in(due_ms, now_ms)} if nobody answers)"
    names, choices = tuple(hold.approvers), tuple(hold.choices) or ANSWERS
    return Wait(subject, stage, "person", reason, names, since_ms, due_ms, hold.question, choices, default)


def _running(state: RunState, task: TaskNode, now_ms: int, seen: Observation | None) -> Wait:
    path, stage, since = task.path, task.stage.plan.name, task.started_ms
    due_ms = _due(state, f"total:{path}")
    if task.plan.workflow is not None:
        verb = "is undone by rolling back" if task.undoes is not None else "runs"
        reason = f"{verb} sub-workflow '{task.plan.workflow}' {_for(since, now_ms)}"
        return Wait(path, stage, "work", reason + _until(due_ms, now_ms), (), since, due_ms)
    agent = task.agent
    match seen:
        case Waiting(kind="resource", what=what):
            return Wait(path, stage, "resource", f"waits for {what}", (what,), since)
        case Waiting(kind="agent", what=what):
            return Wait(path, stage, "agent", f"waits for a free replica of agent '{what}'", (what,), since)
        case Stage(name="starting_agent"):
            return Wait(path, stage, "agent", f"waits until agent '{agent}' has started", (agent,), since)
        case Stage(name="queued"):
            return Wait(path, stage, "agent", f"is queued for agent '{agent}'", (agent,), since)
    going = task.live or (task.attempt,)
    reason = f"runs '{task.action}' on agent '{agent}' {_for(since, now_ms)}, attempt {going[0]}"
    if len(going) > 1:
        reason += f" and beside it attempt {going[1]}: the first answer counts"
    elif (hedge_ms := _due(state, f"hedge:{path}")) is not None:
        reason += f"; a second attempt begins beside it {_in(hedge_ms, now_ms)}"
    return Wait(path, stage, "work", reason + _until(due_ms, now_ms), (agent,), since, due_ms)


def _undoing(state: RunState, now_ms: int, seen: Mapping[TaskPath, Observation], driven: bool) -> Iterator[Wait]:
    """What is not undone yet: being undone, held up by what must be undone before it, or given up."""
    undoing = state.undoing
    assert undoing is not None
    going = tuple(t.undo.path for t in undoing.left.values() if t.undo is not None and not t.undo.terminal)
    began_ms = min((t.first_ms or t.changed_ms for t in state.tasks.values() if t.undoes is not None), default=None)
    failed = tuple(t.path for t in undoing.left.values() if t.undo is not None and t.undo.terminal)
    for task in undoing.left.values():
        stage = task.stage.plan.name
        undo = task.undo
        if undo is not None and not undo.terminal:
            yield _one(state, undo, now_ms, seen, driven)
        elif undo is not None:
            reason = (
                f"could not be undone ({undo.failure or undo.status}); `noa retry` tries it again once the run is over"
            )
            yield Wait(task.path, stage, "rollback", reason, (), undo.finished_ms or undo.changed_ms)
        elif going:
            reason = f"is undone after what came later: {_named('', going)}"
            yield Wait(task.path, stage, "rollback", reason, going, began_ms)
        else:
            reason = f"is not undone, as what came later could not be: {_named('', failed)}"
            yield Wait(task.path, stage, "rollback", reason, failed, began_ms)


def _limits(state: RunState, now_ms: int) -> Iterator[Wait]:
    """When timeouts of the run and of its stages end what goes on."""
    for timer, name, began_ms in [
        ("run", state.plan.name, state.created_ms),
        *((f"stage:{name}", name, stage.started_ms) for name, stage in state.stages.items()),
    ]:
        due_ms = _due(state, timer)
        if due_ms is not None:
            what = "the run" if timer == "run" else "the stage"
            stage_name = "" if timer == "run" else name
            reason = f"has a timeout that ends {what} {_in(due_ms, now_ms)}"
            yield Wait(name, stage_name, "limit", reason, (), began_ms, due_ms)


def _due(state: RunState, timer: str) -> int | None:
    command = state.pending.get(f"timer:{timer}")
    return command.due_ms if isinstance(command, SetTimer) else None


def _since(state: RunState, task: TaskNode) -> int:
    return task.changed_ms or task.stage.started_ms or state.created_ms


def _began(state: RunState, stage: StageNode) -> int:
    return stage.started_ms or state.created_ms


def _asked(task: TaskNode) -> str:
    return f"agent '{task.agent}'" if task.agent else f"sub-workflow '{task.plan.workflow}'"


def _for(since_ms: int, now_ms: int) -> str:
    return f"since {_time(now_ms - since_ms)}"


def _in(due_ms: int, now_ms: int) -> str:
    return f"in {_time(due_ms - now_ms)}" if due_ms > now_ms else "now: the time has come"


def _until(due_ms: int | None, now_ms: int) -> str:
    return "" if due_ms is None else f"; its time is over {_in(due_ms, now_ms)}"


def _time(ms: int) -> str:
    """`2.5 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    seconds = max(0, ms) / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def _named(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return "nothing that is known"
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
    return f"{what}{'s' if what and len(names) > 1 else ''} {shown}".strip()
