"""The state of one run: the fold of its events. `apply` is the only place where anything is decided.

No clock, no I/O, no randomness: time and jitter arrive inside events. The cost of an event does not grow with the run:
counters and indexes, no scans (but for ending a stage early, which looks once at each task that it ends).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noa.engine import interventions
from noa.engine.commands import (
    Command,
    SetTimer,
)
from noa.engine.failures import timed_out
from noa.engine.fold_reopening import ReopeningFold
from noa.engine.ranking import upward_ranks
from noa.errors import InternalError
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    BlocksOpened,
    CancelRequested,
    Event,
    HoldResolved,
    LateResult,
    Recalled,
    RecoveryChosen,
    RollbackStarted,
    RunCreated,
    RunFinished,
    RunReopened,
    RunResumed,
    SignalApplied,
    SignalRefused,
    StageFinished,
    StageHeld,
    StageSkipped,
    StageStarted,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.ids import RunId, TaskPath

__all__ = ["RunState"]


class RunState(ReopeningFold):
    """One run. Fold events with `apply`; read the rest.

    Attributes:
        plan: What is run.
        pending: Commands that have no outcome yet, by key. Resume issues them again.
        tasks: Tasks of all blocks that were opened, by path.
        stages: By name, in the order of the file.
        cancelled: Why the run is being ended early, or empty.
        forced: Whether cleanup is ended too: it was cancelled a second time.
        signals: Ids of the signals that were applied or refused.
        agents: Agents that were asked for anything.
        held: Tasks that wait for a person, in the order in which they began to; `held_stages` are stages that do.
        mode: Its mode of execution now.
        actor: Who began it.
        paused: Who wants that nothing more begins, else empty; `paused_ms` is since when.
        debugging: Breakpoints and steps.
        undo_wanted: Whether the run is to be undone once its stages are over.
        undoing: The rollback, once it began.
        left: Tasks that could not be undone, once the run is over.
    """

    def apply(self, event: Event) -> list[Command]:
        """Fold one event in and say what is wanted next.

        Raises:
            InternalError: The event cannot follow what came before it; the journal is damaged or noa has a fault.
        """
        self.now_ms = event.at_ms
        self._folded += 1
        self._out = []
        try:
            _APPLY[type(event)](self, event)
        except KeyError as error:
            raise InternalError(f"event {event!r} names {error}, which this run does not have") from error
        if self._folded == self._forked_at:
            self._disown()
        return self._out

    def _disown(self) -> None:
        """The past that a fork shares is another run's: what was done there is not this one's to undo."""
        self._owing.clear()
        for task in (*self.tasks.values(), *self._earlier.values()):
            task.done = False
            task.effects = []
            task.began = bool(task.live)

    def _run_created(self, event: RunCreated) -> None:
        self.run_id = RunId(event.run_id)
        self.inputs = event.inputs
        self.output_uri = event.output_uri
        self.parent = event.parent
        self.set_mode(event.mode, debugs=event.debugs)
        self.actor = event.actor
        self._ranks = upward_ranks(self.plan, event.expected_ms)
        self.created_ms = event.at_ms
        self._forked_at = event.forked_at
        self.status = "running"
        if self.plan.timeout_ms is not None:
            self._emit(SetTimer("run", event.at_ms + self.plan.timeout_ms))
        for stage in self.stages.values():
            if stage.unmet == 0:
                self._consider(stage)

    def _run_resumed(self, event: RunResumed) -> None:
        pass

    def _cancel_requested(self, event: CancelRequested) -> None:
        if event.signal and event.signal in self.signals:
            return
        self.forced = self.cancel_requested or (self._timed_out and not self.undo_wanted)
        self.cancel_requested = True
        self.undo_wanted = self.undo_wanted or self.plan.on_failure == "rollback"
        self.signals.add(event.signal)
        self.paused = ""  # cleanup and rollback are part of the end that is wanted
        self._end_early(event.reason or "cancelled")
        self._pump_run()
        if self.forced and self.undoing is not None:
            self._stop_undoing(event.reason or "cancelled")

    def _run_finished(self, event: RunFinished) -> None:
        self.status = event.status
        self.outputs = event.outputs
        self.failure = event.failure
        self.degraded = event.degraded
        self.left = event.left
        self.finished_ms = event.at_ms
        self.pending.clear()

    def _signal_applied(self, event: SignalApplied) -> None:
        self.signals.add(event.signal)
        interventions.APPLIED[event.kind](self, event)

    def _signal_refused(self, event: SignalRefused) -> None:
        self.signals.add(event.signal)

    def _timer_fired(self, event: TimerFired) -> None:
        self.pending.pop(f"timer:{event.timer}", None)
        kind, _, name = event.timer.partition(":")
        if kind == "retry":
            task = self.tasks[TaskPath(name)]
            if task.status == "retrying":
                self._queue(task)
                self._pump(task.stage)
        elif kind == "hedge":
            self._hedge(self.tasks[TaskPath(name)])
        elif kind == "hold":
            node = self.tasks.get(TaskPath(name)) or self.stages[name]
            if node.hold is not None:
                self.answer(name, node.hold.on_timeout, by="nobody in time", automatic=True)
        elif kind == "total":
            self._time_out(self.tasks[TaskPath(name)])
        elif kind == "stage":
            stage = self.stages[name]
            if stage.status == "running":
                stage.failure = timed_out("STAGE_TIMEOUT", f"stage '{name}'", stage.plan.timeout_ms)
                self._close(stage, stage.failure.message)
        elif kind == "run":
            failure = timed_out("RUN_TIMEOUT", f"run of '{self.plan.name}'", self.plan.timeout_ms)
            self.failure = self.failure or failure
            self._timed_out = True
            self.undo_wanted = self.undo_wanted or self.plan.on_failure == "rollback"
            self._end_early(failure.message)


_APPLY: dict[type, Callable[[RunState, Any], None]] = {
    RunCreated: RunState._run_created,
    RunResumed: RunState._run_resumed,
    CancelRequested: RunState._cancel_requested,
    RunFinished: RunState._run_finished,
    StageStarted: RunState._stage_started,
    BlocksOpened: RunState._blocks_opened,
    StageSkipped: RunState._stage_skipped,
    StageFinished: RunState._stage_finished,
    TaskScheduled: RunState._task_scheduled,
    TaskSkipped: RunState._task_skipped,
    AttemptSucceeded: RunState._attempt_succeeded,
    AttemptFailed: RunState._attempt_failed,
    RecoveryChosen: RunState._recovery_chosen,
    TaskFailed: RunState._task_failed,
    TaskHeld: RunState._task_held,
    StageHeld: RunState._stage_held,
    HoldResolved: RunState._hold_resolved,
    Recalled: RunState._recalled,
    SignalApplied: RunState._signal_applied,
    SignalRefused: RunState._signal_refused,
    RollbackStarted: RunState._rollback_started,
    RunReopened: RunState._run_reopened,
    LateResult: RunState._late_result,
    TimerFired: RunState._timer_fired,
}
