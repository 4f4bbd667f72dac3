"""Who decided what in a run, by its events: people, modes, timers, recovery chains, engines. Pure.

Only decisions are told: that something began, succeeded or failed is for `noa events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from noa.cli.text import duration
from noa.model.events import (
    CancelRequested,
    Complete,
    Event,
    Fail,
    Hold,
    HoldResolved,
    Recall,
    Recalled,
    RecoveryChosen,
    Retry,
    Rollback,
    RollbackStarted,
    RunCreated,
    RunFinished,
    RunReopened,
    RunResumed,
    SignalApplied,
    SignalRefused,
    Skip,
    StageHeld,
    StageSkipped,
    Substitute,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel
from noa.plugin import SignalRecord

__all__ = ["Decided", "decisions", "recorded"]

_SOMEBODY = "somebody"
_ENGINE = "engine"
_CLOCK = "clock"
_DEFINITION = "definition"
_OF_HOLDS = ("show", "approvers", "quorum", "four_eyes", "timeout_ms", "on_timeout", "escalate_to")


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision.

    Attributes:
        seq: Number of the event that records it; 0 for a signal that no engine has taken yet.
        at_ms: When, UTC epoch milliseconds.
        by: Who: a person, or what decided by itself.
        person: Whether `by` is a person.
        what: In words, the subject included.
        subject: Task or stage; empty for the run.
        reason: Why.
        before: What it was; None where that is nothing, or not known.
        after: What it is then.
        refused: Why it was not done; empty where it was.
        signal: Id of the signal, where there is one.
        of: Run in which it was decided, where a fork shares that; else empty.
    """

    run_id: str
    seq: int
    at_ms: int
    kind: str
    by: str
    what: str
    person: bool = False
    subject: str = ""
    reason: str = ""
    before: Any = None
    after: Any = None
    refused: str = ""
    signal: str = ""
    of: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run_id": self.run_id,
            "seq": self.seq or None,
            "at_ms": self.at_ms,
            "kind": self.kind,
            "by": self.by,
            "person": self.person,
            "what": self.what,
            "subject": self.subject or None,
            "reason": self.reason or None,
            "before": self.before,
            "after": self.after,
            "refused": self.refused or None,
            "signal": self.signal or None,
            "of_run": self.of or None,
        }


def decisions(events: Iterable[tuple[int, Event]], plan: Plan | None = None) -> list[Decided]:
    """The decisions of a run, in order.

    Args:
        events: Of the run with their sequence numbers, from the first.
        plan: Of the run, where it is known; without it, what only the definition tells is not there as `before`.
    """
    fold = _Fold(plan)
    return [decided for seq, event in events for decided in fold.take(seq, event)]


def recorded(signal: SignalRecord) -> Decided:
    """What somebody said that no engine has taken yet."""
    subject = str(signal.body.get("task") or signal.body.get("stage") or "")
    body = {name: value for name, value in signal.body.items() if name not in ("task", "stage")}
    return Decided(
        run_id=signal.run_id,
        seq=0,
        at_ms=signal.created_at_ms,
        kind=signal.kind,
        by=signal.actor or _SOMEBODY,
        what=f"said '{signal.kind}'{f' about {subject}' if subject else ''}; no engine has taken it yet",
        person=True,
        subject=subject,
        reason=signal.reason,
        after=body or None,
        signal=signal.signal_id,
    )


