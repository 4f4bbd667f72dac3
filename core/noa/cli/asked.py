"""What people are asked in a run whose definition cannot be read here, such as for a missing plugin: from its events.

It is not exact: what only the definition tells, such as the agent of a task that no event names, is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from noa.cli.people import Question, questions_of
from noa.cli.session import History
from noa.model.events import (
    ANSWERS,
    Event,
    Hold,
    HoldResolved,
    RecoveryChosen,
    SignalApplied,
    StageFinished,
    StageHeld,
    StageSkipped,
    StageStarted,
    TaskHeld,
    TimerFired,
)
from noa.model.ids import RunId, TaskPath

__all__ = ["questions_in"]


def questions_in(history: History) -> list[Question]:
    """What is asked in a run, oldest first; not what its sub-workflows ask."""
    if history.state is not None:
        return questions_of(history.state)
    if history.view.finished_ms:
        return []
    run = history.record.run_id
    actor = getattr(history.events[0][1], "actor", "")
    held: dict[str, Question] = {}
    pause: Question | None = None
    for _, event in history.events:
        _fold(held, event, run, actor)
        if isinstance(event, SignalApplied) and event.kind in ("pause", "unpause"):
            text = f"{event.actor or 'somebody'} has paused it, and nothing more begins"
            asked = Question(run, TaskPath(""), text, ("unpause",), event.at_ms, kind="paused")
            pause = asked if event.kind == "pause" else None
    still = {name: asked for name, asked in held.items() if _is_held(history, name)}
    return [*still.values(), *([pause] if pause is not None else [])]


def _is_held(history: History, subject: str) -> bool:
    task = history.view.task(TaskPath(subject))
    return subject in history.view.stages or (task is not None and task.status == "held")


def _fold(held: dict[str, Question], event: Event, run: RunId, actor: str) -> None:
    match event:
        case TaskHeld(task=subject, hold=hold):
            held[subject] = _question(run, subject, hold, event.at_ms, actor, inputs=event.inputs)
        case StageHeld(stage=subject, hold=hold):
            held[subject] = _question(run, subject, hold, event.at_ms, actor)
        case RecoveryChosen(task=subject, decision=Hold() as hold):
            held[subject] = _question(run, subject, hold, event.at_ms, actor)
        case SignalApplied(task=subject, kind=kind) if subject in held:
            _said(held, subject, kind, event)
        case HoldResolved(subject=subject, answer=answer) if answer != "escalate":
            held.pop(subject, None)
        case TimerFired(timer=timer) if timer.startswith("hold:"):
            asked = held.get(timer.removeprefix("hold:"))
            if asked is not None and asked.default != "escalate":
                del held[asked.task]
        case StageStarted(stage=name) | StageSkipped(stage=name) | StageFinished(stage=name):
            held.pop(name, None)


def _said(held: dict[str, Question], subject: str, kind: str, event: SignalApplied) -> None:
    asked = held[subject]
    if kind == "approve":
        approvals = (*asked.approvals, event.actor)
        held[subject] = replace(asked, approvals=approvals)
        if len(approvals) >= asked.quorum:
            del held[subject]
    elif kind == "edit":
        inputs = {**(asked.inputs or {}), **event.body.get("inputs", {})}
        held[subject] = replace(asked, inputs=inputs, approvals=(), changed_by=event.actor)
    elif kind == "reassign":
        held[subject] = replace(asked, agent=event.body.get("agent", ""), approvals=(), changed_by=event.actor)
    else:
        del held[subject]


def _question(run: RunId, subject: str, hold: Hold, at_ms: int, actor: str, **more: Any) -> Question:
    return Question(
        run_id=run,
        task=TaskPath(subject),
        text=hold.question,
        choices=tuple(hold.choices) or ANSWERS,
        since_ms=at_ms,
        default=hold.on_timeout if hold.timeout_ms is not None else "",
        due_ms=None if hold.timeout_ms is None else at_ms + hold.timeout_ms,
        kind=hold.kind,
        show=hold.show,
        approvers=tuple(hold.approvers),
        barred=(actor,) if hold.four_eyes and actor else (),
        quorum=hold.quorum,
        **more,
    )
