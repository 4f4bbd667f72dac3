"""Warnings about implicit wiring: fields that two tasks give, which a task without `inputs` therefore does not see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from noa.definitions.compile import Compiled
from noa.definitions.graph import GraphNode, iter_in_order
from noa.definitions.problems import place
from noa.definitions.source import Source
from noa.errors import Problem

__all__ = ["wiring_warnings"]

_Givers: TypeAlias = Mapping[str, tuple[str, ...]]
"""Field -> the tasks that give it, at most two; two mean that nobody sees the field by itself."""


def wiring_warnings(source: Source, compiled: Compiled) -> list[Problem]:
    """A warning for each field that a task without `inputs` would take but that two tasks before it give.

    Only fields that the agents' manifests announce are known. Maps are shared where nothing changes, so that a chain
    costs O(fields) a task.
    """
    plan = compiled.plan
    if not compiled.actions and not plan.children:
        return []
    found: list[Problem] = []
    told: set[tuple[str, tuple[str, ...]]] = set()
    after: dict[GraphNode, _Givers] = {}
    before_stage: dict[str, _Givers] = {}
    for node, others in iter_in_order(plan):
        givers = _merged(after[other] for other in others)
        if not node.template:
            if node.at == 0:
                before_stage[node.stage] = givers
            elif not plan.stages[node.stage].single:
                givers = before_stage[node.stage]  # which blocks there will be is not known
            after[node] = givers
            continue
        task = plan.stages[node.stage].templates[node.template].tasks[node.at]
        if task.inputs is None:
            for field in _wanted(compiled, node, givers):
                if (field, givers[field]) not in told:
                    told.add((field, givers[field]))
                    found.append(_warning(source, compiled, node, field, givers[field]))
        after[node] = _extended(givers, f"stages.{node.stage}.{task.name}", _given(compiled, node))
    return found


def _given(compiled: Compiled, node: GraphNode) -> Iterable[str]:
    task = compiled.plan.stages[node.stage].templates[node.template].tasks[node.at]
    if task.workflow is not None:
        return compiled.plan.children[task.workflow].outputs
    info = compiled.actions.get(node)
    return info.output_schema.get("properties", {}) if info else ()


def _wanted(compiled: Compiled, node: GraphNode, givers: _Givers) -> list[str]:
    """Fields that two tasks give and that this task would take."""
    task = compiled.plan.stages[node.stage].templates[node.template].tasks[node.at]
    taken: Iterable[str] | None = None
    if task.workflow is not None and not compiled.plan.children[task.workflow].open_inputs:
        taken = compiled.plan.children[task.workflow].inputs
    elif (info := compiled.actions.get(node)) is not None:
        taken = info.input_schema.get("properties")
    return [f for f, tasks in givers.items() if len(tasks) > 1 and (taken is None or f in taken)]


def _merged(maps: Iterable[_Givers]) -> _Givers:
    merged: _Givers = {}
    for givers in maps:
        if not merged:
            merged = givers
        elif givers is not merged and givers:
            grown = dict(merged)
            for field, tasks in givers.items():
                grown[field] = tuple(dict.fromkeys((*grown.get(field, ()), *tasks)))[:2]
            merged = grown
    return merged


def _extended(givers: _Givers, task: str, fields: Iterable[str]) -> _Givers:
    fields = list(fields)
    if not fields:
        return givers
    return {**givers, **{f: tuple(dict.fromkeys((*givers.get(f, ()), task)))[:2] for f in fields}}


def _warning(source: Source, compiled: Compiled, node: GraphNode, field: str, tasks: tuple[str, ...]) -> Problem:
    names = " and ".join(f"{task}.outputs.{field}" for task in tasks)
    path = compiled.paths[node]
    message = f"{place(source, path)}field '{field}' is left out of the implicit inputs, two tasks give it: {names}"
    return source.problem(
        "AMBIGUOUS_FIELD", message, path, severity="warning", hint="Name the one you mean in 'inputs'."
    )
