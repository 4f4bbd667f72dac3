"""What is done again when a run that was over is reopened. Pure: nodes in, what to reset out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from noa.engine.nodes import BAD, StageNode, TaskNode
from noa.model.ids import TaskPath

__all__ = ["Reset", "reset_of", "why_not_reopened"]


@dataclass(slots=True)
class Reset:
    """What is done again.

    Attributes:
        stages: These begin anew: what they opened is forgotten. In the order in which they were found, as `tasks` are,
            so that every fold comes to the same.
        tasks: These begin anew in the blocks that stay open.
        reopened: Stages that were ended early though none of their tasks was: they go on where they were.
    """

    stages: dict[str, None] = field(default_factory=dict)
    tasks: dict[TaskPath, TaskNode] = field(default_factory=dict)
    reopened: dict[str, None] = field(default_factory=dict)


def why_not_reopened(status: str, from_task: str, known: Mapping[TaskPath, TaskNode], *, rollback: bool) -> str:
    """Why a run of this status cannot be reopened so, as the end of a sentence; empty where it can."""
    if status == "rolled_back":
        return "it was undone, so there is nothing left to go on with: start it anew, or fork it at an early event"
    if rollback:
        return ""
    if from_task:
        if from_task not in known:
            return f"it has no task '{from_task}'"
        if "~" in from_task:
            return f"'{from_task}' undoes a task; name the task itself"
        return "" if status != "rollback_failed" else "it is half undone: finish that first, without --from"
    return "it succeeded; name a task to do again with --from TASK" if status == "succeeded" else ""


def reset_of(stages: Mapping[str, StageNode], tasks: Mapping[TaskPath, TaskNode], from_task: TaskPath) -> Reset:
    """All that failed or was not begun, and with `from_task` that task; with everything that depends on any of it.

    A task of a stage that repeats takes its whole stage along when it is named, since later iterations followed from
    it.
    """
    reset = Reset()
    touched: set[str] = set()
    readers = _readers(stages)
    pending: list[TaskNode | str] = list(_failed(stages))
    for name, stage in stages.items():
        if stage.status in BAD and stage.blocks:
            reset.reopened[name] = None
            pending += stage.plan.dependents
    if from_task:
        named = tasks[from_task]
        pending.append(named.stage.plan.name if named.stage.plan.repeats else named)
    while pending:
        node = pending.pop()
        name = node if isinstance(node, str) else node.stage.plan.name
        if name in reset.stages:
            continue
        if isinstance(node, str):
            reset.stages[node] = None
            pending += [reader for found in readers.get(node, {}).values() for reader in found]
        elif node.path not in reset.tasks:
            reset.tasks[node.path] = node
            pending += [node.block.tasks[index] for index in node.block.template.dependents[node.index]]
            by_task = readers.get(name, {})
            pending += [*by_task.get(node.plan.name, ()), *by_task.get(None, ())]
        if name not in touched:
            touched.add(name)
            pending += stages[name].plan.dependents
    reset.reopened = {name: None for name in reset.reopened if name not in reset.stages}
    reset.tasks = {path: task for path, task in reset.tasks.items() if task.stage.plan.name not in reset.stages}
    return reset


def _failed(stages: Mapping[str, StageNode]) -> Iterator[TaskNode | str]:
    for name, stage in stages.items():
        if stage.status in BAD and not stage.blocks:
            yield name
        for block in stage.blocks.values():
            for task in block.tasks:
                if task.status in BAD and not (task.plan.optional and task.status == "failed"):
                    yield task


def _readers(stages: Mapping[str, StageNode]) -> dict[str, dict[str | None, list[TaskNode]]]:
    """Tasks that read other stages, by stage and task (None: the stage as a whole)."""
    found: dict[str, dict[str | None, list[TaskNode]]] = {}
    for stage in stages.values():
        for block in stage.blocks.values():
            for task in block.tasks:
                for dependency in task.plan.depends_on:
                    found.setdefault(dependency.stage, {}).setdefault(dependency.task, []).append(task)
    return found
