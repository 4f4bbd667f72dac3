"""The graph of a plan: its order, its longest path, and how it is shown as text, Mermaid and JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from noa.model.plan import BlockTemplate, Expression, Plan, StagePlan, TaskPlan, Template

__all__ = ["GraphNode", "critical_path", "iter_in_order", "plan_dict", "plan_mermaid", "plan_text"]

_HEADS = ("for_each", "while", "until")
"""Options that say how often a stage's tasks are run."""


class GraphNode(NamedTuple):
    """A task, or (with an empty template) the begin of a stage at 0 and its end at 1."""

    stage: str
    template: str
    at: int


def iter_in_order(plan: Plan) -> Iterator[tuple[GraphNode, list[GraphNode]]]:
    """Every node after all that it waits for, with these."""
    waits = {node: list(others) for node, others in _iter_nodes(plan)}
    waiting: dict[GraphNode, list[GraphNode]] = {node: [] for node in waits}
    missing = {node: len(others) for node, others in waits.items()}
    for node, others in waits.items():
        for other in others:
            waiting[other].append(node)
    ready = deque(node for node, count in missing.items() if count == 0)
    while ready:
        node = ready.popleft()
        yield node, waits[node]
        for following in waiting[node]:
            missing[following] -= 1
            if missing[following] == 0:
                ready.append(following)


def _iter_nodes(plan: Plan) -> Iterator[tuple[GraphNode, list[GraphNode]]]:
    task_index = {
        (stage.name, task.name): index
        for stage in plan.stages.values()
        if stage.single
        for template in stage.templates.values()
        for index, task in enumerate(template.tasks)
    }
    for stage in plan.stages.values():
        begin, end = GraphNode(stage.name, "", 0), GraphNode(stage.name, "", 1)
        yield begin, [GraphNode(name, "", 1) for name in stage.depends_on]
        last = [begin]
        for template in stage.templates.values():
            for index, task in enumerate(template.tasks):
                others = [GraphNode(stage.name, template.name, edge.index) for edge in task.edges] or [begin]
                for there in task.depends_on:
                    at = task_index.get((there.stage, there.task or ""))
                    others.append(GraphNode(there.stage, "", 1) if at is None else GraphNode(there.stage, "main", at))
                node = GraphNode(stage.name, template.name, index)
                yield node, others
                if not template.dependents[index]:
                    last.append(node)
        yield end, last


def critical_path(plan: Plan) -> list[str]:
    """The longest chain of tasks that wait for each other, as `stage/task`; no shorter time is possible than theirs."""
    length: dict[GraphNode, int] = {}
    before: dict[GraphNode, GraphNode | None] = {}
    for node, others in iter_in_order(plan):
        longest = max(others, key=lambda o: length[o], default=None)
        before[node] = longest
        length[node] = (length[longest] if longest is not None else 0) + (1 if node.template else 0)
    if not length:
        return []
    path: list[str] = []
    node_or_none: GraphNode | None = max(length, key=lambda n: length[n])
    while node_or_none is not None:
        node = node_or_none
        if node.template:
            path.append(f"{node.stage}/{plan.stages[node.stage].templates[node.template].tasks[node.at].name}")
        node_or_none = before[node]
    return path[::-1]


def plan_text(plan: Plan) -> str:
    """The graph as lines: stages, their tasks, what each waits for and why, and the critical path."""
    tasks = sum(len(t.tasks) for s in plan.stages.values() for t in s.templates.values())
    lines = [
        f"{plan.name} {plan.version}".rstrip(),
        f"{_count(len(plan.stages), 'stage')}, {_count(tasks, 'task')}",
        "",
    ]
    for stage in plan.stages.values():
        lines.append(_stage_line(stage))
        for number, template in enumerate(stage.templates.values()):
            indent = "  "
            when = _branch_condition(stage, number)
            if len(stage.templates) > 1 or when:
                lines.append(f"  {template.name}{when}")
                indent = "    "
            width = max((len(t.name) for t in template.tasks), default=0)
            lines += [indent + _task_line(task, template, width) for task in template.tasks]
    path = critical_path(plan)
    lines += ["", f"critical path ({_count(len(path), 'task')}): {' → '.join(path) or 'none'}"]
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _stage_line(stage: StagePlan) -> str:
    parts = [f"{stage.name}  {stage.type}"]
    if stage.depends_on:
        parts.append(f"after {', '.join(stage.depends_on)}")
    if stage.run_on != "success":
        parts.append(f"on {stage.run_on}")
    if stage.when is not None:
        parts.append(f"when {stage.when.text}")
    parts += [f"{key} {_short(stage.options[key])}" for key in _HEADS if stage.options.get(key) is not None]
    return "  ".join(parts)


