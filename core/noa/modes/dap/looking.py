"""Requests that look: threads, the stack, variables, expressions, the source; and inputs that are changed there."""

from __future__ import annotations

from typing import Any

from noa.errors import UsageError
from noa.model.ids import TaskPath
from noa.model.plan import Position
from noa.modes.dap.base import (
    RUN_THREAD,
    SOURCE,
    Arguments,
    Body,
    whole,
)
from noa.modes.dap.points import Pointing
from noa.modes.dap.variables import Frame, Scope, rows_of, scopes_of, value_dict
from noa.modes.replay import Replay

__all__ = ["Looking"]


class Looking(Pointing):
    """Shows where the run stands."""

    def _subjects(self) -> dict[str, str]:
        """What is held or goes on where we look, with a word for it."""
        bug, view = self._bug, self._bug.view
        found = {subject: f"held: {hold.kind}" for subject, _, hold in view.iter_holds()}
        found |= {task.path: "running" for task in view.iter_running() if task.path not in found}
        if not bug.live or view.finished:
            subject = Replay(bug).here().subject
            if subject and subject not in found:
                task = view.tasks.get(TaskPath(subject))
                found[subject] = task.status if task is not None else view.stages[subject].status
        return found

    async def _threads_request(self, _arguments: Arguments) -> Body:
        if self._target is None:
            return {"threads": [{"id": RUN_THREAD, "name": "the run has not begun"}]}
        found = [{"id": self._thread(name), "name": f"{name} ({how})"} for name, how in self._subjects().items()]
        run = {"id": RUN_THREAD, "name": f"run {self._bug.run_id} ({self._bug.view.status})"}
        return {"threads": found or [run]}

    async def _stack_trace(self, arguments: Arguments) -> Body:
        bug = self._bug
        subject = self._subject(arguments)
        task = bug.view.tasks.get(TaskPath(subject))
        stage = task.stage if task is not None else bug.view.stages.get(subject)
        frames: list[dict[str, Any]] = []
        if task is not None:
            asked = f"{task.agent}.{task.action}" if task.agent else f"workflow {task.plan.workflow}"
            block = f"[{task.block.key}]" if task.block.key else ""
            frame = Frame("task", task.path, task.stage.plan.name)
            frames.append(self._frame(frame, f"{task.plan.name}{block}: {asked}", task.plan.position))
        if stage is not None:
            frame = Frame("stage", subject if task is not None else "", stage.plan.name)
            frames.append(self._frame(frame, f"stage {stage.plan.name}", stage.plan.position))
        past = "" if bug.live else f" at event {bug.view_seq} of {bug.seq}"
        run = Frame("run", subject if task is not None else "")
        frames.append(self._frame(run, f"{bug.plan.name}: run {bug.run_id}{past}", Position(1, 1)))
        start = whole(arguments, "startFrame", 0)
        levels = whole(arguments, "levels", 0) or len(frames)
        return {"stackFrames": frames[start : start + levels], "totalFrames": len(frames)}

    def _frame(self, frame: Frame, name: str, position: Position) -> dict[str, Any]:
        line, column = max(1, position.line) - 1 + self._lines, max(1, position.column) - 1 + self._columns
        return {
            "id": self._handles.frame(frame),
            "name": name,
            "source": self._source(),
            "line": line,
            "column": column,
        }

    async def _source_request(self, arguments: Arguments) -> Body:
        source = arguments.get("source")
        number = arguments.get("sourceReference") or (source.get("sourceReference") if isinstance(source, dict) else 0)
        if number != SOURCE or self._plan is None:
            raise UsageError(f"there is no source {number}")
        kind = "application/json" if self._plan.source.lstrip().startswith("{") else "text/x-yaml"
        return {"content": self._plan.source, "mimeType": kind}

    async def _scopes(self, arguments: Arguments) -> Body:
        found = scopes_of(self._bug, self._handles.frame_of(arguments.get("frameId")))
        return {
            "scopes": [
                {
                    "name": name,
                    "presentationHint": hint,
                    "variablesReference": self._handles.scope(scope),
                    "expensive": False,
                }
                for name, hint, scope in found
            ]
        }

    async def _variables(self, arguments: Arguments) -> Body:
        scope = self._handles.scope_of(arguments.get("variablesReference"))
        return {"variables": rows_of(self._handles, scope, arguments)}

    async def _set_variable(self, arguments: Arguments) -> Body:
        scope = self._handles.scope_of(arguments.get("variablesReference"))
        name, text = str(arguments.get("name")), str(arguments.get("value"))
        if not scope.task:
            raise UsageError(f"'{name}' cannot be changed: only inputs of a task that is held can")
        key: str | int = int(name) if isinstance(scope.value, list) and name.isdigit() else name
        value = self._bug.evaluate(text, scope.task)
        keys = (*scope.keys, key)
        await self._bug.set_input(scope.task, keys, value)
        if isinstance(scope.value, dict | list):
            scope.value[key] = value  # type: ignore[index]
        return value_dict(self._handles, Scope(value, scope.task, keys))

    async def _exception_info(self, arguments: Arguments) -> Body:
        task = self._bug.view.tasks.get(TaskPath(self._subject(arguments)))
        if task is None or task.failure is None:
            raise UsageError("nothing failed here")
        failure = task.failure
        return {
            "exceptionId": failure.code,
            "description": failure.message,
            "breakMode": "always",
            "details": {"message": failure.message, "typeName": failure.code, "stackTrace": str(failure.details or "")},
        }
