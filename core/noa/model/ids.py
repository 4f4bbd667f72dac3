"""Names of runs, tasks and executions, and how one is made from another."""

from __future__ import annotations

import re
from typing import NewType

__all__ = [
    "ExecutionId",
    "RunId",
    "TaskPath",
    "compensation_path",
    "execution_id",
    "idempotency_key",
    "parse_execution_id",
    "task_path",
]

RunId = NewType("RunId", str)
"""A run, such as `20261122-221530-k3f9x2`: sorts by time of creation."""

TaskPath = NewType("TaskPath", str)
"""A task in its run: `stage/task`, or `stage[block]/task` where a stage opens named blocks."""

ExecutionId = NewType("ExecutionId", str)
"""One attempt of a task: `run:stage/task:attempt`."""

_EXECUTION = re.compile(r"^(?P<run>[^:]+):(?P<task>.+):(?P<attempt>\d+)$")


def task_path(stage: str, block: str, task: str) -> TaskPath:
    """The path of a task; `block` is empty for the only block of a stage."""
    return TaskPath(f"{stage}[{block}]/{task}" if block else f"{stage}/{task}")


def compensation_path(task: TaskPath) -> TaskPath:
    """The path of what undoes a task: `stage/task~compensate`."""
    return TaskPath(f"{task}~compensate")


def execution_id(run: RunId, task: TaskPath, attempt: int) -> ExecutionId:
    """The id of an attempt (from 1). The same attempt has the same id after a restart of the engine."""
    return ExecutionId(f"{run}:{task}:{attempt}")


def parse_execution_id(value: str) -> tuple[RunId, TaskPath, int]:
    """The parts of an execution id.

    Raises:
        ValueError: It is not an execution id.
    """
    found = _EXECUTION.match(value)
    if found is None:
        raise ValueError(f"not an execution id: {value!r}")
    return RunId(found["run"]), TaskPath(found["task"]), int(found["attempt"])


def idempotency_key(run: RunId, task: TaskPath, redone: int = 0) -> str:
    """The same for all attempts of a task: `run:stage/task`; `run:stage/task#1` once it was done again on purpose."""
    return f"{run}:{task}#{redone}" if redone else f"{run}:{task}"
