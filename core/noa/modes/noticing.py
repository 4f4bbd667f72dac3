"""Notes what one run teaches while it goes on: from its events, and from when its attempts began to work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    HoldResolved,
    LateResult,
    RecoveryChosen,
    Retry,
    RunCreated,
    SignalApplied,
    StageHeld,
    TaskFailed,
    TaskHeld,
)
from noa.model.execution import Observation, Stage
from noa.model.ids import TaskPath
from noa.modes.learning import FailureRecord, PastRun, RunNotes, TaskNotes

__all__ = ["Noticing"]

_NOT_WORK = frozenset({"CANCELLED"})
"""Codes that say nothing about the task."""


class Noticing:
    """The notes of one run; `over` hands them in.

    Args:
        whole: Whether it is seen from its first event on; only then its makespan means anything.
        hand_in: Takes the notes.
    """

    def __init__(self, version: str, *, whole: bool, hand_in: Callable[[RunNotes], None]) -> None:
        self._notes = RunNotes(version)
        self._comparable = whole
        self._hand_in = hand_in
        self._began: dict[tuple[TaskPath, int], int] = {}
        self._retried: dict[TaskPath, list[str]] = {}
        self._failed: dict[TaskPath, str] = {}
        self._holds: set[str] = set()
        self._learned = False
        self._peak = 0

    def event(self, event: Event) -> None:
        """Take an event that is on disk."""
        take = _TAKE.get(type(event))
        if take is not None:
            take(self, event)

    def observed(self, task: TaskPath, attempt: int, seen: Observation, now_ms: int) -> None:
        """Take what is seen of an attempt: the work begins with the last `running`."""
        if type(seen) is Stage and seen.name == "running":
            self._began[task, attempt] = now_ms
            self._peak = max(self._peak, len(self._began))

    def over(self, state: RunState) -> None:
        """The run is over; hand in what was noted."""
        if self._comparable and not self._holds and state.status == "succeeded":
            self._notes.past = PastRun(
                run_id=state.run_id,
                at_ms=state.finished_ms,
                version=self._notes.version,
                makespan_ms=state.finished_ms - state.created_ms,
                learned=self._learned,
                peak=self._peak,
            )
        self._hand_in(self._notes)

    def _created(self, event: RunCreated) -> None:
        self._learned = bool(event.expected_ms)

    def _succeeded(self, event: AttemptSucceeded) -> None:
        notes = self._of(event.task)
        began_ms = self._began.pop((event.task, event.attempt), None)
        if notes is None:
            return
        notes.attempts += 1
        notes.succeeded(event.duration_ms if began_ms is None else event.at_ms - began_ms, event.metrics)
        for code in self._retried.pop(event.task, ()):
            notes.failures[code].helped += 1
        self._failed.pop(event.task, None)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        self._began.pop((event.task, event.attempt), None)
        notes, code = self._of(event.task), event.failure.code
        if notes is None or code in _NOT_WORK:
            return
        notes.attempts += 1
        failure = notes.failures.setdefault(code, FailureRecord())
        failure.count += 1
        failure.retryable = event.failure.retryable
        self._failed[event.task] = code

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        code = self._failed.pop(event.task, None)
        notes = self._of(event.task)
        if notes is not None and code is not None and isinstance(event.decision, Retry):
            notes.failures[code].retried += 1
            self._retried.setdefault(event.task, []).append(code)

    def _task_failed(self, event: TaskFailed) -> None:
        self._retried.pop(event.task, None)
        self._failed.pop(event.task, None)

    def _late(self, event: LateResult) -> None:
        self._began.pop((event.task, event.attempt), None)

    def _held(self, event: TaskHeld | StageHeld) -> None:
        self._holds.add(event.task if isinstance(event, TaskHeld) else event.stage)

    def _resolved(self, event: HoldResolved) -> None:
        self._holds.discard(event.subject)  # by its mode, at once: nobody was waited for

    def _people(self, _event: Event) -> None:
        self._comparable = False

    def _of(self, task: TaskPath) -> TaskNotes | None:
        """The notes of a task; None for what undoes one."""
        stage, _, name = task.rpartition("/")
        if name.endswith("~compensate"):
            return None
        key = f"{stage.partition('[')[0]}/{name}"
        found = self._notes.tasks.get(key)
        if found is None:
            found = self._notes.tasks[key] = TaskNotes()
        return found


_TAKE: dict[type, Callable[[Noticing, Any], None]] = {
    RunCreated: Noticing._created,
    AttemptSucceeded: Noticing._succeeded,
    AttemptFailed: Noticing._attempt_failed,
    RecoveryChosen: Noticing._recovery_chosen,
    TaskFailed: Noticing._task_failed,
    LateResult: Noticing._late,
    TaskHeld: Noticing._held,
    StageHeld: Noticing._held,
    HoldResolved: Noticing._resolved,
    SignalApplied: Noticing._people,
}
