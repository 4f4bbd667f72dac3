"""Validated models to a `Plan`: names become indexes and edges, text becomes expressions, defaults are filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from noa.definitions.agents import AgentChecks, agent_secrets, agent_spec, unknown_inputs
from noa.definitions.approvals import TASK, compile_approval, compile_supervise
from noa.definitions.compensation import CompensationCompiler, Undoing
from noa.definitions.cycles import cycle_problems
from noa.definitions.dependencies import Dependencies
from noa.definitions.drafts import PLACEHOLDER, StageDraft
from noa.definitions.inputs import compile_inputs
from noa.definitions.models import ApprovalModel, TaskModel, WorkflowModel
from noa.definitions.names import TaskDraft, read_names
from noa.definitions.problems import known, place
from noa.definitions.recovery_lists import Asked, ChainCompiler
from noa.definitions.resources import check_demands
from noa.definitions.scopes import (
    CHAIN_NAMES,
    FAILURE,
    STAGE_NAMES,
    TASK_NAMES,
    ExpressionCompiler,
    Place,
)
from noa.definitions.source import NodePath, Source
from noa.definitions.stage_options import add_reads, compile_options
from noa.definitions.timeouts import inherited_timeouts, task_timeouts
from noa.definitions.unsupported import refuse_task_keys, refuse_workflow_keys
from noa.errors import Problem
from noa.model.plan import (
    ApprovalPlan,
    BlockTemplate,
    CachePlan,
    Plan,
    Position,
    Reference,
    StagePlan,
    StrategySpec,
    SupervisePlan,
    TaskPlan,
    Template,
    Timeouts,
)
from noa.model.secrets import ROOT as SECRETS
from noa.model.secrets import secret_names
from noa.plugin.interfaces import ActionInfo, TemplateSpec
from noa.plugin.registry import Registry

__all__ = ["ChildLoader", "Compiled", "compile_plan"]

_SHARED = Place(
    CHAIN_NAMES,
    hint="A chain of the defaults, a stage or the workflow counts for several tasks: it can read inputs, run and "
    "failure. Give the task a 'recovery' of its own.",
)
"""Where the options of a chain stand that is not a task's own."""

ChildLoader: TypeAlias = Callable[[str, NodePath], "tuple[str, Plan | None]"]
"""Loads the sub-workflow that a task at a path names: its key in `Plan.children`, and its plan (None with problems)."""


@dataclass(slots=True)
class Compiled:
    """A plan, and what is known of its tasks by `(stage, template, index)`: manifest entry and place."""

    plan: Plan
    actions: dict[tuple[str, str, int], ActionInfo]
    paths: dict[tuple[str, str, int], NodePath]


def compile_plan(
    source: Source,
    workflow: WorkflowModel,
    drafts: Sequence[StageDraft],
    *,
    registry: Registry,
    host_resources: Mapping[str, float] | None,
    children: ChildLoader,
    problems: list[Problem],
) -> Compiled:
    """Compile one document. Every mistake is added to `problems`; the plan is usable where none is an error."""
    return _Compiler(source, workflow, drafts, registry, host_resources, children, problems).run()


@dataclass(slots=True)
class _Block:
    """A task graph on its way, and what all its tasks share."""

    draft: StageDraft
    spec: TemplateSpec
    nodes: Sequence[int]
    where: Place
    given: Place
    """Where the inputs of its tasks stand."""
    failed: Place
    """Where the chains of its tasks stand."""
    inherited: Timeouts


