"""What the language has and this version does not run yet: refused by name, never ignored."""

from __future__ import annotations

from noa.definitions.models import TaskModel, WorkflowModel
from noa.definitions.problems import place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem

__all__ = ["refuse_task_keys", "refuse_workflow_keys"]


def refuse_workflow_keys(source: Source, workflow: WorkflowModel, problems: list[Problem]) -> None:
    """Add a problem for each key of a workflow that is not executed yet, at its place."""
    if workflow.alerts:
        problems.append(_problem(source, ("workflow", "alerts"), "'alerts'"))


def refuse_task_keys(source: Source, task: TaskModel, path: NodePath, problems: list[Problem]) -> None:
    """Add a problem for each key of a task that is not executed yet, at its place."""
    if task.workflow is not None:
        _refuse_for_sub_workflows(source, task, path, problems)


def _refuse_for_sub_workflows(source: Source, task: TaskModel, path: NodePath, problems: list[Problem]) -> None:
    if task.resources:
        problems.append(_problem(source, (*path, "resources"), "'resources' of a sub-workflow"))
    for key in ("execution", "heartbeat", "queue"):
        if task.timeout is not None and getattr(task.timeout, key, None) is not None:
            problems.append(_problem(source, (*path, "timeout"), f"'timeout.{key}' of a sub-workflow ('total' is)"))


def _problem(source: Source, path: NodePath, what: str) -> Problem:
    message = f"{place(source, path)}{what} is part of the language but not executed yet by this version"
    return source.problem("NOT_SUPPORTED_YET", message, path, key=True, hint="Remove it for now.")