class _Fold:
    """Follows a run, so that each decision can be told with what was before it."""

    def __init__(self, plan: Plan | None) -> None:
        self._view = ProgressModel(plan)
        self._seq = 0
        self._created: RunCreated | None = None
        self._inputs: dict[str, dict[str, Any]] = {}
        self._holds: dict[str, Hold] = {}
        self._approvals: dict[str, list[str]] = {}
        self._agents: dict[str, dict[str, Any]] = {}

    def take(self, seq: int, event: Event) -> Iterator[Decided]:
        """Fold an event in; what it decides."""
        self._seq = seq
        mode, status = self._view.mode, self._status_of(event)
        self._view.apply(event)
        told = _TOLD.get(type(event))
        if told is not None:
            yield from told(self, event, mode, status)
        if isinstance(event, TaskScheduled):
            self._inputs[event.task] = event.inputs or self._inputs.get(event.task, {})
            self._holds.pop(event.task, None)

    def _status_of(self, event: Event) -> str:
        task = self._view.task(TaskPath(getattr(event, "task", "") or "-"))
        return task.status if task is not None else ""

    def _decided(self, event: Event, kind: str, by: str, what: str, **more: Any) -> Decided:
        of = ""
        if self._created is not None and 1 < self._seq <= self._created.forked_at:
            of = self._created.forked_from
        return Decided(self._view.run_id, self._seq, event.at_ms, kind, by, what, of=of, **more)

    # --- the run

    def _run_created(self, event: RunCreated, _mode: str, _status: str) -> Iterator[Decided]:
        self._created = event
        what = f"began the run of {event.workflow} in mode '{event.mode}'"
        if event.forked_from:
            what = f"forked the run from {event.forked_from} at event {event.forked_at}"
        after = {"mode": event.mode, "inputs": event.inputs}
        if event.parent:
            yield self._decided(event, "begin", _ENGINE, f"{what}, for {event.parent}", after=after)
        else:
            yield self._decided(event, "begin", event.actor or _SOMEBODY, what, person=True, after=after)

    def _run_resumed(self, event: RunResumed, _mode: str, _status: str) -> Iterator[Decided]:
        host, _, pid, *_ = [*event.owner.split(":"), "", "", ""]
        where = f"process {pid} on {host}" if pid else event.owner
        after = {"engine": event.owner, "fence": event.fence}
        yield self._decided(event, "resume", f"{_ENGINE} {host}:{pid}", f"took the run over: {where}", after=after)

    def _cancel_requested(self, event: CancelRequested, _mode: str, _status: str) -> Iterator[Decided]:
        yield self._by_person(event, "cancel", "cancelled the run", before=self._view.status, after="cancelling")

    def _run_reopened(self, event: RunReopened, _mode: str, _status: str) -> Iterator[Decided]:
        what = self._view.interventions[-1].what
        yield self._decided(
            event, "reopen", event.actor or _SOMEBODY, what, person=True, reason=event.reason, subject=event.from_task
        )

    def _rollback_started(self, event: RollbackStarted, _mode: str, _status: str) -> Iterator[Decided]:
        yield self._decided(event, "rollback", _ENGINE, "began to undo what the run did", reason=_text(event.failure))

    def _run_finished(self, event: RunFinished, _mode: str, _status: str) -> Iterator[Decided]:
        after: dict[str, Any] = {"status": event.status}
        if event.degraded:
            after["degraded"] = True
        if event.left:
            after["left"] = list(event.left)
        what = f"ended the run: {event.status.replace('_', ' ')}"
        yield self._decided(event, "end", _ENGINE, what, reason=_text(event.failure), after=after)

    # --- holds

    def _held(self, event: TaskHeld | StageHeld, mode: str, _status: str) -> Iterator[Decided]:
        subject = event.task if isinstance(event, TaskHeld) else event.stage
        hold = event.hold
        self._holds[subject], self._approvals[subject] = hold, []
        after: dict[str, Any] = {}
        if isinstance(event, TaskHeld):
            self._inputs[subject] = event.inputs
            after["inputs"] = event.inputs
        told = msgspec.to_builtins(hold)
        after |= {name: told[name] for name in _OF_HOLDS if name in told}
        what = f"held {subject} ({hold.kind}): {hold.question or 'what is to be done?'}"
        yield self._decided(event, "hold", f"mode {mode}", what, subject=subject, after=after)

    def _hold_resolved(self, event: HoldResolved, _mode: str, _status: str) -> Iterator[Decided]:
        by = event.by.removeprefix("nobody: ")
        what = f"answered '{event.answer}' for {event.subject}"
        yield self._decided(
            event, "resolve", by, what, subject=event.subject, reason=event.reason, before="held", after=event.answer
        )

    def _timer_fired(self, event: TimerFired, _mode: str, _status: str) -> Iterator[Decided]:
        kind, _, subject = event.timer.partition(":")
        hold = self._holds.get(subject)
        if kind == "hold" and hold is not None:
            what = f"nobody answered {subject} in time: '{hold.on_timeout}' counts"
            after = {"answer": hold.on_timeout, **({"asked": hold.escalate_to} if hold.escalate_to else {})}
            yield self._decided(event, "timeout", _CLOCK, what, subject=subject, before="held", after=after)
        elif kind in ("total", "stage", "run"):
            name = subject or "the run"
            yield self._decided(event, "timeout", _CLOCK, f"ended {name}, whose time was over", subject=subject)

    # --- people

    def _by_person(self, event: Any, kind: str, what: str, **more: Any) -> Decided:
        return self._decided(
            event,
            kind,
            event.actor or _SOMEBODY,
            what,
            person=True,
            reason=getattr(event, "reason", ""),
            signal=event.signal,
            **more,
        )

    def _signal_applied(self, event: SignalApplied, mode: str, status: str) -> Iterator[Decided]:
        before, after = self._change(event, mode, status)
        what = self._view.interventions[-1].what
        if event.task and event.task not in what:
            what += f" for {event.task}"
        yield self._by_person(event, event.kind, what, subject=event.task, before=before, after=after)

    def _change(self, event: SignalApplied, mode: str, status: str) -> tuple[Any, Any]:
        """What was before a person's word, and what is after it."""
        subject, body = event.task, dict(event.body)
        match event.kind:
            case "edit":
                return self._edit(subject, body.get("inputs", {}))
            case "reassign":
                return self._reassign(subject, body)
            case "approve":
                return self._approve(subject, event.actor)
            case "mode":
                return mode, body.get("mode")
            case "pause":
                return "running", "paused"
            case "unpause":
                return "paused", "running"
            case "override":
                return status or None, {"outputs": body.get("outputs")}
            case "answer":
                task = self._view.task(subject)
                failure = _text(task.failure) if task is not None else ""
                return failure or status or None, body
            case "skip" | "cancel" | "reject" | "retry":
                past = {"skip": "skipped", "cancel": "cancelled", "reject": "failed", "retry": "tried again"}
                return status or ("held" if subject in self._holds else None), past[event.kind]
        return None, body or None

    def _edit(self, subject: str, changed: dict[str, Any]) -> tuple[Any, Any]:
        known = self._inputs.get(subject, {})
        before = {name: known[name] for name in changed if name in known}
        self._inputs[subject] = {**known, **changed}
        self._approvals[subject] = []
        return before or None, changed

    def _reassign(self, subject: str, body: dict[str, Any]) -> tuple[Any, Any]:
        task = self._view.task(TaskPath(subject))
        known = self._agents.get(subject) or {
            name: value for name in ("agent", "action") if task is not None and (value := getattr(task, name))
        }
        self._agents[subject] = {**known, **body}
        self._approvals[subject] = []
        return known or None, body

    def _approve(self, subject: str, actor: str) -> tuple[Any, Any]:
        hold = self._holds.get(subject)
        quorum = hold.quorum if hold is not None else 1
        given = self._approvals.setdefault(subject, [])
        before = f"{len(given)} of {quorum} approved"
        given.append(actor)
        return before, f"{len(given)} of {quorum} approved"

    def _signal_refused(self, event: SignalRefused, _mode: str, _status: str) -> Iterator[Decided]:
        what = f"said '{event.kind}'{f' about {event.task}' if event.task else ''}"
        yield self._by_person(event, event.kind, what, subject=event.task, refused=event.why)

    # --- what decides by itself

    def _recovery_chosen(self, event: RecoveryChosen, _mode: str, _status: str) -> Iterator[Decided]:
        decision = event.decision
        if isinstance(decision, Hold):
            self._holds[event.task], self._approvals[event.task] = decision, []
        task = self._view.task(event.task)
        yield self._decided(
            event,
            "recover",
            f"recovery {event.strategy.partition(':')[2] or event.strategy}",
            _chosen(event),
            subject=event.task,
            before=_text(task.failure) if task is not None else None,
            after=msgspec.to_builtins(decision),
        )

    def _skipped(self, event: TaskSkipped | StageSkipped, _mode: str, _status: str) -> Iterator[Decided]:
        subject = event.task if isinstance(event, TaskSkipped) else event.stage
        yield self._decided(event, "skip", _DEFINITION, f"skipped {subject}", subject=subject, reason=event.reason)

    def _recalled(self, event: Recalled, _mode: str, _status: str) -> Iterator[Decided]:
        if event.found:
            what = f"took the outputs of {event.task} from run {event.run}"
            after = {"run": event.run, "made_at_ms": event.made_at_ms}
            yield self._decided(event, "recall", _ENGINE, what, subject=event.task, after=after)


