"""Says what each unfinished part of a run waits for. Pure: state and what was observed in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from noa.engine.commands import SetTimer
from noa.engine.nodes import StageNode, TaskNode
from noa.engine.state import RunState
from noa.model.execution import Observation, Stage, Waiting
from noa.model.ids import TaskPath

__all__ = ["Wait", "WaitKind", "explain_wait"]

WaitKind: TypeAlias = Literal[
    "dependency",  # other tasks or stages
    "slot",  # a slot of max_parallel
    "resource",
    "agent",  # a free or starting agent
    "work",  # an agent is doing it
    "timer",
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
        since_ms: When it began to wait, UTC epoch milliseconds; None where that is not recorded.
        due_ms: When a timer lets it go on; None where there is none.
    """

    subject: str
    stage: str
    kind: WaitKind
    reason: str
    names: tuple[str, ...] = ()
    since_ms: int | None = None
    due_ms: int | None = None


def explain_wait(
    state: RunState, now_ms: int, seen: Mapping[TaskPath, Observation] | None = None, *, driven: bool = True
) -> list[Wait]:
    """One Wait for each unfinished task of an open stage and for each stage that has not begun; none when all is over.

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
        elif stage.status == "running":
            for block in stage.blocks.values():
                if not block.done:
                    waits += [
                        _task(state, t, now_ms, seen.get(t.path))
                        if driven or not t.attempt
                        else _left(state, t, now_ms)
                        for t in block.tasks
                        if not t.terminal
                    ]
            if stage.advancing or not any(not b.done for b in stage.blocks.values()):
                waits.append(Wait(stage.plan.name, stage.plan.name, "engine", "is about to open or to close"))
    if not waits:
        waits.append(Wait(state.plan.name, "", "engine", "is about to finish"))
    return waits


def _stage(state: RunState, stage: StageNode) -> Wait:
    name = stage.plan.name
    open_names = tuple(d for d in stage.plan.depends_on if not state.stages[d].terminal)
    if stage.status == "pending" and open_names:
        return Wait(name, name, "dependency", f"waits for {_named('stage', open_names)}", open_names)
    return Wait(name, name, "engine", "is about to open")


def _task(state: RunState, task: TaskNode, now_ms: int, seen: Observation | None) -> Wait:
    path, stage = task.path, task.stage.plan.name
    match task.status:
        case "pending":
            names = tuple(_open_dependencies(state, task))
            return Wait(path, stage, "dependency", f"waits for {_named('', names)}", names)
        case "ready":
            return _slot(state, task)
        case "retrying":
            return _retry(state, task, now_ms)
        case "cancelling":
            reason = f"is being cancelled: agent '{task.agent}' was told to end attempt {task.attempt}"
            return Wait(path, stage, "cancellation", reason, (task.agent,), since_ms=task.started_ms)
        case "running":
            return _running(task, now_ms, seen)
        case "recovering":
            return Wait(path, stage, "engine", f"failed ({task.failure}); the recovery chain is being asked")
        case _:
            return Wait(path, stage, "engine", "is about to start")


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


def _slot(state: RunState, task: TaskNode) -> Wait:
    stage = task.stage
    limit = stage.plan.max_parallel
    if limit is not None and stage.active >= limit and not task.slot:
        holders = tuple(
            t.path for b in stage.blocks.values() if not b.done for t in b.tasks if t.slot and t is not task
        )
        where = f"stage '{stage.plan.name}'"
    else:
        limit = state.plan.max_parallel
        holders = tuple(t.path for t in state.iter_running())
        where = "the workflow"
    reason = f"waits for a slot: {where} lets {limit} run at once (max_parallel), now {_named('', holders)}"
    return Wait(task.path, stage.plan.name, "slot", reason, holders)


def _retry(state: RunState, task: TaskNode, now_ms: int) -> Wait:
    timer = state.pending.get(f"timer:retry:{task.path}")
    due_ms = timer.due_ms if isinstance(timer, SetTimer) else now_ms
    left = max(0, due_ms - now_ms)
    when = f"in {left / 1000:.1f} s" if left else "now: the time has come"
    reason = f"is tried again {when}, after attempt {task.attempt} failed ({task.failure})"
    return Wait(task.path, task.stage.plan.name, "timer", reason, due_ms=due_ms)


def _running(task: TaskNode, now_ms: int, seen: Observation | None) -> Wait:
    path, stage, since = task.path, task.stage.plan.name, task.started_ms
    if task.plan.workflow is not None:
        return Wait(path, stage, "work", f"runs sub-workflow '{task.plan.workflow}' {_for(since, now_ms)}", (), since)
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
    reason = f"runs '{task.action}' on agent '{agent}' {_for(since, now_ms)}, attempt {task.attempt}"
    return Wait(path, stage, "work", reason, (agent,), since)


def _for(since_ms: int, now_ms: int) -> str:
    return f"since {max(0, now_ms - since_ms) / 1000:.1f} s"


def _named(what: str, names: tuple[str, ...]) -> str:
    if not names:
        return "nothing that is known"
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
    return f"{what}{'s' if what and len(names) > 1 else ''} {shown}".strip()
