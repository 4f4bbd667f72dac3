"""What is said when a run is over or was left: status, outputs, the failure, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from noa.cli.command import NoaCommand, style
from noa.cli.text import duration, one_line, plural, short_json
from noa.engine.nodes import TaskStatus
from noa.engine.state import RunState
from noa.model.failure import Failure

__all__ = ["exit_code", "failure_dict", "failure_lines", "result_dict", "summary_lines"]

_SHOWN_FAILURES = 5
_SHOWN_FILES = 10
_MARKS = {"succeeded": ("✓", "green"), "cancelled": ("■", "yellow"), "waiting": ("…", "yellow")}
_CODES = {
    "succeeded": NoaCommand.SUCCEEDED,
    "cancelled": NoaCommand.CANCELLED,
    "waiting": NoaCommand.WAITING,
}


def exit_code(status: str) -> int:
    """The exit code that a run's status means."""
    return _CODES.get(status, NoaCommand.FAILED)


def summary_lines(state: RunState) -> list[str]:
    """A finished run for people; coloured."""
    mark, color = _MARKS.get(state.status, ("✗", "red"))
    counts = Counter(task.status for task in state.tasks.values())
    degraded = ", degraded" if state.degraded else ""
    took = duration(state.finished_ms - state.created_ms)
    lines = [
        f"{style(mark, color)} {style(state.plan.name, bold=True)} {style(state.status, color)}{degraded} in {took}: "
        f"{_counts(counts)} (run {state.run_id})"
    ]
    if state.cancelled and state.status == "cancelled":
        lines.append(f"  reason: {one_line(state.cancelled)}")
    lines += _outputs(state)
    if state.status not in ("succeeded", "cancelled"):
        lines += _failures(state)
        lines += _next(state)
    return lines


def result_dict(state: RunState) -> dict[str, Any]:
    """A finished run for programs."""
    return {
        "run_id": state.run_id,
        "workflow": state.plan.name,
        "status": state.status,
        "degraded": state.degraded,
        "duration_ms": state.finished_ms - state.created_ms,
        "outputs": state.outputs,
        "failure": failure_dict(state.failure),
        "tasks": {path: task.status for path, task in state.tasks.items()},
        "output_uri": state.output_uri,
    }


def failure_dict(failure: Failure | None) -> dict[str, Any] | None:
    """A failure as a JSON object, its causes inside."""
    import msgspec

    return msgspec.to_builtins(failure) if failure is not None else None


def failure_lines(failure: Failure, indent: str = "  ") -> list[str]:
    """A failure and its causes for people."""
    lines = []
    lead = ""
    current: Failure | None = failure
    while current is not None:
        code = style(f"error[{current.code}]", "red")
        first, *rest = current.message.splitlines() or [""]
        lines.append(f"{indent}{lead}{code}: {first}")
        lines += [f"{indent}    {line}" for line in rest[:20]]
        indent, lead, current = indent + "  ", "caused by ", current.cause
    return lines


def _counts(counts: Mapping[TaskStatus, int]) -> str:
    if set(counts) <= {"succeeded"}:
        return plural(counts.get("succeeded", 0), "task")
    words = {status: "not run" if status == "blocked" else status for status in counts}
    return ", ".join(f"{count:,} {words[status]}" for status, count in counts.items() if count)


def _outputs(state: RunState) -> list[str]:
    lines = []
    if state.outputs:
        lines.append("  outputs")
        width = max(map(len, state.outputs))
        lines += [f"    {name.ljust(width)}  {short_json(value)}" for name, value in state.outputs.items()]
    files = output_files(state.output_uri)
    if files:
        lines.append("  files")
        lines += [f"    {path.as_uri()}" for path in files[:_SHOWN_FILES]]
        if len(files) > _SHOWN_FILES:
            lines.append(f"    and more in {state.output_uri}")
    return lines


def output_files(uri: str) -> list[Path]:
    """Files that a run made for a person, at most a few more than are shown; none where it made none."""
    parts = urlsplit(uri)
    folder = Path(unquote(parts.path))
    if parts.scheme != "file" or not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            found.append(path)
            if len(found) > _SHOWN_FILES:
                break
    return found


def _failures(state: RunState) -> list[str]:
    lines = []
    failed = [task for task in state.tasks.values() if task.status == "failed" and not task.plan.optional]
    for task in failed[:_SHOWN_FAILURES]:
        asked = f"action '{task.action}' of agent '{task.agent}'" if task.agent else f"workflow '{task.plan.workflow}'"
        lines.append(f"  task {style(task.path, bold=True)} failed: {asked}, {plural(task.attempt, 'attempt')}")
        if task.failure is not None:
            lines += failure_lines(task.failure, "    ")
    if len(failed) > _SHOWN_FAILURES:
        lines.append(f"  and {plural(len(failed) - _SHOWN_FAILURES, 'more task')} failed")
    told = {str(task.failure) for task in failed}
    if state.failure is not None and str(state.failure) not in told:
        lines += failure_lines(state.failure)
    return lines


def _next(state: RunState) -> list[str]:
    return [
        "  next",
        f"    noa show {state.run_id}    every task, with its attempts",
        f"    noa logs {state.run_id}    what the tasks logged",
    ]
