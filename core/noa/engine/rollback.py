"""In which order a run is undone: each task after all that depended on it. Pure bookkeeping over the state's nodes.

Dependencies of every kind count: edges of a block, reads of other stages, `depends_on`, and blocks that opened after
others. Tasks that have nothing to undo only pass the turn on, so two compensations are ordered also where several such
tasks lie between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from noa.engine.nodes import BlockNode, Effects, StageNode, TaskNode
from noa.model.ids import TaskPath, task_path
from noa.model.plan import Plan, TaskPlan

__all__ = ["Undoing", "effects_of", "how_undone", "undo_plan"]

_Mark: TypeAlias = tuple[str, str]
"""("begin", stage), ("end", stage) or ("block", stage[key]): points between tasks that order them."""

_Node: TypeAlias = "TaskNode | _Mark"


def undo_plan(task: TaskNode, children: Mapping[str, Plan]) -> TaskPlan | None:
    """What undoes a task; None where there is nothing to undo, or nothing to undo it with."""
    if task.undo is not None:
        return task.undo.plan if task.undo.effects else None
    return how_undone(task, children) if effects_of(task) else None


def how_undone(task: TaskNode, children: Mapping[str, Plan]) -> TaskPlan | None:
    """What undoes a task, whether or not it did anything."""
    plan = task.plan
    if plan.compensate is not None:
        return plan.compensate
    if plan.workflow is not None and _compensates(children[plan.workflow]):
        return TaskPlan(name=plan.name, workflow=plan.workflow, inputs={}, position=plan.position)
    return None


def effects_of(task: TaskNode) -> list[Effects]:
    """What a task did that is not undone: of each success, and of attempts whose effects are unknown."""
    plan = task.plan
    unknown = plan.compensate_after == "attempt" or (plan.workflow is not None and plan.compensate is None)
    if task.done or (unknown and task.began):
        return [*task.effects, (task.inputs or {}, task.outputs or {})]
    return list(task.effects)


def _compensates(plan: Plan) -> bool:
    tasks = (t for stage in plan.stages.values() for template in stage.templates.values() for t in template.tasks)
    return any(
        t.compensate is not None or (t.workflow is not None and _compensates(plan.children[t.workflow])) for t in tasks
    )


@dataclass(slots=True)
class Undoing:
    """A rollback that is going on.

    Attributes:
        left: Tasks whose effects are not undone yet, in the order in which they were found.
        open: Compensations that were begun and are not over.
    """

    left: dict[TaskPath, TaskNode] = field(default_factory=dict)
    open: int = 0
    _needs: dict[_Node, list[_Node]] = field(default_factory=dict)
    _waiting: dict[_Node, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        stages: Mapping[str, StageNode],
        tasks: Mapping[TaskPath, TaskNode],
        owing: Iterable[TaskNode],
        children: Mapping[str, Plan],
    ) -> Undoing:
        """The rollback of what these stages did.

        Args:
            owing: Tasks of blocks that were forgotten, of which something is left to undo.
        """
        undoing = cls()
        for stage in stages.values():
            undoing._add_stage(stage, stages, tasks)
        for task in owing:
            name = task.stage.plan.name
            undoing._needs[("end", name)].append(task)
            undoing._needs[task] = [("begin", name)]
        for needs in undoing._needs.values():
            for node in needs:
                undoing._waiting[node] = undoing._waiting.get(node, 0) + 1
        for node in undoing._needs:
            if isinstance(node, TaskNode) and undo_plan(node, children) is not None:
                undoing.left[node.path] = node
        return undoing

    def first(self) -> list[TaskNode]:
        """The tasks that can be undone at once."""
        return self._pass([node for node in self._needs if not self._waiting.get(node)])

    def undone(self, task: TaskNode) -> list[TaskNode]:
        """A task is undone; those that can be undone now."""
        del self.left[task.path]
        return self._pass(self._released(task))

    def _pass(self, ready: Iterable[_Node]) -> list[TaskNode]:
        found: list[TaskNode] = []
        queue = deque(ready)
        while queue:
            node = queue.popleft()
            if isinstance(node, TaskNode) and node.path in self.left:
                found.append(node)
            else:
                queue.extend(self._released(node))
        return found

    def _released(self, node: _Node) -> Iterator[_Node]:
        for other in self._needs[node]:
            self._waiting[other] -= 1
            if not self._waiting[other]:
                yield other

    # --- the graph: who needs whom --------------------------------------------------------------------------------

    def _add_stage(self, stage: StageNode, stages: Mapping[str, StageNode], tasks: Mapping[TaskPath, TaskNode]) -> None:
        name = stage.plan.name
        begin, end = ("begin", name), ("end", name)
        self._needs[begin] = [("end", other) for other in stage.plan.depends_on]
        self._needs[end] = [begin]
        for block in stage.blocks.values():
            self._needs[_end_of(block)] = list(block.tasks)
            for task in block.tasks:
                self._needs[end].append(task)
                self._needs[task] = [begin, *_needed_by(task, stages, tasks)]


def _needed_by(task: TaskNode, stages: Mapping[str, StageNode], tasks: Mapping[TaskPath, TaskNode]) -> Iterator[_Node]:
    block = task.block
    for edge in task.plan.edges:
        yield block.tasks[edge.index]
    if block.after is not None:
        yield _end_of(block.after)
    for dependency in task.plan.depends_on:
        found = None
        if dependency.task is not None and stages[dependency.stage].plan.single:
            found = tasks.get(task_path(dependency.stage, "", dependency.task))
        yield found if found is not None else ("end", dependency.stage)


def _end_of(block: BlockNode) -> _Mark:
    return ("block", task_path(block.stage.plan.name, block.key, ""))
