"""Which signals make sense now. Pure: state and signal in, the event that records it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noa.engine.state import RunState
from noa.model.events import ANSWERS, CancelRequested, Event, SignalApplied, SignalRefused
from noa.model.ids import TaskPath
from noa.plugin import SignalRecord

__all__ = ["SIGNAL_KINDS", "judge"]


def judge(state: RunState, signal: SignalRecord, at_ms: int) -> Event | None:
    """The event that applies or refuses a signal; None where it was taken before."""
    if signal.signal_id in state.signals:
        return None
    head: dict[str, Any] = {"at_ms": at_ms, "signal": signal.signal_id, "actor": signal.actor}
    if signal.kind == "cancel" and not state.finished:
        return CancelRequested(reason=signal.reason, **head)
    task = signal.body.get("task", "")
    task = task if isinstance(task, str) else ""
    why = _refusal(state, signal.kind, task, dict(signal.body))
    if why:
        return SignalRefused(kind=signal.kind, why=why, task=task, **head)
    body = {name: value for name, value in signal.body.items() if name != "task"}
    return SignalApplied(kind=signal.kind, reason=signal.reason, task=TaskPath(task), body=body, **head)


def _refusal(state: RunState, kind: str, task: str, body: dict[str, Any]) -> str:
    check = SIGNAL_KINDS.get(kind)
    if check is None and kind != "cancel":
        return f"signals of the kind '{kind}' are not known. Known: cancel, {', '.join(sorted(SIGNAL_KINDS))}"
    if state.finished or check is None:
        return f"the run is over: it {state.status}"
    return check(state, task, body)


def _answer(state: RunState, path: str, body: dict[str, Any]) -> str:
    task = state.tasks.get(TaskPath(path))
    if task is None:
        return f"the run has no task '{path}'"
    if task.hold is None:
        held = ", ".join(state.held) or "none"
        return f"task '{path}' waits for no answer, it is {task.status}. Tasks that wait for one: {held}"
    choice = body.get("choice")
    choices = tuple(task.hold.choices) or ANSWERS
    if task.undoes is not None:
        choices = tuple(known for known in choices if known != "rollback")
    if choice not in choices:
        return f"'{choice}' is not among the answers to '{task.hold.question}': {', '.join(choices)}"
    if choice == "override" and not isinstance(body.get("outputs"), dict):
        return "the answer 'override' needs the outputs that the task is to have, as a JSON object"
    return ""


SIGNAL_KINDS: dict[str, Callable[[RunState, str, dict[str, Any]], str]] = {"answer": _answer}
"""Kinds of signals beside cancel: why one makes no sense now, or empty."""
