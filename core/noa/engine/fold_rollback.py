"""How a run is undone: what undoes a task is a task beside it, in an order that `noa.engine.rollback` knows."""

from __future__ import annotations

from collections.abc import Iterable

from noa.engine.commands import (
    FinishRun,
)
from noa.engine.fold_recovery import RecoveryFold
from noa.engine.nodes import TaskNode
from noa.engine.rollback import Undoing, effects_of, undo_plan
from noa.model.events import (
    RollbackStarted,
)
from noa.model.ids import compensation_path
from noa.model.plan import StagePlan

__all__ = ["RollbackFold"]


class RollbackFold(RecoveryFold):
    """Folds rollbacks."""

    def _end_early(self, reason: str) -> None:
        """End what goes on, but for stages that clean up, unless the run was cancelled before."""
        self.cancelled = self.cancelled or reason
        for stage in self.stages.values():
            if stage.status == "running" and not self.cleans_up(stage.plan):
                self._close(stage, reason)
            elif stage.status == "held":
                self._let_open(stage)

    def cleans_up(self, plan: StagePlan) -> bool:
        """Whether a stage has its place in a run that is being ended."""
        if self.forced:
            return False
        undone = self.undo_wanted and not self.cancel_requested
        return plan.run_on == "always" or (plan.run_on == "failure" and undone)

    def _undo(self, reason: str) -> None:
        """The run is to be undone: end what goes on, so that it can begin."""
        self.undo_wanted = True
        self._end_early(reason)

    def _rollback_started(self, event: RollbackStarted) -> None:
        self.pending.pop("run", None)
        self.undo_wanted = True
        self.failure = event.failure or self.failure
        self.undoing = Undoing.of(self.stages, self.tasks, self._owing.values(), self.plan.children)
        if not self.forced:
            self._begin_undoing(self.undoing.first())
        self._maybe_undone()

    def _begin_undoing(self, tasks: Iterable[TaskNode]) -> None:
        assert self.undoing is not None
        for task in tasks:
            if task.undo is None:
                plan = undo_plan(task, self.plan.children)
                assert plan is not None
                task.undo = TaskNode(plan, compensation_path(task.path), task.block, task.index)
                task.undo.undoes = task
                task.undo.effects = effects_of(task)
                self.tasks[task.undo.path] = task.undo
                self._count("pending", 1)
            else:
                self._set(task.undo, "pending")
                task.undo.reset()
            self.undoing.open += 1
            self._queue(task.undo)
            self._pump(task.stage)

    def _undo_settled(self, task: TaskNode) -> None:
        """A compensation is over: what had to wait for it may be undone, where it went well."""
        assert self.undoing is not None
        assert task.undoes is not None
        self.undoing.open -= 1
        if task.status in ("succeeded", "skipped"):
            task.effects.pop()
            task.redone += 1
            ready = [task.undoes] if task.effects else self.undoing.undone(task.undoes)
            if not self.forced:
                self._begin_undoing(ready)
        self._pump(task.stage)
        self._maybe_undone()

    def _maybe_undone(self) -> None:
        if self.undoing is not None and self.undoing.open == 0 and "run" not in self.pending:
            self._emit(FinishRun())

    def _stop_undoing(self, reason: str) -> None:
        assert self.undoing is not None
        for task in list(self.undoing.left.values()):
            if task.undo is not None:
                self._cancel(task.undo, reason)
