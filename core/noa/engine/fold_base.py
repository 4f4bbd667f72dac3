"""What the state of a run consists of, what can be asked of it, and the steps that every change is made of."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from noa.engine.commands import (
    CancelAttempt,
    Command,
    Execute,
    LookUp,
    SetTimer,
)
from noa.engine.debugging import Debugging
from noa.engine.nodes import BlockNode, StageNode, TaskNode, TaskStatus
from noa.engine.rollback import Undoing
from noa.engine.wiring import Fields, merge, visible
from noa.model.events import (
    Hold,
    RunStatus,
)
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath, task_path
from noa.model.plan import Plan

__all__ = ["StateBase"]


class StateBase:
    """The data of a run's state. `noa.engine.state.RunState` says what each part means."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_id = RunId("")
        self.status: RunStatus = "pending"
        self.inputs: dict[str, Any] = {}
        self.output_uri = ""
        self.parent = ""
        self.outputs: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.degraded = False
        self.cancelled = ""
        self.cancel_requested = False
        self.signals: set[str] = set()
        self.agents: set[str] = set()
        self.forced = False
        self.held: dict[TaskPath, TaskNode] = {}
        self.held_stages: dict[str, StageNode] = {}
        self.mode = "auto"
        self.actor = ""
        self.paused = ""
        self.paused_ms = 0
        self.debugging = Debugging()
        self.undo_wanted = False
        self.undoing: Undoing | None = None
        self.left: list[TaskPath] = []
        self.created_ms = 0
        self.finished_ms = 0
        self.now_ms = 0
        self.stages = {name: StageNode(stage) for name, stage in plan.stages.items()}
        self.tasks: dict[TaskPath, TaskNode] = {}
        self.pending: dict[str, Command] = {}
        self.open_stages = len(self.stages)
        self.begun_stages = 0
        self.counts: dict[str, int] = {}
        self.wires_implicitly = any(
            task.inputs is None and task.agent
            for stage in plan.stages.values()
            for template in stage.templates.values()
            for task in template.tasks
        )
        self._timed_out = False
        self._folded = 0
        self._forked_at = 0
        self._earlier: dict[TaskPath, TaskNode] = {}
        self._owing: dict[TaskPath, TaskNode] = {}
        self._active = 0
        self._ready: list[tuple[int, int, int, TaskNode]] = []
        self._ranks: dict[tuple[str, str], int] = {}
        self._order = 0
        self._waiters: dict[str, dict[str | None, list[TaskNode]]] = {}
        self._out: list[Command] = []
        self._ended: deque[TaskNode] = deque()

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.finished_ms > 0

    @property
    def waiting(self) -> bool:
        """Whether nothing but a person (or the time that one has) moves the run on."""
        asked = self.held or self.held_stages or self.paused
        return bool(asked) and all(
            isinstance(command, SetTimer) and not command.timer.startswith(("retry:", "hedge:"))
            for command in self.pending.values()
        )

    def accepts(self, task: TaskPath, attempt: int) -> bool:
        """Whether an outcome of this attempt is still waited for; a late one is recorded and not applied."""
        node = self.tasks.get(task)
        return node is not None and attempt in node.live and node.status in {"running", "cancelling"}

    def looks_up(self, task: TaskPath, attempt: int) -> bool:
        """Whether the store's answer about kept outputs is still waited for."""
        command = self.pending.get(task)
        return isinstance(command, LookUp) and command.attempt == attempt

    def iter_named(self, stage: str, task: str) -> Iterator[TaskNode]:
        """The tasks of this name in a stage, one for each block that has one, in the order in which blocks opened."""
        for block in self.stages[stage].blocks:
            node = self.tasks.get(task_path(stage, block, task))
            if node is not None:
                yield node

    def iter_holds(self) -> Iterator[tuple[str, TaskNode | StageNode, Hold]]:
        """What waits for a person: path of the task or name of the stage, its node, and its hold."""
        for path, task in self.held.items():
            if task.hold is not None:
                yield path, task, task.hold
        for name, stage in self.held_stages.items():
            if stage.hold is not None:
                yield name, stage, stage.hold

    def iter_running(self) -> Iterator[TaskNode]:
        """Tasks of which an attempt is going on."""
        seen: set[TaskPath] = set()
        for command in list(self.pending.values()):
            if isinstance(command, Execute | CancelAttempt) and command.task not in seen:
                seen.add(command.task)
                yield self.tasks[command.task]

    def wired_inputs(self, task: TaskNode) -> dict[str, Any]:
        """The inputs of a task that names none: the run's, what its block binds, what came before it.

        What undoes a task gets what that one got, overlaid with what it gave.
        """
        if task.undoes is not None:
            inputs, outputs = task.effects[-1]
            return {**inputs, **outputs}
        return {**self.inputs, **task.block.bindings, **visible(self.fields_before(task))}

    def fields_before(self, task: TaskNode) -> Fields:
        """What a task sees by implicit wiring."""
        edges = task.plan.edges
        if not edges:
            return task.stage.base
        if len(edges) == 1:
            return task.block.tasks[edges[0].index].fields or {}
        return merge(task.block.tasks[edge.index].fields or {} for edge in edges)

    def _given_by(self, stage: StageNode) -> Fields:
        """What a stage hands on by implicit wiring; tasks of loops are reached by their full names only."""
        if stage.given is None:
            blocks = () if stage.plan.repeats else stage.blocks.values()
            stage.given = merge(task.fields or {} for block in blocks for task in block.tasks) or stage.base
        return stage.given

    def _set(self, task: TaskNode, status: TaskStatus) -> None:
        counts = self.counts
        counts[task.status] -= 1
        counts[status] = counts.get(status, 0) + 1
        task.status = status
        task.changed_ms = self.now_ms

    def _count(self, status: str, added: int) -> None:
        self.counts[status] = self.counts.get(status, 0) + added

    def _emit(self, command: Command) -> None:
        self.pending[command.key] = command
        self._out.append(command)

    # --- what later layers bring

    def _maybe_close(self, stage: StageNode) -> None:
        """Close a stage in which nothing is open any more."""
        raise NotImplementedError

    def _release(self, task: TaskNode) -> None:
        """A task waits for no person any more."""
        raise NotImplementedError

    def _undo_settled(self, task: TaskNode) -> None:
        """What undoes a task is over."""
        raise NotImplementedError

    def _close(self, stage: StageNode, reason: str) -> None:
        """End a stage early."""
        raise NotImplementedError

    def _block_over(self, block: BlockNode) -> None:
        """All tasks of a block are over."""
        raise NotImplementedError

    def _undo(self, reason: str) -> None:
        """The run is to be undone: end what goes on, so that it can begin."""
        raise NotImplementedError
