"""What is said when a run is over or was left: status, outputs, the failure, and what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from noa.cli.command import NoaCommand, style
from noa.cli.people import Question, question_lines
from noa.cli.remarks import remark
from noa.cli.text import columns, duration, one_line, plural, short_json
from noa.engine.nodes import TaskStatus
from noa.engine.state import RunState
from noa.model.failure import Failure
from noa.monitoring.progress import ProgressModel, TaskView

__all__ = [
    "exit_code",
    "failure_dict",
    "failure_lines",
    "not_as_planned_lines",
    "result_dict",
    "rollback_lines",
    "summary_lines",
    "waiting_lines",
]

_SHOWN_FAILURES = 5
_SHOWN_FILES = 10
_SHOWN_UNDONE = 20
_MARKS = {
    "succeeded": ("✓", "green"),
    "cancelled": ("■", "yellow"),
    "waiting": ("?", "yellow"),
    "rolled_back": ("↶", "yellow"),
}
_CODES = {
    "succeeded": NoaCommand.SUCCEEDED,
    "cancelled": NoaCommand.CANCELLED,
    "waiting": NoaCommand.WAITING,
}


def exit_code(status: str) -> int:
    """The exit code that a run's status means."""
    return _CODES.get(status, NoaCommand.FAILED)


def summary_lines(state: RunState, view: ProgressModel) -> list[str]:
    """A finished run for people; coloured."""
    mark, color = _MARKS.get(state.status, ("✗", "red"))
    counts = Counter(task.status for task in state.tasks.values() if task.undoes is None)
    degraded = ", degraded," if state.degraded else ""
    took = duration(view.duration_ms(state.finished_ms))
    status = state.status.replace("_", " ")
    lines = [
        f"{style(mark, color)} {style(state.plan.name, bold=True)} {style(status, color)}{degraded} in {took}: "
        f"{_counts(counts)}{_undone(view)} (run {state.run_id})"
    ]
    if state.cancelled and state.status == "cancelled":
        lines.append(f"  reason: {one_line(state.cancelled)}")
    lines += _outputs(state)
    lines += not_as_planned_lines(view)
    if state.status not in ("succeeded", "cancelled"):
        lines += _failures(state)
        lines += rollback_lines(view)
        lines += _next(state)
    elif view.rollback is not None:
        lines += rollback_lines(view)
    return lines


def _undone(view: ProgressModel) -> str:
    if view.rollback is None:
        return ""
    undone = view.rollback.counts.get("succeeded", 0) + view.rollback.counts.get("skipped", 0)
    return f", {undone:,} undone" + (f", {len(view.left):,} not undone" if view.left else "")


def waiting_lines(state: RunState, questions: Sequence[Question], now_ms: int) -> list[str]:
    """A run that nothing but people moves on, for people; the questions are those that were not told before."""
    mark, color = _MARKS["waiting"]
    took = duration(now_ms - state.created_ms)
    lines = [
        f"{style(mark, color)} {style(state.plan.name, bold=True)} {style('waits for a person', color)} after {took} "
        f"(run {state.run_id})"
    ]
    for question in questions:
        lines += question_lines(question, now_ms)
    return [*lines, "  next", f"    noa resume {state.run_id}    goes on, once that is answered"]


def result_dict(state: RunState, questions: Sequence[Question] = ()) -> dict[str, Any]:
    """A finished run for programs, or one that waits for answers to these questions."""
    undone = {path: task.status for path, task in state.tasks.items() if task.undoes is not None}
    return {
        "run_id": state.run_id,
        "workflow": state.plan.name,
        "status": state.status if state.finished else "waiting",
        "degraded": state.degraded,
        "duration_ms": (state.finished_ms or state.now_ms) - state.created_ms,
        "outputs": state.outputs,
        "failure": failure_dict(state.failure),
        "tasks": {path: task.status for path, task in state.tasks.items() if task.undoes is None},
        "output_uri": state.output_uri,
        **({"rollback": undone, "left": state.left} if undone or state.left else {}),
        **({"questions": [question.to_dict() for question in questions]} if questions else {}),
    }


def rollback_lines(view: ProgressModel, indent: str = "  ") -> list[str]:
    """What was undone, and what is left; nothing where no rollback began."""
    if view.rollback is None:
        return []
    tasks = list(view.rollback.tasks.values())
    undone = sorted((t for t in tasks if t.status in ("succeeded", "skipped")), key=lambda task: task.finished_ms)
    lines = []
    if undone:
        lines.append(f"{indent}undone")
        rows = [
            [f"{indent}  {t.undoes}", _by(t), duration(t.duration_ms(t.finished_ms))] for t in undone[:_SHOWN_UNDONE]
        ]
        lines += columns(rows)
        if len(undone) > _SHOWN_UNDONE:
            lines.append(f"{indent}  and {plural(len(undone) - _SHOWN_UNDONE, 'more task')}")
    if view.left:
        lines.append(f"{indent}{style('not undone', 'red')}")
        known = {task.undoes: task for task in tasks}
        for path in view.left[:_SHOWN_UNDONE]:
            task = known.get(path)
            why = str(task.failure) if task is not None and task.failure is not None else _not_begun(task)
            lines.append(f"{indent}  {path}  {one_line(why)}")
        if len(view.left) > _SHOWN_UNDONE:
            lines.append(f"{indent}  and {plural(len(view.left) - _SHOWN_UNDONE, 'more task')}")
    elif not undone and view.finished_ms:
        lines.append(f"{indent}nothing had to be undone")
    return lines


def _by(task: TaskView) -> str:
    if task.status == "skipped":
        return task.reason or "skipped"
    return (
        f"by {task.agent} · {task.action}" if task.agent and task.action else f"by {task.agent or 'its own rollback'}"
    )


def _not_begun(task: TaskView | None) -> str:
    if task is not None and task.status == "cancelled":
        return "its undoing was cancelled"
    return "not begun, as what came after it could not be undone"


def not_as_planned_lines(view: ProgressModel) -> list[str]:
    """Tasks that went well otherwise than planned: degraded, by another agent, by somebody's answer."""
    found = [
        task
        for stage in view.stages.values()
        for task in stage.tasks.values()
        if task.degraded or task.fallback or (task.over and task.reason and task.failure is not None)
    ]
    lines = ["  not as planned"] if found else []
    rows = [
        [f"    {task.path}", remark(task, task.finished_ms or view.finished_ms)] for task in found[:_SHOWN_FAILURES]
    ]
    lines += columns(rows)
    if len(found) > _SHOWN_FAILURES:
        lines.append(f"    and {plural(len(found) - _SHOWN_FAILURES, 'more task')}; `noa show {view.run_id}` has all")
    return lines


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
    failed = [
        task
        for task in state.tasks.values()
        if task.status == "failed" and not task.plan.optional and task.undoes is None
    ]
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
    run = state.run_id
    offers = []
    if state.status == "failed":
        offers.append((f"noa retry {run}", "tries again what failed, and keeps what succeeded"))
    elif state.status == "rollback_failed":
        offers.append((f"noa retry {run}", "goes on undoing what is left"))
    offers += [(f"noa show {run}", "every task, with its attempts"), (f"noa logs {run}", "what the tasks logged")]
    return ["  next", *columns([[f"    {command}", what] for command, what in offers], gap="    ")]
