"""A definition, compiled: what the engine runs. Frozen data; made by `noa.definitions`, read by everyone.

A stage has *block templates* (named task graphs). Its stage type opens *blocks*, each from a template with bindings.
All edges inside a template are indexes into its `tasks`, so that the engine never searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "ApprovalPlan",
    "AgentSpec",
    "BlockTemplate",
    "CachePlan",
    "Dependency",
    "Expression",
    "InputSpec",
    "Interpolation",
    "Plan",
    "Position",
    "Reference",
    "RunOn",
    "StagePlan",
    "StrategySpec",
    "SupervisePlan",
    "TaskPlan",
    "Template",
    "Timeouts",
]

RunOn: TypeAlias = Literal["success", "failure", "always"]
EdgeKind: TypeAlias = Literal["needs", "chain", "data"]


class Position(msgspec.Struct, frozen=True):
    """Where something stands in its file; both from 1, 0 when unknown."""

    line: int = 0
    column: int = 0


class Reference(msgspec.Struct, frozen=True):
    """What an expression reads from another task, found statically.

    Attributes:
        stage: Stage name; None means a task of the same block (`tasks.<task>…`).
        task: Task name.
        attribute: "outputs" or "status".
        path: Fields below outputs that are named literally, such as ("report", "total").
    """

    stage: str | None
    task: str
    attribute: str
    path: tuple[str, ...] = ()


class Expression(msgspec.Struct, frozen=True):
    """A CEL expression that compiled.

    Attributes:
        text: The expression without `${{ }}`.
        position: Where its first character stands.
        references: The tasks that it reads.
        roots: Names in scope that it uses, such as ("inputs", "item").
    """

    text: str
    position: Position = Position()
    references: tuple[Reference, ...] = ()
    roots: tuple[str, ...] = ()


class Interpolation(msgspec.Struct, frozen=True):
    """Text with expressions in it; renders to a string."""

    parts: tuple[str | Expression, ...]


Template: TypeAlias = Any
"""JSON in which a leaf may be an Expression (keeps its type) or an Interpolation (becomes text)."""


class Dependency(msgspec.Struct, frozen=True):
    """An edge to a task in another stage, through a data reference.

    Attributes:
        stage: The stage that is read.
        task: The task that is read; None where the whole stage must be done (its blocks are not known before).
    """

    stage: str
    task: str | None = None


class Edge(msgspec.Struct, frozen=True):
    """An edge inside a template: the task at `index` must be done first."""

    index: int
    kind: EdgeKind


class StrategySpec(msgspec.Struct, frozen=True):
    """One entry of a `recovery` list: a strategy's name and its validated options.

    Options are JSON in which a leaf may be an Expression or an Interpolation; what stands so in a decision is evaluated
    when it is chosen.
    """

    name: str
    options: Mapping[str, Any] = {}
    position: Position = Position()


class Timeouts(msgspec.Struct, frozen=True):
    """Limits of a task in milliseconds; None means no limit."""

    execution_ms: int | None = None
    heartbeat_ms: int | None = None
    queue_ms: int | None = None
    total_ms: int | None = None


class CachePlan(msgspec.Struct, frozen=True):
    """When outputs of an earlier equal task are taken.

    Attributes:
        key: Template of what makes two tasks equal; None means their inputs.
        ttl_ms: How old the outputs may be; None is any age.
    """

    key: Template = None
    ttl_ms: int | None = None


class ApprovalPlan(msgspec.Struct, frozen=True):
    """Who must approve before a task or a stage begins.

    Attributes:
        prompt: Template of the text that the person is asked.
        approvers: Who may approve; empty is anybody.
        quorum: How many must.
        timeout_ms: How long it waits; None is for ever.
        on_timeout: What counts then.
        escalate_to: Who may approve from then on, with "escalate".
        four_eyes: Whether who began the run, or changed the task, may not approve it.
        show: Template of what the person should see.
    """

    prompt: Template = ""
    approvers: tuple[str, ...] = ()
    quorum: int = 1
    timeout_ms: int | None = None
    on_timeout: Literal["reject", "approve", "escalate"] = "reject"
    escalate_to: tuple[str, ...] = ()
    four_eyes: bool = False
    show: Template = None


class TaskPlan(msgspec.Struct, frozen=True):
    """A task.

    Attributes:
        name: Unique in its template.
        agent: Agent that is asked; empty for a sub-workflow.
        action: What it is asked for; empty for a sub-workflow.
        workflow: Key into `Plan.children` for a sub-workflow, else None.
        inputs: Template of the inputs; None means implicit wiring.
        edges: Tasks of the same template that must be done first.
        depends_on: Tasks or stages elsewhere that must be done first.
        when: Skipped where this is false.
        resources: Demands by pool; units of the pool (`cpu` cores, `memory` bytes).
        timeouts: Limits.
        recovery: The chain that counts here; None means the stage's.
        optional: Its failure counts as done with null outputs.
        priority: Higher goes first among tasks that could start.
        idempotent: None means what the agent's manifest says.
        secrets: Names of the secrets that the inputs pass on.
        compensate: What undoes it, as a task of the same name; its inputs None means this task's inputs and outputs.
        compensate_after: "attempt" undoes it also where an attempt began and did not succeed: its effects are unknown.
        cache: When outputs of an earlier equal task are taken; None is never.
        approval: Who must approve before it begins; None is nobody.
    """

    name: str
    agent: str = ""
    action: str = ""
    workflow: str | None = None
    inputs: Template = None
    edges: tuple[Edge, ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    when: Expression | None = None
    resources: Mapping[str, float] = {}
    timeouts: Timeouts = Timeouts()
    recovery: tuple[StrategySpec, ...] | None = None
    optional: bool = False
    priority: int = 0
    idempotent: bool | None = None
    secrets: tuple[str, ...] = ()
    compensate: TaskPlan | None = None
    compensate_after: Literal["success", "attempt"] = "success"
    cache: CachePlan | None = None
    approval: ApprovalPlan | None = None
    position: Position = Position()


class BlockTemplate(msgspec.Struct, frozen=True):
    """A task graph that a stage can open.

    Attributes:
        name: Unique in the stage, such as "main" or "else".
        tasks: In the order of the file.
        dependents: For each task the indexes of the tasks that wait for it.
    """

    name: str
    tasks: tuple[TaskPlan, ...]
    dependents: tuple[tuple[int, ...], ...]


class StagePlan(msgspec.Struct, frozen=True):
    """A stage.

    Attributes:
        name: Unique in the workflow.
        type: Name of its stage type.
        depends_on: Stages that must be done first.
        dependents: Stages that wait for this one.
        when: Skipped where this is false.
        run_on: Which outcome of its dependencies starts it.
        fail_fast: Whether the first failure cancels the stage's other tasks.
        max_parallel: How many of its tasks may run at once; None means no limit.
        recovery: The chain for its tasks; None means the workflow's.
        timeout_ms: Limit for the stage; None means none.
        approval: Who must approve before it opens; None is nobody.
        options: The stage type's own keys as JSON, in which expressions are `Expression`.
        templates: By name.
        single: Whether it opens exactly one block that is known beforehand, the template "main" under the empty key;
            its tasks are then `stage/task` and can be waited for one by one.
        repeats: Whether its blocks are iterations: what others read of its tasks are then lists, one entry a block.
    """

    name: str
    type: str
    depends_on: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    when: Expression | None = None
    run_on: RunOn = "success"
    fail_fast: bool = True
    max_parallel: int | None = None
    recovery: tuple[StrategySpec, ...] | None = None
    timeout_ms: int | None = None
    approval: ApprovalPlan | None = None
    options: Mapping[str, Any] = {}
    templates: Mapping[str, BlockTemplate] = {}
    single: bool = True
    repeats: bool = False
    position: Position = Position()


class InputSpec(msgspec.Struct, frozen=True):
    """An input of a workflow.

    Attributes:
        schema: Its JSON Schema.
        required: Whether a run without it is refused.
        default: Used where it is not given and not required.
    """

    schema: Mapping[str, Any] = {}
    required: bool = True
    default: Any = None


class AgentSpec(msgspec.Struct, frozen=True):
    """An agent that the definition itself declares under `agents`; see `noa.plugin.AgentDeclaration`.

    Exactly one of `command` and `addresses` is set.
    """

    name: str
    command: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    position: Position = Position()


class SupervisePlan(msgspec.Struct, frozen=True):
    """A rule by which tasks need an approval: those for which `when` is true."""

    when: Expression
    approval: ApprovalPlan = ApprovalPlan()


class Plan(msgspec.Struct, frozen=True):
    """A workflow that can be run.

    Attributes:
        name: Of the workflow.
        version: Of the workflow.
        source_name: File that it came from, as the user named it.
        source: Its text.
        sha256: Of the text.
        inputs: By name; an empty mapping with `open_inputs` takes any input.
        open_inputs: Whether inputs that are not declared are taken (true where the definition declares none).
        outputs: Templates by name; empty means none.
        stages: By name, in the order of the file.
        agents: That the definition declares.
        resources: Capacity of named pools that the definition declares.
        recovery: The chain for all tasks; None means none.
        on_failure: Whether a run that fails or is cancelled undoes what it did.
        max_parallel: How many tasks may run at once; None means no limit.
        timeout_ms: Limit for the run; None means none.
        children: Plans of the sub-workflows by the path that tasks name.
        mode: Mode that the definition asks for, or what it holds asks for.
        supervise: Which tasks need an approval by rule; `task` (name, stage, agent, action, inputs) is in its scope.
        secrets: Names of the secrets that it and its sub-workflows pass on.
    """

    name: str
    version: str
    source_name: str
    source: str
    sha256: str
    stages: Mapping[str, StagePlan]
    inputs: Mapping[str, InputSpec] = {}
    open_inputs: bool = True
    outputs: Mapping[str, Template] = {}
    agents: Mapping[str, AgentSpec] = {}
    resources: Mapping[str, float] = {}
    recovery: tuple[StrategySpec, ...] | None = None
    on_failure: Literal["fail", "rollback"] = "fail"
    max_parallel: int | None = None
    timeout_ms: int | None = None
    children: Mapping[str, Plan] = {}
    mode: str = "auto"
    supervise: SupervisePlan | None = None
    description: str = ""
    secrets: tuple[str, ...] = ()
