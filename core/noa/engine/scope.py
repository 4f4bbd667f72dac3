"""What expressions can see: `inputs`, `stages`, `tasks`, `run`, and what a block binds.

Only what an expression reads is put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from noa.engine.nodes import BlockNode, StageNode, TaskNode
from noa.engine.state import RunState
from noa.model.ids import task_path
from noa.model.plan import Expression, Interpolation, Reference, Template
from noa.model.secrets import ROOT, SecretMarks

__all__ = ["Reads", "reads_of", "scope_for"]


class Reads:
    """What a template reads: references to tasks, and other names in scope. `constant` reads nothing at all."""

    __slots__ = ("constant", "references", "roots")

    def __init__(self, template: Template) -> None:
        found = list(_iter_expressions(template))
        self.constant = not found
        self.references: tuple[Reference, ...] = tuple(dict.fromkeys(r for e in found for r in e.references))
        self.roots = frozenset(r for e in found for r in e.roots)


def _iter_expressions(template: Template) -> Iterator[Expression]:
    if isinstance(template, Expression):
        yield template
    elif isinstance(template, Interpolation):
        yield from (part for part in template.parts if isinstance(part, Expression))
    elif isinstance(template, Mapping):
        for part in template.values():
            yield from _iter_expressions(part)
    elif isinstance(template, list | tuple):
        for part in template:
            yield from _iter_expressions(part)


@lru_cache(maxsize=4096)
def _reads_of_expression(expression: Expression) -> Reads:
    return Reads(expression)


def reads_of(template: Template) -> Reads:
    """What a template reads; cached for single expressions."""
    return _reads_of_expression(template) if isinstance(template, Expression) else Reads(template)


def scope_for(
    state: RunState, reads: Reads, *, block: BlockNode | None = None, bindings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The names that a template reads, with their values.

    Args:
        block: The block whose tasks `tasks.<name>` means, and whose bindings are in scope.
        bindings: More names, such as item and index.
    """
    scope: dict[str, Any] = {"inputs": state.inputs, "run": {"id": state.run_id, "workflow": state.plan.name}}
    if ROOT in reads.roots:
        scope[ROOT] = SecretMarks()
    if block is not None:
        scope.update(block.bindings)
    if bindings:
        scope.update(bindings)
    stages: dict[str, dict[str, Any]] = {}
    tasks: dict[str, Any] = {}
    for reference in reads.references:
        if reference.stage is None:
            if block is not None:
                tasks[reference.task] = _view(_in_block(state, block, reference.task))
        else:
            stage = state.stages[reference.stage]
            stages.setdefault(reference.stage, {})[reference.task] = _stage_task(state, stage, reference.task, block)
    scope["stages"] = stages
    scope["tasks"] = tasks
    return scope


def _stage_task(state: RunState, stage: StageNode, task: str, block: BlockNode | None) -> dict[str, Any]:
    if block is not None and block.stage is stage:
        return _view(_in_block(state, block, task))
    if task in stage.read:
        return stage.read[task]
    view = _from_outside(state, stage, task)
    if stage.terminal:
        stage.read[task] = view
    return view


def _in_block(state: RunState, block: BlockNode, task: str) -> TaskNode | None:
    return state.tasks.get(task_path(block.stage.plan.name, block.key, task))


def _from_outside(state: RunState, stage: StageNode, task: str) -> dict[str, Any]:
    found = list(state.iter_named(stage.plan.name, task))
    if stage.plan.repeats:
        return {"outputs": [node.outputs for node in found], "status": [node.status for node in found]}
    return _view(found[0] if found else None)


def _view(task: TaskNode | None) -> dict[str, Any]:
    if task is None:
        return {"outputs": None, "status": "skipped"}
    return {"outputs": task.outputs, "status": task.status}