def _branch_condition(stage: StagePlan, number: int) -> str:
    """The condition of a stage's task graph as `  when …`; empty where it has none."""
    branches = stage.options.get("branches")
    branch = branches[number] if isinstance(branches, list) and number < len(branches) else None
    when = branch.get("when") if isinstance(branch, dict) else None
    return f"  when {when.text}" if isinstance(when, Expression) else ""


def _short(template: Template) -> str:
    """What a stage repeats over, in words."""
    if isinstance(template, Expression):
        return template.text
    return _count(len(template), "item") if isinstance(template, list) else str(template)


def _amount(pool: str, amount: float) -> str:
    """An amount of a pool; memory in the largest binary unit that it fills."""
    if pool != "memory":
        return f"{amount:.10g}"
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while amount >= 1024 and power < len(units) - 1:
        amount /= 1024
        power += 1
    return f"{amount:.4g} {units[power]}"


def _task_line(task: TaskPlan, template: BlockTemplate, width: int) -> str:
    asked = f"workflow {task.workflow}" if task.workflow else f"{task.agent} · {task.action}"
    waits = [f"{template.tasks[edge.index].name} ({edge.kind})" for edge in task.edges]
    waits += [f"{d.stage}/{d.task} (data)" if d.task else f"{d.stage} (data)" for d in task.depends_on]
    waits += [f"{pool} {_amount(pool, amount)} (resource)" for pool, amount in task.resources.items()]
    after = f"  after {', '.join(waits)}" if waits else ""
    when = f"  when {task.when.text}" if task.when else ""
    undo = f"  undone by {task.compensate.agent} · {task.compensate.action}" if task.compensate else ""
    return f"{task.name:{width}}  {asked}{after}{when}{undo}"


def plan_mermaid(plan: Plan) -> str:
    """The graph as a Mermaid flowchart: a box for each stage, an arrow for each edge with its kind."""
    ids = {name: f"s{number}" for number, name in enumerate(plan.stages)}
    lines = ["flowchart TD"]
    edges: list[str] = []
    for stage in plan.stages.values():
        lines.append(f'  subgraph {ids[stage.name]}["{_escaped(stage.name)} ({_escaped(stage.type)})"]')
        for number, template in enumerate(stage.templates.values()):
            prefix = f"{ids[stage.name]}b{number}"
            several = len(stage.templates) > 1
            if several:
                lines.append(f'    subgraph {prefix}["{_escaped(template.name)}"]')
            for index, task in enumerate(template.tasks):
                asked = task.workflow or task.agent
                lines.append(f'    {prefix}t{index}["{_escaped(task.name)}<br/>{_escaped(asked)}"]')
                edges += [f"  {prefix}t{e.index} -->|{e.kind}| {prefix}t{index}" for e in task.edges]
                edges += [
                    f"  {_mermaid_id(plan, ids, d.stage, d.task)} -.->|data| {prefix}t{index}" for d in task.depends_on
                ]
            if several:
                lines.append("    end")
        lines.append("  end")
        edges += [f"  {ids[name]} ==> {ids[stage.name]}" for name in stage.depends_on]
    return "\n".join([*lines, *edges])


def _mermaid_id(plan: Plan, ids: dict[str, str], stage: str, task: str | None) -> str:
    if task is None:
        return ids[stage]
    names = [t.name for t in plan.stages[stage].templates["main"].tasks]
    return f"{ids[stage]}b0t{names.index(task)}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def plan_dict(plan: Plan) -> dict[str, Any]:
    """The graph as JSON: stages, tasks, edges by kind, and the critical path. Names instead of indexes."""
    return {
        "name": plan.name,
        "version": plan.version,
        "sha256": plan.sha256,
        "inputs": {n: msgspec.to_builtins(spec) for n, spec in plan.inputs.items()},
        "stages": [_stage_dict(stage) for stage in plan.stages.values()],
        "critical_path": critical_path(plan),
    }


def _stage_dict(stage: StagePlan) -> dict[str, Any]:
    return {
        "name": stage.name,
        "type": stage.type,
        "depends_on": list(stage.depends_on),
        "run_on": stage.run_on,
        "when": stage.when.text if stage.when else None,
        "blocks": [
            {"name": template.name, "tasks": [_task_dict(task, template) for task in template.tasks]}
            for template in stage.templates.values()
        ],
    }


def _task_dict(task: TaskPlan, template: BlockTemplate) -> dict[str, Any]:
    undo = task.compensate
    edges = [{"task": template.tasks[edge.index].name, "kind": edge.kind} for edge in task.edges]
    edges += [{"stage": d.stage, **({"task": d.task} if d.task else {}), "kind": "data"} for d in task.depends_on]
    return {
        "name": task.name,
        "agent": task.agent,
        "action": task.action,
        "workflow": task.workflow,
        "compensate": {"agent": undo.agent, "action": undo.action} if undo else None,
        "after": edges,
        "resources": dict(task.resources),
        "when": task.when.text if task.when else None,
        "line": task.position.line,
    }
