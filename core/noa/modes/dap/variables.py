"""Frames and variables as an editor sees them: numbers that stand for parts of the state while the run stands still."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from noa.engine.nodes import StageNode, TaskNode
from noa.engine.state import RunState
from noa.errors import UsageError
from noa.modes.debugger import Debugger

__all__ = ["Frame", "Handles", "Scope", "rows_of", "scopes_of", "value_dict"]

_PREVIEW = 120
_MOST = 10_000
Keys: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the stack: a task, its stage, or the run.

    Attributes:
        kind: "task", "stage" or "run".
        task: Path of the task in whose place expressions are evaluated; empty for none.
        stage: Name of the stage; empty for none.
    """

    kind: str
    task: str = ""
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """A value whose parts can be looked at.

    Attributes:
        value: JSON, or what makes it once it is looked at.
        task: Whose input it is a part of, where it can be changed; else empty.
        keys: Which part.
        name: How it is written in an expression; empty where it cannot be.
    """

    value: Any
    task: str = ""
    keys: Keys = ()
    name: str = ""


class Handles:
    """Numbers for frames and values. They mean something until the run moves on."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._scopes: list[Scope] = []

    def clear(self) -> None:
        """The run moves on."""
        self._frames.clear()
        self._scopes.clear()

    def frame(self, frame: Frame) -> int:
        """A number for a frame, from 1."""
        if frame not in self._frames:
            self._frames.append(frame)
        return self._frames.index(frame) + 1

    def frame_of(self, number: object) -> Frame:
        """The frame of a number. Raises UsageError."""
        if isinstance(number, int) and 1 <= number <= len(self._frames):
            return self._frames[number - 1]
        raise UsageError(f"there is no frame {number} now: the run has moved on")

    def scope(self, scope: Scope) -> int:
        """A number for a value, from 1."""
        self._scopes.append(scope)
        return len(self._scopes)

    def scope_of(self, number: object) -> Scope:
        """The value of a number. Raises UsageError."""
        if isinstance(number, int) and 1 <= number <= len(self._scopes):
            return self._scopes[number - 1]
        raise UsageError(f"there are no variables {number} now: the run has moved on")


def scopes_of(bug: Debugger, frame: Frame) -> list[tuple[str, str, Scope]]:
    """Name, presentation hint and value of what a frame shows."""
    view = bug.view
    found: list[tuple[str, str, Scope]] = []
    task = view.tasks.get(frame.task) if frame.kind == "task" else None  # type: ignore[call-overload]
    if task is not None:
        editable = task.path if bug.live and task.hold is not None else ""
        found.append(("Inputs", "arguments", Scope(dict(bug.inputs(task)), editable, (), "task.inputs")))
        if task.outputs is not None:
            name = f"stages.{task.stage.plan.name}.{task.plan.name}.outputs" if not task.block.key else ""
            found.append(("Outputs", "returnValue", Scope(task.outputs, name=name)))
        if task.block.bindings:
            found.append(("Block", "locals", Scope(dict(task.block.bindings))))
        found.append(("Task", "locals", Scope(_task(task))))
    elif frame.kind == "stage" and frame.stage in view.stages:
        found.append(("Stage", "locals", Scope(lambda: _stage(view.stages[frame.stage]))))
    found.append(("Run", "globals", Scope(_run(bug))))
    found.append(("Stages", "globals", Scope(lambda: _stages(view), name="stages")))
    return found


def _task(task: TaskNode) -> dict[str, Any]:
    found: dict[str, Any] = {"status": task.status, "agent": task.agent, "action": task.action, "attempt": task.attempt}
    if task.hold is not None:
        found["held"] = task.hold.question
        if task.hold.show:
            found["shown"] = task.hold.show
    if task.failure is not None:
        found["failure"] = {"code": task.failure.code, "message": task.failure.message}
    return found


def _stage(stage: StageNode) -> dict[str, Any]:
    tasks = [task for block in stage.blocks.values() for task in block.tasks]
    return {"status": stage.status, "type": stage.plan.type, "tasks": {task.path: task.status for task in tasks}}


def _run(bug: Debugger) -> dict[str, Any]:
    view = bug.view
    found = {"id": view.run_id, "workflow": view.plan.name, "status": view.status, "mode": view.mode,
             "event": bug.view_seq, "inputs": view.inputs, "outputs": view.outputs}  # fmt: skip
    if view.failure is not None:
        found["failure"] = str(view.failure)
    return found


def _stages(state: RunState) -> dict[str, Any]:
    def tasks(stage: StageNode) -> dict[str, Any]:
        found = [task for block in stage.blocks.values() for task in block.tasks][:_MOST]
        single = stage.plan.single
        return {
            task.plan.name if single else task.path: {"status": task.status, "outputs": task.outputs} for task in found
        }

    return {name: (lambda stage=stage: tasks(stage)) for name, stage in state.stages.items()}


# --- values ----------------------------------------------------------------------------------------------------------


def rows_of(handles: Handles, scope: Scope, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts of a value; `filter`, `start` and `count` of the arguments choose among them."""
    value = scope.value() if callable(scope.value) else scope.value
    parts: Sequence[tuple[str | int, Any]]
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
        which = "named"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = list(enumerate(value))
        which = "indexed"
    else:
        return []
    if arguments.get("filter") not in (None, which):
        return []
    start, count = arguments.get("start"), arguments.get("count")
    if isinstance(start, int) and start > 0:
        parts = parts[start:]
    if isinstance(count, int) and count > 0:
        parts = parts[:count]
    return [{"name": str(key), **value_dict(handles, _part(scope, key, part))} for key, part in parts[:_MOST]]


def _part(scope: Scope, key: str | int, value: Any) -> Scope:
    written = f"[{key}]" if isinstance(key, int) else f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"
    return Scope(value, scope.task, (*scope.keys, key), f"{scope.name}{written}" if scope.name else "")


def value_dict(handles: Handles, scope: Scope) -> dict[str, Any]:
    """A value for an editor: its text, its type, and the number of its parts where it has some."""
    value: Any = scope.value
    made: Callable[[], Any] | None = value if callable(value) else None
    found: dict[str, Any] = {"value": "…" if made else _text(value), "type": _type(value), "variablesReference": 0}
    if made or (isinstance(value, Mapping | list | tuple) and value):
        found["variablesReference"] = handles.scope(scope)
    if isinstance(value, Mapping) and value:
        found["namedVariables"] = len(value)
    elif isinstance(value, list | tuple) and value:
        found["indexedVariables"] = len(value)
    if scope.name:
        found["evaluateName"] = scope.name
    if not scope.task:
        found["presentationHint"] = {"attributes": ["readOnly"]}
    return found


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, Mapping | list | tuple) and len(text) > _PREVIEW:
        return f"{text[:_PREVIEW]}…"
    return text


def _type(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (Mapping, "object")):
        if isinstance(value, kind):
            return name
    return "array" if isinstance(value, list | tuple) else "null" if value is None else "object"
