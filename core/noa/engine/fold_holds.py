"""What people decide: holds and their answers, interventions, the mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from noa.engine.commands import (
    OpenStage,
    SetTimer,
)
from noa.engine.failures import rejected
from noa.engine.fold_stages import StageFold
from noa.engine.nodes import StageNode, TaskNode, TaskStatus
from noa.model.events import (
    Hold,
    HoldResolved,
    StageHeld,
    TaskHeld,
)
from noa.model.failure import Failure
from noa.model.ids import TaskPath

__all__ = ["HoldFold"]


@dataclass(frozen=True, slots=True)
class _Said:
    """Who answered a hold, and why. `automatic`: nobody did, but a timer or the mode."""

    by: str
    reason: str
    automatic: bool


class HoldFold(StageFold):
    """Folds holds and interventions."""

    def _hold(self, task: TaskNode, hold: Hold) -> None:
        """A task waits for a person. The time that all its attempts have does not go on meanwhile."""
        self._set(task, "held")
        task.hold = hold
        self.held[task.path] = task
        self.pending.pop(f"timer:total:{task.path}", None)
        self._free_slot(task)
        if hold.timeout_ms is not None:
            self._emit(SetTimer(f"hold:{task.path}", self.now_ms + hold.timeout_ms))
        self._pump(task.stage)

    def _release(self, task: TaskNode) -> None:
        task.hold = None
        self.held.pop(task.path, None)
        self.pending.pop(f"timer:hold:{task.path}", None)

    def _fail_and_undo(self, task: TaskNode) -> None:
        self.failure = self.failure or task.failure
        self._over(task, "failed")
        self._undo(f"task '{task.path}' failed, and the run is undone")

    def _task_held(self, event: TaskHeld) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        task.inputs = event.inputs
        self._hold(task, event.hold)
        if event.hold.kind in ("breakpoint", "step", "failure"):
            self.debugging.stopped(event.hold.show.get("breakpoint", ""))

    def _stage_held(self, event: StageHeld) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"stage:{event.stage}", None)
        stage.status = "held"
        stage.hold = event.hold
        stage.held_ms = event.at_ms
        self.held_stages[event.stage] = stage
        if event.hold.timeout_ms is not None:
            self._emit(SetTimer(f"hold:{event.stage}", self.now_ms + event.hold.timeout_ms))

    def _hold_resolved(self, event: HoldResolved) -> None:
        self.answer(event.subject, event.answer, by=event.by, reason=event.reason, automatic=True)

    def answer(
        self,
        subject: str,
        choice: str,
        outputs: dict[str, Any] | None = None,
        *,
        by: str = "",
        reason: str = "",
        automatic: bool = False,
    ) -> None:
        """A hold is answered; the caller knows that it is there and takes this answer.

        Args:
            automatic: No person answered, but a timer or the mode; counts as everybody who was asked.
        """
        task = self.tasks.get(TaskPath(subject))
        if task is not None and task.hold is not None:
            self._answer(task, choice, outputs, _Said(by, reason, automatic))
        else:
            self._answer_stage(self.stages[subject], choice, _Said(by, reason, automatic))

    def _answer(self, task: TaskNode, choice: str, outputs: dict[str, Any] | None, said: _Said) -> None:
        hold = task.hold
        assert hold is not None
        if choice == "escalate":
            task.hold = _escalated(hold)
            self.pending.pop(f"timer:hold:{task.path}", None)
            return
        if choice == "approve" and not said.automatic:
            task.approvals = (*task.approvals, said.by)
            if len(task.approvals) < hold.quorum:
                return
        self._release(task)
        match choice:
            case "approve":
                task.approved = True
                self._queue(task)
                self._pump(task.stage)
            case "continue" if hold.kind == "failure":
                task.seen = True
                self._ask_chain(task)
            case "continue":
                task.passed = True
                self._queue(task)
                self._pump(task.stage)
            case "retry":
                self._as_planned(task)
                self._queue(task)
                self._pump(task.stage)
            case "skip":
                self._over(task, "skipped")
            case "override":
                task.outputs = outputs
                self._over(task, "succeeded")
            case "reject":
                task.failure = rejected(task.path, said.by, said.reason)
                self._over(task, "failed")
            case "rollback":
                self._fail_and_undo(task)
            case _:
                self._over(task, "failed")

    def _as_planned(self, task: TaskNode) -> None:
        """Somebody wants another try: of what the definition says, or what a person changed, with a fresh chain."""
        task.first_ms = 0
        task.expired = False
        task.chosen = None
        task.entry = 0
        task.recalled = False
        task.tries = 0
        task.passed = True  # the debugger stopped before it once
        task.substitute = None
        if not task.editor:
            task.agent, task.action = task.plan.agent, task.plan.action

    def _answer_stage(self, stage: StageNode, choice: str, said: _Said) -> None:
        hold = stage.hold
        assert hold is not None
        if choice == "escalate":
            stage.hold = _escalated(hold)
            self.pending.pop(f"timer:hold:{stage.plan.name}", None)
            return
        if choice == "approve" and not said.automatic:
            stage.approvals = (*stage.approvals, said.by)
            if len(stage.approvals) < hold.quorum:
                return
        if choice == "reject":
            stage.failure = rejected(stage.plan.name, said.by, said.reason)
        stage.approved = choice in ("approve", "continue")
        self._let_open(stage)

    def _let_open(self, stage: StageNode) -> None:
        """Decide anew about a stage that was held."""
        stage.hold = None
        self.held_stages.pop(stage.plan.name, None)
        self.pending.pop(f"timer:hold:{stage.plan.name}", None)
        stage.status = "opening"
        self._emit(OpenStage(stage.plan.name))

    def end_as(self, task: TaskNode, status: TaskStatus, outputs: dict[str, Any] | None, reason: str) -> None:
        """A person says how a task ends; attempts that go on are ended first, and what they give does not count."""
        if task.status in ("running", "cancelling"):
            task.decided = (status, outputs)
            if task.status == "running":
                self._end_attempts(task, reason)
        elif task.status == "pending":
            task.decided = (status, outputs)  # what depends on it must not begin before what it depends on is done
        else:
            task.outputs = outputs
            self._release(task)
            self._over(task, status)

    def ask_anew(self, task: TaskNode) -> None:
        """What is to be approved has changed: whoever is asked must see what it is now."""
        self._release(task)
        self._queue(task)
        self._pump(task.stage)

    def cancel_task(self, task: TaskNode, reason: str) -> None:
        """End a task as cancelled; what depends on it is blocked."""
        self._release(task)
        self._cancel(task, reason)

    def cancel_stage(self, stage: StageNode, reason: str) -> None:
        """End a stage early; one that is held does not open."""
        if stage.status == "held":
            stage.failure = Failure("CANCELLED", reason)
            self._let_open(stage)
        else:
            self._close(stage, reason)

    def retry_now(self, task: TaskNode) -> None:
        """Try a task again at once that is held after a failure, or that waits for its retry."""
        if task.hold is not None:
            self.answer(task.path, "retry")
        else:
            self.pending.pop(f"timer:retry:{task.path}", None)
            self._queue(task)
            self._pump(task.stage)

    def unpause(self) -> None:
        """Let tasks begin again."""
        self.paused = ""
        self._pump_run()

    def set_mode(self, mode: str, *, debugs: bool) -> None:
        """Go on in another mode; what the debugger wanted is forgotten, unless it goes on or begins."""
        self.mode = mode
        self.debugging.stepping = "task" if debugs else ""
        self.debugging.until = None


def _escalated(hold: Hold) -> Hold:
    """The hold after its time was over: others are asked, for as long as it takes."""
    return msgspec.structs.replace(hold, approvers=hold.escalate_to, timeout_ms=None, on_timeout="reject")
