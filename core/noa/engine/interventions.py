"""What a signal does to the state of a run, once `noa.engine.signals` found that it makes sense. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noa.definitions.snippets import snippet
from noa.engine.debugging import Breakpoint
from noa.engine.nodes import TaskNode
from noa.model.events import SignalApplied
from noa.model.plan import Expression

if TYPE_CHECKING:
    from noa.engine.state import RunState

__all__ = ["APPLIED", "TASK_NAMES", "condition_of"]

TASK_NAMES = ("task", "item", "index", "previous")
"""In scope of a breakpoint's condition, beside inputs, stages, tasks and run."""

_STOPS = ("step", "breakpoint", "failure")


def condition_of(state: RunState, text: str) -> Expression:
    """The condition of a breakpoint. Raises ExpressionError."""
    stages = {
        name: [t.name for template in stage.templates.values() for t in template.tasks]
        for name, stage in state.plan.stages.items()
    }
    return snippet(text, TASK_NAMES, stages, {name for names in stages.values() for name in names})


def _answer(state: RunState, event: SignalApplied) -> None:
    state.answer(event.task, event.body["choice"], event.body.get("outputs"), by=event.actor, reason=event.reason)


def _approve(state: RunState, event: SignalApplied) -> None:
    state.answer(event.task, "approve", by=event.actor or "somebody", reason=event.reason)


def _reject(state: RunState, event: SignalApplied) -> None:
    state.answer(event.task, "reject", by=event.actor, reason=event.reason)


# --- tasks ---------------------------------------------------------------------------------------------------------


def _skip(state: RunState, event: SignalApplied) -> None:
    state.end_as(state.tasks[event.task], "skipped", None, f"skipped by {event.actor}")


def _override(state: RunState, event: SignalApplied) -> None:
    task = state.tasks[event.task]
    task.editor = event.actor
    state.end_as(task, "succeeded", event.body["outputs"], f"its outputs were given by {event.actor}")


def _cancel(state: RunState, event: SignalApplied) -> None:
    if event.task in state.tasks:
        state.cancel_task(state.tasks[event.task], event.reason or f"cancelled by {event.actor}")
    else:
        state.cancel_stage(state.stages[event.task], event.reason or f"cancelled by {event.actor}")


def _edit(state: RunState, event: SignalApplied) -> None:
    task = state.tasks[event.task]
    task.edits = {**(task.edits or {}), **event.body["inputs"]}
    _changed(state, task, event)


def _reassign(state: RunState, event: SignalApplied) -> None:
    task = state.tasks[event.task]
    task.agent = event.body["agent"]
    task.action = event.body.get("action") or task.action
    _changed(state, task, event)


def _changed(state: RunState, task: TaskNode, event: SignalApplied) -> None:
    """What was approved before is something else now."""
    task.editor = event.actor
    task.approvals = ()
    task.approved = False
    if task.hold is not None and task.hold.kind in ("approval", "policy"):
        state.ask_anew(task)


def _retry(state: RunState, event: SignalApplied) -> None:
    state.retry_now(state.tasks[event.task])


# --- the run -------------------------------------------------------------------------------------------------------


def _pause(state: RunState, event: SignalApplied) -> None:
    state.paused = event.actor or "somebody"
    state.paused_ms = event.at_ms


def _unpause(state: RunState, event: SignalApplied) -> None:
    state.unpause()


def _mode(state: RunState, event: SignalApplied) -> None:
    state.set_mode(event.body["mode"], debugs=bool(event.body.get("debugs")))


# --- the debugger --------------------------------------------------------------------------------------------------


def _stopped(state: RunState, path: str) -> list[TaskNode]:
    """The tasks that the debugger holds; only the one that is named, where one is."""
    held = [task for task in state.held.values() if task.hold is not None and task.hold.kind in _STOPS]
    return [task for task in held if not path or task.path == path]


def _go(state: RunState, tasks: list[TaskNode]) -> None:
    for task in tasks:
        state.answer(task.path, "continue")


def _continue(state: RunState, event: SignalApplied) -> None:
    if not event.task:
        state.debugging.stepping = ""
    _go(state, _stopped(state, event.task))


def _step(state: RunState, event: SignalApplied) -> None:
    state.debugging.stepping = "task"
    _go(state, _stopped(state, event.task)[:1])


def _next(state: RunState, event: SignalApplied) -> None:
    state.debugging.stepping = "stage"
    state.debugging.begun = state.begun_stages
    _go(state, _stopped(state, ""))


def _until(state: RunState, event: SignalApplied) -> None:
    state.debugging.stepping = ""
    state.debugging.until = Breakpoint(event.signal, event.body["place"])
    _go(state, _stopped(state, ""))


def _break(state: RunState, event: SignalApplied) -> None:
    body: dict[str, Any] = event.body
    when = body.get("when")
    point = Breakpoint(
        id=body["id"],
        place=body.get("place", "*"),
        when=condition_of(state, when) if when else None,
        once=bool(body.get("once")),
        on=body.get("on", "start"),
    )
    state.debugging.breakpoints[point.id] = point


def _clear(state: RunState, event: SignalApplied) -> None:
    state.debugging.breakpoints.pop(event.body["id"], None)


APPLIED: dict[str, Callable[[RunState, SignalApplied], None]] = {
    "answer": _answer,
    "approve": _approve,
    "reject": _reject,
    "skip": _skip,
    "override": _override,
    "cancel": _cancel,
    "edit": _edit,
    "reassign": _reassign,
    "retry": _retry,
    "pause": _pause,
    "unpause": _unpause,
    "mode": _mode,
    "continue": _continue,
    "step": _step,
    "next": _next,
    "until": _until,
    "break": _break,
    "clear": _clear,
}
"""What a signal does, by its kind."""
