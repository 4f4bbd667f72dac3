"""How a run that was over goes on: what `noa.engine.reopening` says is reset, all counters are made anew."""

from __future__ import annotations

from noa.engine.commands import (
    AdvanceStage,
    FinishRun,
    SetTimer,
)
from noa.engine.fold_rollback import RollbackFold
from noa.engine.nodes import BAD, StageNode, TaskNode
from noa.engine.reopening import Reset, reset_of
from noa.engine.rollback import effects_of, how_undone
from noa.model.events import (
    RunReopened,
)

__all__ = ["ReopeningFold"]


class ReopeningFold(RollbackFold):
    """Folds reopened runs."""

    def _run_reopened(self, event: RunReopened) -> None:
        self.status = "running"
        self.finished_ms = 0
        self.outputs = {}
        self.left = []
        self.cancelled = ""
        self.cancel_requested = self.forced = self._timed_out = False
        self.undoing = None
        self.undo_wanted = event.rollback
        if event.rollback:
            if self.failure is not None and self.failure.code == "ROLLBACK_FAILED":
                self.failure = self.failure.cause  # what began the rollback, not how it stopped
            self._emit(FinishRun())
            return
        self.failure = None
        if self.plan.timeout_ms is not None:
            self._emit(SetTimer("run", event.at_ms + self.plan.timeout_ms))
        self._begin_again(reset_of(self.stages, self.tasks, event.from_task))

    def _begin_again(self, reset: Reset) -> None:
        """Count everything anew, since much of it is no longer what it was; then let go on what can."""
        again = {**dict.fromkeys(self.tasks[path].stage.plan.name for path in reset.tasks), **reset.reopened}
        for name in reset.stages:
            before, self.stages[name] = self.stages[name], StageNode(self.plan.stages[name])
            self._forget(before)
        for task in reset.tasks.values():
            self._reset_task(task)
        self._active, self._ready, self._waiters = 0, [], {}
        self.counts = {}
        for task in self.tasks.values():
            self._count(task.status, 1)
        self.degraded = any(task.degraded for task in self.tasks.values())
        for name in again:
            self._reset_stage(self.stages[name])
        self.open_stages = sum(1 for stage in self.stages.values() if not stage.terminal)
        for name in again:
            self._go_on(self.stages[name])
        for name in reset.stages:
            stage = self.stages[name]
            awaited = [self.stages[other] for other in stage.plan.depends_on]
            stage.unmet = sum(1 for other in awaited if not other.terminal)
            stage.doomed = any(other.status in BAD for other in awaited)
            if stage.unmet == 0:
                self._consider(stage)
        if self.open_stages == 0:
            self._emit(FinishRun())

    def _forget(self, stage: StageNode) -> None:
        for block in stage.blocks.values():
            block.stage = self.stages[stage.plan.name]  # what undoes its tasks takes slots there
            for task in block.tasks:
                self._begin_anew(task)
                self._earlier[task.path] = task
                if task.effects:
                    self._owing[task.path] = task
                del self.tasks[task.path]

    def _reset_task(self, task: TaskNode) -> None:
        child = task.attempt if task.plan.workflow is not None and not task.done else 0
        self._begin_anew(task)
        task.child = child
        task.status = "pending"

    def _begin_anew(self, task: TaskNode) -> None:
        """Forget what became of a task, but for what has to be undone all the same."""
        task.effects = effects_of(task) if how_undone(task, self.plan.children) is not None else []
        task.redone += task.done
        task.reset()

    def _reset_stage(self, stage: StageNode) -> None:
        stage.status = "running"
        stage.closing, stage.failure, stage.given, stage.read = "", None, None, {}
        stage.active, stage.ready = 0, []
        stage.bad = False
        for block in stage.blocks.values():
            bad = [t for t in block.tasks if t.status in BAD and not t.plan.optional]
            block.open = sum(1 for t in block.tasks if not t.terminal)
            block.done = block.open == 0
            block.failed = bool(bad)
            stage.bad = stage.bad or block.failed
        stage.open_blocks = sum(1 for block in stage.blocks.values() if not block.done)
        stage.advancing = set()

    def _go_on(self, stage: StageNode) -> None:
        """Let a stage that was reset go on where it can."""
        if stage.plan.timeout_ms is not None:
            self._emit(SetTimer(f"stage:{stage.plan.name}", self.now_ms + stage.plan.timeout_ms))
        waiting = [t for block in stage.blocks.values() for t in block.tasks if t.status == "pending"]
        for task in waiting:
            before = [task.block.tasks[edge.index] for edge in task.plan.edges]
            task.unmet = sum(1 for other in before if not other.terminal)
            task.doomed = any(other.status in BAD and not other.plan.optional for other in before)
            self._await_elsewhere(task)
        for block in stage.blocks.values():
            if block.done and not block.advanced and not stage.plan.single:
                stage.advancing.add(block.key)
                self._emit(AdvanceStage(stage.plan.name, block.key))
        for task in waiting:
            if task.unmet == 0 and task.status == "pending":
                self._unblocked(task)
        self._pump(stage)
        self._maybe_close(stage)