class _Compiler:
    def __init__(
        self,
        source: Source,
        workflow: WorkflowModel,
        drafts: Sequence[StageDraft],
        registry: Registry,
        host_resources: Mapping[str, float] | None,
        children: ChildLoader,
        problems: list[Problem],
    ) -> None:
        self.source = source
        self.workflow = workflow
        self.registry = registry
        self.host = host_resources
        self.load_child = children
        self.problems = problems
        self.children: dict[str, Plan] = {}
        self.secrets: dict[str, None] = {}
        self.approves = False
        self.actions: dict[tuple[str, str, int], ActionInfo] = {}
        self.paths: dict[tuple[str, str, int], NodePath] = {}
        self.specs = {name: agent_spec(name, model, source) for name, model in workflow.agents.items()}
        self.agents = AgentChecks(source, registry, problems, self.specs, source.data["workflow"].get("agents"))
        self.names = read_names(source, drafts, problems)
        self.waits = Dependencies(source, self.names, problems)
        self.inputs = compile_inputs(source, workflow, problems)
        declared = {name: spec.schema for name, spec in self.inputs.items()} if workflow.inputs else None
        written = source.data["workflow"].get("inputs")
        if declared is not None and isinstance(written, dict):
            declared |= {name: {} for name in written if name not in declared}  # wrong ones are declared all the same
        self.expressions = ExpressionCompiler(source, problems, declared, self.names.stages)
        for draft in drafts:
            for spec in draft.specs:
                self.expressions.extra |= frozenset(spec.scope)
        self.chains = ChainCompiler(source, registry.recovery_strategies, self.expressions, self.agents, problems)
        self.compensations = CompensationCompiler(
            source, self.expressions, self.chains, self.agents, problems, workflow.defaults.resources
        )
        self.default_chain = self._recovery(workflow.defaults.recovery, ("workflow", "defaults", "recovery"))

    def run(self) -> Compiled:
        workflow, source = self.workflow, self.source
        refuse_workflow_keys(source, workflow, self.problems)
        outputs = {
            name: self.expressions.template(value, ("workflow", "outputs", name), Place(STAGE_NAMES))
            for name, value in workflow.outputs.items()
        }
        stages = {name: self._stage(draft) for name, draft in self.names.drafts.items()}
        self.problems += cycle_problems(source, self.waits.graph)
        stages = _with_dependents(stages)
        pools = dict(workflow.resources)
        check_demands(source, stages, self.paths, pools, self.host, self.problems)
        plan = Plan(
            name=workflow.name,
            version=workflow.version,
            source_name=source.name,
            source=source.text,
            sha256=source.sha256,
            stages=stages,
            inputs=self.inputs,
            open_inputs=not workflow.inputs,
            outputs=outputs,
            agents=self.specs,
            resources=pools,
            recovery=self._recovery(workflow.recovery, ("workflow", "recovery")),
            on_failure=workflow.on_failure,
            max_parallel=workflow.max_parallel,
            timeout_ms=workflow.timeout.total if workflow.timeout is not None else None,
            children=self.children,
            mode=self._mode(),
            supervise=self._supervise(),
            description=workflow.description,
            secrets=self._every_secret(),
        )
        return Compiled(plan, self.actions, self.paths)

    def _mode(self) -> str:
        """What the definition says, or else one in which somebody is waited for where something asks for a person."""
        name, modes = self.workflow.mode, self.registry.modes
        if name is None:
            below = any(child.mode == "supervised" for child in self.children.values())  # they run in this one's mode
            asks = self.chains.asks or self.approves or self.workflow.supervise is not None or below
            return "supervised" if asks and "supervised" in modes else "auto"
        if name not in modes:
            self._add("UNKNOWN_MODE", ("workflow", "mode"), f"mode '{name}' is not known. {known(name, modes)}")
        return name

    def _every_secret(self) -> tuple[str, ...]:
        """Of the tasks, the agents and the sub-workflows, so that a run is refused before it begins without one."""
        below = {name for child in self.children.values() for name in child.secrets}
        return tuple(sorted({*self.secrets, *below, *agent_secrets(self.specs)}))

    # --- stages ----------------------------------------------------------------------------------------------

    def _stage(self, draft: StageDraft) -> StagePlan:
        model, path = draft.model, draft.path
        where = Place(STAGE_NAMES, draft.name)
        depends_on = self.waits.of_stage(draft)
        reads: dict[Reference, Position] = {}
        when = self.expressions.condition(model.when, (*path, "when"), where) if model.when is not None else None
        add_reads(reads, when)
        options = self._options(draft, reads)
        approval = self._approval(model.approval, path, where)
        if approval is not None:
            add_reads(reads, [approval.prompt, approval.show])
        for reference, at in reads.items():
            self.waits.read_by_stage(draft, reference, at, depends_on)
        if model.run_on != "success" and not model.depends_on:
            message = (
                f"run_on: {model.run_on} needs 'depends_on': it says which outcome of these stages starts this one"
            )
            self._add("MISSING_KEY", (*path, "run_on"), message)
        templates = {spec.name: self._template(draft, spec) for spec in draft.specs}
        return StagePlan(
            name=draft.name,
            type=model.type,
            depends_on=tuple(depends_on),
            when=when,
            run_on=model.run_on,
            fail_fast=model.fail_fast,
            max_parallel=model.max_parallel,
            recovery=self._recovery(model.recovery, (*path, "recovery")),
            timeout_ms=model.timeout.total if model.timeout is not None else None,
            approval=approval,
            options=options,
            templates=templates,
            single=draft.kind.single if draft.kind else True,
            repeats=draft.kind.repeats if draft.kind else False,
            position=self.source.position(path),
        )

    def _options(self, draft: StageDraft, reads: dict[Reference, Position]) -> dict[str, Any]:
        if draft.options is None:
            return {}
        graphs = {(*draft.path, *spec.path) for spec in draft.specs}
        made: dict[str, Any] = compile_options(
            self.expressions, draft.options, draft.path, graphs, Place(STAGE_NAMES, draft.name)
        )
        add_reads(reads, made)
        return made

    # --- tasks -----------------------------------------------------------------------------------------------

    def _template(self, draft: StageDraft, spec: TemplateSpec) -> BlockTemplate:
        tasks = self.names.tasks[draft.name, spec.name]
        block = self._block(draft, spec, self.waits.of_tasks(draft, tasks))
        plans: list[TaskPlan] = []
        dependents: list[list[int]] = [[] for _ in tasks]
        for index, task in enumerate(tasks):
            self.paths[draft.name, spec.name, index] = task.path
            plan = self._task(block, index, task)
            plans.append(plan)
            for edge in plan.edges:
                dependents[edge.index].append(index)
        return BlockTemplate(spec.name, tuple(plans), tuple(tuple(d) for d in dependents))

    def _block(self, draft: StageDraft, spec: TemplateSpec, nodes: Sequence[int]) -> _Block:
        index_of = self.names.indexes[draft.name, spec.name]
        where = Place((*TASK_NAMES, *spec.scope), draft.name, index_of, draft.whole)
        inherited = inherited_timeouts(self.workflow.defaults.timeout, draft.model.timeout, self.workflow.timeout)
        given, failed = where.and_names(SECRETS), where.and_names(FAILURE)
        return _Block(draft, spec, nodes, where, given, failed, inherited)

    def _task(self, block: _Block, index: int, task: TaskDraft) -> TaskPlan:
        model, path, defaults = task.model, task.path, self.workflow.defaults
        refuse_task_keys(self.source, model, path, self.problems)
        when = self.expressions.condition(model.when, (*path, "when"), block.where) if model.when is not None else None
        inputs = self.expressions.template(model.inputs, (*path, "inputs"), block.given)
        secrets = self._secrets(model, inputs, path)
        cache = self._cache(model, path, block.where)
        approval = self._approval(model.approval, path, block.where.and_names(TASK))
        recovery = self._task_recovery(model, path, block.failed)
        for spec in recovery or ():
            add_reads(task.reads, spec.options)
        add_reads(task.reads, when)
        add_reads(task.reads, inputs)
        if cache is not None:
            add_reads(task.reads, cache.key)
        if approval is not None:
            add_reads(task.reads, [approval.prompt, approval.show])
        undoing = self._undoing(block, task, inputs)
        edges = self.waits.edges(block.draft, block.spec, block.nodes, index, task)
        child = self._target(block, index, task)
        info = self.actions.get((block.draft.name, block.spec.name, index))
        given = model.model_fields_set
        idempotent = model.idempotent if "idempotent" in given else defaults.idempotent
        return TaskPlan(
            name=task.name,
            agent=model.agent or "",
            action=model.action or "",
            workflow=child,
            inputs=inputs,
            edges=edges,
            depends_on=self.waits.elsewhere(block.draft, block.nodes[index], task),
            when=when,
            resources={**defaults.resources, **model.resources},
            timeouts=task_timeouts(model.timeout, block.inherited, sub_workflow=model.workflow is not None),
            recovery=recovery if recovery is not None else self.default_chain,
            optional=model.optional if "optional" in given or defaults.optional is None else defaults.optional,
            priority=model.priority if "priority" in given or defaults.priority is None else defaults.priority,
            idempotent=info.idempotent or None if idempotent is None and info is not None else idempotent,
            secrets=secrets,
            compensate=undoing.plan if undoing is not None else None,
            compensate_after=model.compensate.after if model.compensate is not None else "success",
            cache=cache,
            approval=approval,
            position=self.source.position(path),
        )

    def _approval(self, model: ApprovalModel | None, path: NodePath, where: Place) -> ApprovalPlan | None:
        self.approves = self.approves or model is not None
        return compile_approval(self.expressions, model, (*path, "approval"), where)

    def _supervise(self) -> SupervisePlan | None:
        where = Place(("inputs", "run", TASK))
        return compile_supervise(self.expressions, self.workflow.supervise, ("workflow", "supervise"), where)

    def _task_recovery(self, model: TaskModel, path: NodePath, where: Place) -> tuple[StrategySpec, ...] | None:
        if model.recovery is None:
            return None
        known_one = model.agent != PLACEHOLDER and model.workflow is None
        asked = Asked(model.agent or "", model.action or "") if known_one else Asked()
        return self.chains.chain(model.recovery, (*path, "recovery"), where, asked)

    def _undoing(self, block: _Block, task: TaskDraft, inputs: Template) -> Undoing | None:
        made = self.compensations.compile(
            task.name, task.model, task.path, block.given, given=inputs, inherited=block.inherited
        )
        if made is not None:
            self.secrets |= dict.fromkeys(made.plan.secrets)
            task.undoing_reads = {r: at for r, at in made.reads.items() if r not in task.reads}
        return made

    def _cache(self, model: TaskModel, path: NodePath, where: Place) -> CachePlan | None:
        if model.cache is None:
            return None
        below = (*path, "cache")
        if model.workflow is not None:
            message = "the outputs of a sub-workflow are not kept: 'cache' stands in the tasks that do the work"
            self._add("WRONG_VALUE", below, message, hint="Move it into that workflow.", key=True)
        return CachePlan(self.expressions.template(model.cache.key, (*below, "key"), where), model.cache.ttl)

    def _secrets(self, model: TaskModel, inputs: Template, path: NodePath) -> tuple[str, ...]:
        found = secret_names(inputs)
        if found and model.workflow is not None:
            message = f"the secret '{found[0]}' cannot be given to a sub-workflow: the inputs of a run are recorded"
            hint = f"Use ${{{{ secrets.{found[0]} }}}} in the sub-workflow itself."
            self._add("SECRET_MISUSED", (*path, "inputs"), message, hint=hint)
        self.secrets |= dict.fromkeys(found)
        return found

    def _target(self, block: _Block, index: int, task: TaskDraft) -> str | None:
        """Check what a task asks for; the key of its sub-workflow, where it is one."""
        model = task.model
        if model.workflow is not None:
            key, plan = self.load_child(model.workflow, (*task.path, "workflow"))
            if plan is not None:
                self.children[key] = plan
                self._child_inputs(plan, task)
            return key
        if model.agent and model.action and model.agent != PLACEHOLDER:
            info = self.agents.check(model.agent, model.action, task.path)
            if info is not None:
                self.actions[block.draft.name, block.spec.name, index] = info
                self.problems += unknown_inputs(self.source, model.agent, model.inputs, info, task.path)
        return None

    def _child_inputs(self, plan: Plan, task: TaskDraft) -> None:
        """Inputs that a task gives to a sub-workflow must be declared there, and the required ones given."""
        given = task.model.inputs
        if not isinstance(given, dict) or plan.open_inputs:
            return
        for name in given:
            if name not in plan.inputs:
                message = f"workflow '{plan.name}' has no input '{name}'. {known(name, plan.inputs)}"
                self._add("UNKNOWN_INPUT", (*task.path, "inputs", name), message, key=True)
        for name, spec in plan.inputs.items():
            if spec.required and name not in given:
                self._add("MISSING_INPUT", (*task.path, "inputs"), f"workflow '{plan.name}' needs the input '{name}'")

    # --- parts -----------------------------------------------------------------------------------------------

    def _recovery(self, entries: list[Any] | None, path: NodePath) -> tuple[StrategySpec, ...] | None:
        """A chain that counts for several tasks."""
        return self.chains.chain(entries, path, _SHARED, Asked())

    def _add(
        self,
        code: str,
        path: NodePath,
        message: str,
        *,
        hint: str = "",
        at: Position | None = None,
        key: bool = False,
    ) -> None:
        text = place(self.source, path) + message
        self.problems.append(self.source.problem(code, text, path, at=at, hint=hint, key=key))


def _with_dependents(stages: Mapping[str, StagePlan]) -> dict[str, StagePlan]:
    waiting: dict[str, list[str]] = {name: [] for name in stages}
    for stage in stages.values():
        for name in stage.depends_on:
            waiting[name].append(stage.name)
    return {n: msgspec.structs.replace(s, dependents=tuple(waiting[n])) if waiting[n] else s for n, s in stages.items()}
