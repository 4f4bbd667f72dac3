"""Which signals make sense now. Pure: state and signal in, the event that records it out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa.definitions import ExpressionError
from noa.engine.interventions import APPLIED, condition_of
from noa.engine.nodes import StageNode, TaskNode
from noa.engine.state import RunState
from noa.model.events import ANSWERS, CancelRequested, Event, Hold, SignalApplied, SignalRefused
from noa.model.ids import TaskPath
from noa.plugin import ActionInfo, Mode, SignalRecord

__all__ = ["Known", "judge"]


def _nothing(_agent: str, _action: str) -> ActionInfo | None:
    return None


@dataclass(frozen=True, slots=True)
class Known:
    """What signals may name.

    Attributes:
        agents: That can be asked.
        modes: By name.
        action: What is known of an action of an agent; None where nothing is.
        problems: What is wrong with a value by a JSON Schema, one sentence each.
    """

    agents: Collection[str] = ()
    modes: Mapping[str, Mode] = field(default_factory=dict)
    action: Callable[[str, str], ActionInfo | None] = _nothing
    problems: Callable[[Mapping[str, Any], Any], list[str]] = lambda _schema, _value: []


def judge(state: RunState, signal: SignalRecord, at_ms: int, known: Known | None = None) -> Event | None:
    """The event that applies or refuses a signal; None where it was taken before."""
    if signal.signal_id in state.signals:
        return None
    head: dict[str, Any] = {"at_ms": at_ms, "signal": signal.signal_id, "actor": signal.actor}
    body = dict(signal.body)
    subject = str(body.pop("task", "") or body.pop("stage", "") or "")
    if signal.kind == "cancel" and not subject and not state.finished:
        return CancelRequested(reason=signal.reason, **head)
    why = _refusal(state, _Said(signal.kind, subject, body, signal.actor, signal.reason, known or Known()))
    if why:
        return SignalRefused(kind=signal.kind, why=why, task=subject, **head)
    if signal.kind == "mode" and known is not None:
        body["debugs"] = known.modes[body["mode"]].debugs
    return SignalApplied(kind=signal.kind, reason=signal.reason, task=TaskPath(subject), body=body, **head)


@dataclass(frozen=True, slots=True)
class _Said:
    """A signal: what somebody wants."""

    kind: str
    subject: str
    body: dict[str, Any]
    actor: str
    reason: str
    known: Known


def _refusal(state: RunState, said: _Said) -> str:
    """Why a signal makes no sense now; empty where it does."""
    check = _CHECKS.get(said.kind)
    if check is None:
        return f"signals of the kind '{said.kind}' are not known. {_names(said.kind, APPLIED)}"
    if state.finished:
        return f"the run is over: it {state.status}"
    return check(state, said)


def _names(wrong: str, known: Iterable[str], what: str = "Known") -> str:
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, 1)
    shown = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
    return f"{what}: {shown or 'none'}" + (f". Did you mean '{near[0]}'?" if near and near[0] != wrong else "")


def _task(state: RunState, path: str) -> TaskNode | str:
    task = state.tasks.get(TaskPath(path))
    if task is not None:
        return task
    if path in state.stages:
        return f"'{path}' is a stage; name one of its tasks"
    return f"the run has no task '{path}'. {_names(path, state.tasks)}"


def _open_task(state: RunState, said: _Said) -> TaskNode | str:
    task = _task(state, said.subject)
    if isinstance(task, str):
        return task
    return f"task '{task.path}' is over: it {_PAST.get(task.status, task.status)}" if task.terminal else task


_PAST = {"skipped": "was skipped", "cancelled": "was cancelled", "blocked": "was blocked"}


# --- holds -----------------------------------------------------------------------------------------------------------


def _held(state: RunState, said: _Said, kinds: Collection[str]) -> tuple[TaskNode | StageNode, Hold] | str:
    node: TaskNode | StageNode | None = state.tasks.get(TaskPath(said.subject))
    node = node or state.stages.get(said.subject)
    if node is None:
        return f"the run has no task or stage '{said.subject}'. {_names(said.subject, state.tasks)}"
    if node.hold is None or node.hold.kind not in kinds:
        waiting = [name for name, _, hold in state.iter_holds() if hold.kind in kinds]
        how = f"it is {node.status}" if node.hold is None else f"it is held for another reason ({node.hold.kind})"
        return (
            f"'{said.subject}' waits for no such answer, {how}. {_names(said.subject, waiting, 'What waits for one')}"
        )
    return node, node.hold


def _who(state: RunState, said: _Said, node: TaskNode | StageNode, hold: Hold) -> str:
    if hold.approvers and said.actor not in hold.approvers:
        return f"'{said.actor}' is not among those who may answer: {', '.join(hold.approvers)}"
    if not hold.four_eyes:
        return ""
    if said.actor == state.actor:
        return f"'{said.actor}' began the run, and somebody else must approve (four_eyes)"
    if isinstance(node, TaskNode) and said.actor == node.editor:
        return f"'{said.actor}' changed the task, and somebody else must approve (four_eyes)"
    return ""


_APPROVALS = ("approval", "policy")


def _approve(state: RunState, said: _Said) -> str:
    found = _held(state, said, _APPROVALS)
    if isinstance(found, str):
        return found
    node, hold = found
    if said.actor in node.approvals:
        return f"'{said.actor}' has approved it already; {hold.quorum} different people must"
    return _who(state, said, node, hold)


def _reject(state: RunState, said: _Said) -> str:
    found = _held(state, said, _APPROVALS)
    if isinstance(found, str):
        return found
    node, hold = found
    if hold.approvers and said.actor not in hold.approvers:
        return _who(state, said, node, hold)
    return "" if said.reason else "a rejection needs a reason"


def _answer(state: RunState, said: _Said) -> str:
    task = _task(state, said.subject)
    if isinstance(task, str):
        return task
    hold = task.hold
    if hold is None or hold.kind not in ("ask", "failure"):
        held = ", ".join(state.held) or "none"
        return f"task '{task.path}' waits for no answer, it is {task.status}. Tasks that wait for one: {held}"
    choices = tuple(hold.choices) or ANSWERS
    if task.undoes is not None:
        choices = tuple(known for known in choices if known != "rollback")
    choice = said.body.get("choice")
    if choice not in choices:
        return f"'{choice}' is not among the answers to '{hold.question}': {', '.join(choices)}"
    if choice == "override":
        return _outputs(task, said)
    return ""


# --- tasks -----------------------------------------------------------------------------------------------------------


def _outputs(task: TaskNode, said: _Said) -> str:
    outputs = said.body.get("outputs")
    if not isinstance(outputs, dict):
        return "'override' needs the outputs that the task is to have, as a JSON object"
    info = said.known.action(task.agent, task.action)
    problems = said.known.problems(info.output_schema, outputs) if info is not None else []
    if problems:
        return f"these outputs are not what '{task.action}' of agent '{task.agent}' gives: {'; '.join(problems)}"
    return ""


def _skip(state: RunState, said: _Said) -> str:
    task = _open_task(state, said)
    return task if isinstance(task, str) else ""


def _override(state: RunState, said: _Said) -> str:
    task = _open_task(state, said)
    if isinstance(task, str):
        return task
    return _outputs(task, said) or ("" if said.reason else "to override outputs needs a reason")


def _not_begun(state: RunState, said: _Said) -> TaskNode | str:
    task = _open_task(state, said)
    if isinstance(task, TaskNode) and task.status in ("running", "cancelling", "recalling"):
        return f"task '{task.path}' is {task.status}: wait for its end, cancel it, or fork the run before it"
    return task


def _edit(state: RunState, said: _Said) -> str:
    task = _not_begun(state, said)
    if isinstance(task, str):
        return task
    inputs = said.body.get("inputs")
    if not isinstance(inputs, dict) or not inputs:
        return "'edit' needs the inputs to change, as a JSON object"
    if task.plan.secrets:
        return f"the inputs of '{task.path}' hold secrets and cannot be changed here"
    info = said.known.action(task.agent, task.action)
    if info is None or not info.input_schema:
        return ""
    whole = {**(task.inputs or {}), **(task.edits or {}), **inputs}
    # What a task that is not held will be given is not known yet; only what is changed can be judged then.
    schema = dict(info.input_schema)
    if task.inputs is None:
        schema.pop("required", None)
    problems = said.known.problems(schema, whole)
    if problems:
        return f"these inputs are not what '{task.action}' of agent '{task.agent}' takes: {'; '.join(problems)}"
    return ""


def _reassign(state: RunState, said: _Said) -> str:
    task = _not_begun(state, said)
    if isinstance(task, str):
        return task
    if task.plan.workflow is not None:
        return f"task '{task.path}' is a sub-workflow, which no agent does"
    agent = said.body.get("agent")
    if not isinstance(agent, str) or (said.known.agents and agent not in said.known.agents):
        return f"agent '{agent}' is not known. {_names(str(agent), said.known.agents)}"
    return ""


def _retry(state: RunState, said: _Said) -> str:
    task = _open_task(state, said)
    if isinstance(task, str):
        return f"{task}. To do it again: noa retry RUN --from {said.subject}" if "over" in task else task
    waits = task.status == "retrying" or (task.hold is not None and task.hold.kind in ("ask", "failure"))
    return "" if waits else f"task '{task.path}' has not failed, it is {task.status}"


def _cancel(state: RunState, said: _Said) -> str:
    stage = state.stages.get(said.subject)
    if stage is not None and said.subject not in state.tasks:
        if stage.terminal:
            return f"stage '{said.subject}' is over: it {_PAST.get(stage.status, stage.status)}"
        return "" if stage.status in ("running", "held") else f"stage '{said.subject}' has not begun"
    task = _open_task(state, said)
    return task if isinstance(task, str) else ""


# --- the run ---------------------------------------------------------------------------------------------------------


def _pause(state: RunState, said: _Said) -> str:
    return f"the run is paused already, by {state.paused}" if state.paused else ""


def _unpause(state: RunState, said: _Said) -> str:
    return "" if state.paused else "the run is not paused"


def _mode(state: RunState, said: _Said) -> str:
    mode = said.body.get("mode")
    if mode not in said.known.modes:
        return f"mode '{mode}' is not known. {_names(str(mode), said.known.modes)}"
    return f"the run is in mode '{mode}' already" if mode == state.mode else ""


# --- the debugger ----------------------------------------------------------------------------------------------------


def _debugged(state: RunState, said: _Said) -> str:
    mode = said.known.modes.get(state.mode)
    if mode is not None and not mode.debugs:
        return f"the run is in mode '{state.mode}', which does not stop: noa mode RUN debug"
    return ""


def _step(state: RunState, said: _Said) -> str:
    if said.subject and said.subject not in state.held:
        return f"task '{said.subject}' is not held. {_names(said.subject, state.held, 'Held')}"
    return _debugged(state, said)


def _place(state: RunState, place: object) -> str:
    """Why nothing of the definition can ever be at a place; a pattern is taken as it is."""
    if not isinstance(place, str) or not place:
        return "name a task or a stage to stop at"
    if any(sign in place for sign in "*?[") or place in state.stages or place in state.tasks:
        return ""
    known = {
        f"{name}/{task.name}"
        for name, stage in state.plan.stages.items()
        for template in stage.templates.values()
        for task in template.tasks
    }
    return (
        ""
        if place.replace(".", "/") in {*known, *(n.replace(".", "/") for n in known)}
        else (f"'{place}' is no task or stage of the definition. {_names(place, {*known, *state.stages})}")
    )


def _until(state: RunState, said: _Said) -> str:
    return _debugged(state, said) or _place(state, said.body.get("place"))


def _break(state: RunState, said: _Said) -> str:
    body = said.body
    if not isinstance(body.get("id"), str):
        return "a breakpoint needs an id"
    if body.get("on", "start") not in ("start", "failure"):
        return f"a breakpoint is on 'start' or 'failure', not on '{body.get('on')}'"
    try:
        if body.get("when"):
            condition_of(state, str(body["when"]))
    except ExpressionError as error:
        return error.message
    return _place(state, body.get("place", "*"))


def _clear(state: RunState, said: _Said) -> str:
    name = said.body.get("id")
    return "" if name in state.debugging.breakpoints else f"there is no breakpoint '{name}'"


_CHECKS: dict[str, Callable[[RunState, _Said], str]] = {
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
    "continue": _step,
    "step": _step,
    "next": _step,
    "until": _until,
    "break": _break,
    "clear": _clear,
}
