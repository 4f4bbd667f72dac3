"""What the recovery chain decided about a failed attempt."""

from __future__ import annotations

from noa.engine.commands import (
    SetTimer,
    StartTask,
)
from noa.engine.fold_holds import HoldFold
from noa.engine.nodes import TaskNode, last_outputs_key
from noa.errors import InternalError
from noa.model.events import (
    Complete,
    Fail,
    Hold,
    Recall,
    RecoveryChosen,
    Retry,
    Rollback,
    Skip,
    Substitute,
)
from noa.model.failure import Failure

__all__ = ["RecoveryFold"]


class RecoveryFold(HoldFold):
    """Folds the decisions of recovery chains."""

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        entry = int(event.strategy.partition(":")[0])
        past = task.past(entry)
        past.chosen += 1
        match event.decision:
            case Retry(after_ms=after_ms):
                past.delay_ms = after_ms
                self._set(task, "retrying")
                self._free_slot(task)
                self._emit(SetTimer(f"retry:{task.path}", event.at_ms + after_ms))
                self._pump(task.stage)
            case Substitute(agent=agent, action=action, inputs=inputs):
                past.switches += 1
                task.tries = 0
                task.substitute = inputs
                task.agent = agent or task.plan.agent
                task.action = action or task.plan.action
                self._set(task, "starting")
                self._emit(StartTask(task.path))
            case Complete(outputs=outputs, degraded=degraded):
                task.outputs = outputs
                self._mark_degraded(task, degraded)
                self._over(task, "succeeded")
            case Recall():
                task.entry = entry
                task.recalled = True
                self._look_up(task, last_outputs_key(self.plan.name, task))
            case Hold() as hold:
                self._hold(task, hold)
            case Skip():
                self._over(task, "skipped")
            case Fail(code=code, message=message):
                self._fail(task, code, message)
            case Rollback():
                self._fail_and_undo(task)
            case decision:
                raise InternalError(f"decision {decision!r} of strategy {event.strategy} cannot be applied")

    def _fail(self, task: TaskNode, code: str = "", message: str = "") -> None:
        before = task.failure
        if before is not None and (code or message):
            task.failure = Failure(code or before.code, message or before.message, cause=before)
        self._over(task, "failed")