def _chosen(event: RecoveryChosen) -> str:
    """What a recovery chain chose, in words."""
    task = event.task
    match event.decision:
        case Retry(after_ms=after_ms):
            return f"tries {task} again in {duration(after_ms)}"
        case Substitute(agent=agent, action=action):
            return f"asks for {task} otherwise: " + (" · ".join(filter(None, (agent, action))) or "other inputs")
        case Complete(degraded=degraded):
            return f"gave outputs in the place of {task}{', degraded' if degraded else ''}"
        case Recall():
            return f"looks for outputs of {task} from earlier runs"
        case Skip():
            return f"skipped {task}"
        case Fail():
            return f"let {task} fail"
        case Rollback():
            return f"let {task} fail, and the run be undone"
        case Hold(question=question):
            return f"held {task} (ask): {question or 'what is to be done?'}"


def _text(failure: Failure | None) -> str:
    return str(failure) if failure is not None else ""


_TOLD: dict[type, Callable[[_Fold, Any, str, str], Iterator[Decided]]] = {
    RunCreated: _Fold._run_created,
    RunResumed: _Fold._run_resumed,
    CancelRequested: _Fold._cancel_requested,
    RunReopened: _Fold._run_reopened,
    RollbackStarted: _Fold._rollback_started,
    RunFinished: _Fold._run_finished,
    TaskHeld: _Fold._held,
    StageHeld: _Fold._held,
    HoldResolved: _Fold._hold_resolved,
    TimerFired: _Fold._timer_fired,
    SignalApplied: _Fold._signal_applied,
    SignalRefused: _Fold._signal_refused,
    RecoveryChosen: _Fold._recovery_chosen,
    TaskSkipped: _Fold._skipped,
    StageSkipped: _Fold._skipped,
    Recalled: _Fold._recalled,
}
