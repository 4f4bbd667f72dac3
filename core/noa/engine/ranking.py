"""Which of the tasks that could start goes first: the one with the most work behind it, by what earlier runs took.

The upward rank of H. Topcuoglu, S. Hariri, M.-Y. Wu, "Performance-effective and low-complexity task scheduling for
heterogeneous computing", IEEE TPDS 13(3), 2002, on the plan's graph, without costs of communication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from statistics import median
from typing import TypeAlias

from noa.model.plan import Plan, StagePlan, TaskPlan

__all__ = ["upward_ranks"]

_Node: TypeAlias = tuple[str, str, str]
"""("task", stage, name), ("begin", stage, "") or ("end", stage, "")."""


def upward_ranks(plan: Plan, expected_ms: Mapping[str, int]) -> dict[tuple[str, str], int]:
    """How long the longest way from the beginning of each task to the end of the run is expected to take, in ms.

    Args:
        expected_ms: By `stage/task`; a task of which nothing is known counts as the median of the others.

    Returns:
        By stage and name of the task; empty where nothing is known at all.
    """
    if not expected_ms:
        return {}
    usual = round(median(expected_ms.values()))
    waits = _waits(plan)
    ranks: dict[_Node, int] = {}
    try:
        # Sorted so that what comes later in the run comes first here.
        for node in TopologicalSorter(waits).static_order():
            behind = max((ranks[after] for after in waits.get(node, ())), default=0)
            kind, stage, name = node
            ranks[node] = behind + (expected_ms.get(f"{stage}/{name}", usual) if kind == "task" else 0)
    except CycleError:
        return {}  # a plan with a cycle is never run; nothing to rank
    return {(stage, name): rank for (kind, stage, name), rank in ranks.items() if kind == "task"}


def _waits(plan: Plan) -> dict[_Node, set[_Node]]:
    """For each node those that wait for it."""
    waits: dict[_Node, set[_Node]] = {}
    for stage in plan.stages.values():
        begin, end = ("begin", stage.name, ""), ("end", stage.name, "")
        waits.setdefault(begin, set()).add(end)
        waits.setdefault(end, set()).update(("begin", other, "") for other in stage.dependents)
        for template in stage.templates.values():
            for index, task in enumerate(template.tasks):
                node = ("task", stage.name, task.name)
                waits[begin].add(node)
                found = waits.setdefault(node, set())
                found.add(end)
                found.update(("task", stage.name, template.tasks[i].name) for i in template.dependents[index])
                for read in _read(plan, task):
                    waits.setdefault(read, set()).add(node)
    return waits


def _read(plan: Plan, task: TaskPlan) -> Iterator[_Node]:
    for dependency in task.depends_on:
        stage: StagePlan = plan.stages[dependency.stage]
        if dependency.task is not None and stage.single:
            yield ("task", dependency.stage, dependency.task)
        else:
            yield ("end", dependency.stage, "")
