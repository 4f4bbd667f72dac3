"""What the language has and this version does not run yet: refused by name, never ignored."""

from __future__ import annotations

from noa.definitions.models import WorkflowModel
from noa.definitions.problems import place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem

__all__ = ["refuse_unsupported"]

_TASK_KEYS = ("approval", "compensate", "cache")


def refuse_unsupported(source: Source, workflow: WorkflowModel, problems: list[Problem]) -> None:
    """Add a problem for each key that is not executed yet, at its place."""
    if workflow.on_failure == "rollback":
        problems.append(_problem(source, ("workflow", "on_failure"), "'on_failure: rollback'"))
    if workflow.mode != "auto":
        problems.append(_problem(source, ("workflow", "mode"), f"'mode: {workflow.mode}'"))
    if workflow.alerts:
        problems.append(_problem(source, ("workflow", "alerts"), "'alerts'"))
    for path, task in _iter_tasks(source):
        for key in _TASK_KEYS:
            if task.get(key) not in (None, False):
                problems.append(_problem(source, (*path, key), f"'{key}'"))


def _iter_tasks(source: Source) -> list[tuple[NodePath, dict[str, object]]]:
    """Every mapping that stands in a list of a stage and has `agent` or `workflow`: a task of any stage type."""
    found: list[tuple[NodePath, dict[str, object]]] = []
    stages = source.data["workflow"].get("stages")
    pending: list[tuple[NodePath, object]] = [
        ((*("workflow", "stages"), index, key), value)
        for index, stage in enumerate(stages if isinstance(stages, list) else ())
        if isinstance(stage, dict)
        for key, value in stage.items()
    ]
    while pending:
        path, value = pending.pop()
        if not isinstance(value, list):
            continue
        for index, part in enumerate(value):
            if not isinstance(part, dict):
                continue
            if "agent" in part or "workflow" in part:
                found.append(((*path, index), part))
            else:
                pending.extend(((*path, index, key), below) for key, below in part.items())
    return found


def _problem(source: Source, path: NodePath, what: str) -> Problem:
    message = f"{place(source, path)}{what} is part of the language but not executed yet by this version"
    return source.problem("NOT_SUPPORTED_YET", message, path, key=True, hint="Remove it for now.")
