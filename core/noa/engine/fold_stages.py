"""How stages go on: they open blocks, close, and let go on the stages that waited for them."""

from __future__ import annotations

from typing import Any

from noa.engine.commands import (
    AdvanceStage,
    CloseStage,
    FinishRun,
    OpenStage,
    SetTimer,
)
from noa.engine.fold_tasks import TaskFold
from noa.engine.nodes import BAD, BlockNode, StageNode, TaskNode
from noa.engine.wiring import merge
from noa.model.events import (
    Block,
    BlocksOpened,
    StageFinished,
    StageSkipped,
    StageStarted,
)
from noa.model.ids import task_path

__all__ = ["StageFold"]


class StageFold(TaskFold):
    """Folds what happens to stages and blocks."""

    def _consider(self, stage: StageNode) -> None:
        stage.status = "opening"
        if self.wires_implicitly:
            stage.base = merge(self._given_by(self.stages[name]) for name in stage.plan.depends_on)
        self._emit(OpenStage(stage.plan.name))

    def _stage_started(self, event: StageStarted) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"stage:{event.stage}", None)
        stage.status = "running"
        self.begun_stages += 1
        stage.ordinal = self.begun_stages
        stage.started_ms = event.at_ms
        stage.memo = event.memo
        if stage.plan.timeout_ms is not None:
            self._emit(SetTimer(f"stage:{event.stage}", event.at_ms + stage.plan.timeout_ms))
        self._open_blocks(stage, event.blocks)

    def _blocks_opened(self, event: BlocksOpened) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"block:{event.stage}[{event.after}]", None)
        stage.advancing.discard(event.after)
        stage.blocks[event.after].advanced = event.failure is None
        if event.memo is not None:
            stage.memo = event.memo
        if event.failure is not None:
            stage.failure = stage.failure or event.failure
            self._close(stage, event.failure.message)
        self._open_blocks(stage, [] if stage.closing else event.blocks, stage.blocks[event.after])

    def _stage_skipped(self, event: StageSkipped) -> None:
        self._stage_over(self.stages[event.stage], "skipped")

    def _stage_finished(self, event: StageFinished) -> None:
        stage = self.stages[event.stage]
        stage.failure = event.failure
        if event.status == "failed" and self.failure is None:
            self.failure = event.failure
        self._stage_over(stage, event.status)
        if event.status == "failed" and self.plan.on_failure == "rollback":
            self._undo(f"stage '{event.stage}' failed, and the run is undone")

    def _stage_over(self, stage: StageNode, status: Any) -> None:
        name = stage.plan.name
        self.pending.pop(f"stage:{name}", None)
        self.pending.pop(f"timer:stage:{name}", None)
        stage.status = status
        bad = status in BAD
        self.open_stages -= 1
        for waiting in self._waiters.pop(name, {}).values():
            for task in waiting:
                self._dependency_met(task, bad=bad and task.expects_success)
        for dependent in (self.stages[d] for d in stage.plan.dependents):
            dependent.unmet -= 1
            dependent.doomed = dependent.doomed or bad
            if dependent.unmet == 0:
                self._consider(dependent)
        self._pump_run()
        if self.open_stages == 0:
            self.pending.pop("timer:run", None)
            self._emit(FinishRun())

    def _open_blocks(self, stage: StageNode, blocks: list[Block], after: BlockNode | None = None) -> None:
        for block in blocks:
            self._open_block(stage, block, after)
        self._pump(stage)
        self._maybe_close(stage)

    def _open_block(self, stage: StageNode, block: Block, after: BlockNode | None) -> None:
        template = stage.plan.templates[block.template]
        node = BlockNode(stage, template, block.key, block.bindings, after)
        stage.blocks[block.key] = node
        stage.open_blocks += 1
        stage.opened_blocks += 1
        name = stage.plan.name
        for index, plan in enumerate(template.tasks):
            task = TaskNode(plan, task_path(name, block.key, plan.name), node, index)
            task.unmet = len(plan.edges)
            self.tasks[task.path] = task
            earlier = self._earlier.pop(task.path, None) if self._earlier else None
            if earlier is not None:
                task.attempt, task.redone, task.effects = earlier.attempt, earlier.redone, earlier.effects
                self._owing.pop(task.path, None)
            node.tasks.append(task)
            if plan.depends_on:
                self._await_elsewhere(task)
        self._count("pending", len(node.tasks))
        node.open = len(node.tasks)
        if not node.tasks:
            self._block_over(node)
        for task in node.tasks:
            if task.unmet == 0 and task.status == "pending":
                self._unblocked(task)

    def _await_elsewhere(self, task: TaskNode) -> None:
        for dependency in task.plan.depends_on:
            stage = self.stages[dependency.stage]
            target = None
            if dependency.task is not None and stage.plan.single:
                found = self.tasks.get(task_path(dependency.stage, "", dependency.task))
                target = found if found is not None and found.terminal else None
            if stage.terminal or target is not None:
                status = target.status if target else stage.status
                bad = status in BAD and not (target and target.plan.optional)
                task.doomed = task.doomed or (bad and task.expects_success)
            else:
                task.unmet += 1
                self._waiters.setdefault(dependency.stage, {}).setdefault(dependency.task, []).append(task)

    def _block_over(self, block: BlockNode) -> None:
        block.done = True
        stage = block.stage
        if stage.plan.repeats:
            for task in block.tasks:
                task.fields = None  # nobody outside an iteration is wired to it
        stage.open_blocks -= 1
        if not stage.closing and not stage.plan.single and not block.advanced:
            stage.advancing.add(block.key)
            self._emit(AdvanceStage(stage.plan.name, block.key))

    def _maybe_close(self, stage: StageNode) -> None:
        if stage.status == "running" and stage.open_blocks == 0 and not stage.advancing:
            self._emit(CloseStage(stage.plan.name))

    def _close(self, stage: StageNode, reason: str) -> None:
        """End a stage early: nothing more opens, waiting tasks are cancelled, running ones are told to end."""
        if stage.closing:
            return
        stage.closing = reason
        for block in stage.blocks.values():
            if not block.done:
                for task in block.tasks:
                    self._cancel(task, reason)
        for block_key in stage.advancing:
            del self.pending[f"block:{stage.plan.name}[{block_key}]"]
        stage.advancing.clear()
        self._maybe_close(stage)
