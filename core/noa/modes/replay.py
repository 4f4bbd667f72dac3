"""Steps through what happened in a run, forwards and backwards, by folding a shorter or longer part of its journal.

The same moves as in a run that goes on; here they only look, and nothing can be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from noa.engine.debugging import Breakpoint
from noa.engine.state import RunState
from noa.errors import UsageError
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    HoldResolved,
    RecoveryChosen,
    RollbackStarted,
    RunFinished,
    RunReopened,
    SignalApplied,
    StageHeld,
    StageSkipped,
    StageStarted,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
)
from noa.model.ids import TaskPath
from noa.modes.debugger import Debugger

__all__ = ["Moment", "Replay", "said"]

_OF_THE_DEBUGGER = frozenset({"step", "next", "until", "continue", "break", "clear"})


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of the past at which something of interest had just happened.

    Attributes:
        seq: Sequence number of the event.
        subject: Path of the task, or name of the stage; empty for the run.
        said: What happened, such as "one/x begins (attempt 1)".
        breakpoint: Id of the breakpoint that stopped there, else empty.
    """

    seq: int
    subject: str
    said: str
    breakpoint: str = ""


def said(event: Event) -> tuple[str, str] | None:
    """What an event is about and what it says; None for those that a person who steps is not shown."""
    match event:
        case StageStarted(stage=stage):
            return stage, f"stage {stage} begins"
        case StageSkipped(stage=stage):
            return stage, f"stage {stage} is skipped: {event.reason or 'its condition is false'}"
        case StageHeld(stage=stage):
            return stage, f"stage {stage} is held: {event.hold.question}"
        case TaskScheduled(task=task):
            return task, f"{task} begins (attempt {event.attempt})"
        case TaskHeld(task=task):
            return task, f"{task} is held: {event.hold.question}"
        case TaskSkipped(task=task):
            return task, f"{task} is skipped" + (f": {event.reason}" if event.reason else "")
        case AttemptSucceeded(task=task):
            return task, f"{task} succeeded"
        case AttemptFailed(task=task):
            return task, f"{task}: attempt {event.attempt} failed: {event.failure}"
        case RecoveryChosen(task=task):
            what = event.decision.__struct_config__.tag
            return task, f"{task}: recovery strategy '{event.strategy}' chose '{what}'"
        case TaskFailed(task=task):
            return task, f"{task} failed: {event.failure}"
        case HoldResolved(subject=subject):
            return subject, f"{subject}: '{event.answer}' by {event.by}"
        case SignalApplied(kind=kind) if kind not in _OF_THE_DEBUGGER:
            about = f" {event.task}" if event.task else ""
            return event.task, f"{event.actor or 'somebody'}: {kind}{about}"
        case CancelRequested():
            return "", f"{event.actor or 'somebody'} cancels the run"
        case RollbackStarted():
            return "", "the run is rolled back"
        case RunReopened():
            return "", f"{event.actor or 'somebody'} reopens the run"
        case RunFinished(status=status):
            return "", f"the run is over: {status.replace('_', ' ')}"
    return None


class Replay:
    """Moves through the past of a debugger's run. Each move returns where it ended; `Debugger.view` is the state there.

    A move that finds nothing further ends at the last event, which is now, or at the first one.
    """

    def __init__(self, debugger: Debugger) -> None:
        self._bug = debugger

    def here(self) -> Moment:
        """The last moment of interest that has happened where we look."""
        return next(self._before(self._bug.view_seq + 1), self._moment(1))

    def step(self) -> Moment:
        """To the next event of interest."""
        return self._to(next(self._after(self._bug.view_seq), None))

    def back(self, count: int = 1) -> Moment:
        """So many events of interest back.

        Raises:
            UsageError: The count is not positive.
        """
        if count < 1:
            raise UsageError("how many events back? Give a number from 1")
        found = None
        for found, _ in zip(self._before(self.here().seq), range(count), strict=False):  # noqa: B007
            pass
        return self._to(found or self._moment(1))

    def next_stage(self) -> Moment:
        """To where the next stage begins."""
        return self._forward(lambda event, _state: isinstance(event, StageStarted | StageSkipped))

    def until(self, place: str) -> Moment:
        """To where a task begins."""
        return self._forward(lambda event, state: self._begins(event, state, Breakpoint("until", place)))

    def go_on(self) -> Moment:
        """To the next breakpoint, or to now."""
        points = self._points()
        start = self._bug.view_seq
        state = self._bug.go_to(start)
        for seq in range(start + 1, self._bug.seq + 1):
            state = self._bug.go_to(seq)
            hit = self._hit(self._bug.history[seq - 1], state, points)
            if hit:
                return self._moment(seq, hit)
        return self._to(None)

    def go_back(self) -> Moment:
        """To the last breakpoint before, or to the beginning."""
        points, end = self._points(), self.here().seq
        found = (1, "")
        for seq in range(1, end):
            state = self._bug.go_to(seq)
            hit = self._hit(self._bug.history[seq - 1], state, points)
            if hit:
                found = (seq, hit)
        self._bug.go_to(found[0])
        return self._moment(*found)

    def go_to(self, seq: int) -> Moment:
        """To an event by its sequence number. Raises UsageError."""
        self._bug.go_to(seq)
        return self._moment(seq)

    # --- finding -------------------------------------------------------------------------------------------------

    def _after(self, seq: int) -> Iterator[Moment]:
        for later in range(seq + 1, self._bug.seq + 1):
            if said(self._bug.history[later - 1]) is not None:
                yield self._moment(later)

    def _before(self, seq: int) -> Iterator[Moment]:
        for earlier in range(seq - 1, 0, -1):
            if said(self._bug.history[earlier - 1]) is not None:
                yield self._moment(earlier)

    def _moment(self, seq: int, point: str = "") -> Moment:
        subject, text = said(self._bug.history[seq - 1]) or ("", "the run begins" if seq == 1 else "")
        return Moment(seq, subject, text, point)

    def _to(self, found: Moment | None) -> Moment:
        found = found or self._moment(self._bug.seq)
        self._bug.go_to(found.seq)
        return found

    def _forward(self, wanted: Callable[[Event, RunState], bool]) -> Moment:
        for seq in range(self._bug.view_seq + 1, self._bug.seq + 1):
            state = self._bug.go_to(seq)
            if wanted(self._bug.history[seq - 1], state):
                return self._moment(seq)
        return self._to(None)

    def _points(self) -> list[Breakpoint]:
        return list(self._bug.breakpoints.values())

    def _hit(self, event: Event, state: RunState, points: list[Breakpoint]) -> str:
        return next((point.id for point in points if self._begins(event, state, point)), "")

    def _begins(self, event: Event, state: RunState, point: Breakpoint) -> bool:
        kind = TaskScheduled if point.on == "start" else AttemptFailed
        if not isinstance(event, kind) or (isinstance(event, TaskScheduled) and event.attempt != 1):
            return False
        task = state.tasks.get(TaskPath(event.task))
        return task is not None and point.matches(task) and self._bug.is_true(point, task)
