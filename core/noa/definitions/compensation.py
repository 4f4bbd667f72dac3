"""What undoes tasks: `compensate` as a task plan of its own, and warnings where nobody would ever ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from noa.definitions.agents import AgentChecks, unknown_inputs
from noa.definitions.models import CompensateModel, TaskModel
from noa.definitions.problems import place
from noa.definitions.recovery_lists import Asked, ChainCompiler
from noa.definitions.scopes import FAILURE, OUTPUTS, ExpressionCompiler, Place
from noa.definitions.source import NodePath, Source
from noa.definitions.stage_options import add_reads
from noa.definitions.timeouts import compensation_timeouts
from noa.errors import Problem
from noa.model.plan import Plan, Position, Reference, StrategySpec, TaskPlan, Template, Timeouts
from noa.model.secrets import ROOT as SECRETS
from noa.model.secrets import secret_names
from noa.plugin.interfaces import RecoveryStrategy

__all__ = ["CompensationCompiler", "Undoing", "rollback_warnings"]

_AGAIN = "retry"
_AGAIN_OPTIONS = {"max_attempts": 5, "on": ["*"]}
"""What a compensation has that says nothing: whatever fails, what is done must be undone."""


@dataclass(frozen=True, slots=True)
class Undoing:
    """A compensation, and the tasks beside its own that it reads."""

    plan: TaskPlan
    reads: Mapping[Reference, Position]


@dataclass(slots=True)
class CompensationCompiler:
    """Compiles the compensations of one document. Mistakes are added to `problems`."""

    source: Source
    expressions: ExpressionCompiler
    chains: ChainCompiler
    agents: AgentChecks
    problems: list[Problem]
    resources: Mapping[str, float]
    _again: tuple[StrategySpec, ...] | None = field(default=None, init=False)

    def compile(
        self,
        name: str,
        task: TaskModel,
        path: NodePath,
        where: Place,
        *,
        given: Template,
        inherited: Timeouts,
    ) -> Undoing | None:
        """What undoes a task; None where it says nothing of that.

        Args:
            name: Of the task.
            path: Of the task.
            where: What the task's inputs see.
            given: The task's inputs, compiled.
            inherited: Limits of a task of this stage that has none of its own.
        """
        model = task.compensate
        if model is None:
            return None
        below = (*path, "compensate")
        reads: dict[Reference, Position] = {}
        inputs = self.expressions.template(model.inputs, (*below, "inputs"), where.and_names(OUTPUTS))
        add_reads(reads, inputs)
        if model.inputs is None and secret_names(given):
            message = "'compensate' needs 'inputs' of its own: those of its task hold secrets, which are not handed on"
            self.problems.append(self.source.problem("SECRET_MISUSED", place(self.source, path) + message, below))
        recovery = self._recovery(model, below, where)
        for spec in recovery:
            add_reads(reads, spec.options)
        info = self.agents.check(model.agent, model.action, below)
        if info is not None:
            self.problems += unknown_inputs(self.source, model.agent, model.inputs, info, below)
        plan = TaskPlan(
            name=name,
            agent=model.agent,
            action=model.action,
            inputs=inputs,
            resources={**self.resources, **model.resources},
            timeouts=compensation_timeouts(model.timeout, inherited),
            recovery=recovery,
            secrets=secret_names(inputs),
            position=self.source.position(below),
        )
        own = {r for r in reads if r.task == name and r.stage in (None, where.stage)}
        return Undoing(plan, {r: at for r, at in reads.items() if r not in own})

    def _recovery(self, model: CompensateModel, path: NodePath, where: Place) -> tuple[StrategySpec, ...]:
        names = tuple(name for name in where.names if name != SECRETS)
        seen = Place((*names, OUTPUTS, FAILURE), where.stage, where.tasks, where.whole)
        chain = self.chains.chain(model.recovery, (*path, "recovery"), seen, Asked(model.agent, model.action))
        if chain is None:
            chain = self._again = self._default() if self._again is None else self._again
        return chain

    def _default(self) -> tuple[StrategySpec, ...]:
        """Again and again, where the strategy for that is there and takes what is asked of it."""
        strategy = self.chains.strategies.get(_AGAIN)
        if strategy is None:
            return ()
        try:
            options = strategy.options.model_validate(_AGAIN_OPTIONS)
        except ValidationError:  # somebody else's strategy of that name
            return ()
        return (StrategySpec(_AGAIN, options.model_dump(mode="json", by_alias=True)),)


def rollback_warnings(
    source: Source,
    plan: Plan,
    paths: Mapping[tuple[str, str, int], NodePath],
    strategies: Mapping[str, RecoveryStrategy],
    *,
    root: bool,
) -> list[Problem]:
    """A warning where a rollback would undo nothing, or where there is something to undo and never a rollback.

    Args:
        paths: Of the tasks by stage, template and index.
        root: Whether it is run by itself. What belongs to another workflow may be rolled back with that.
    """
    undone = [paths[key] for key, task in _tasks(plan) if task.compensate is not None]
    if plan.on_failure == "rollback":
        if undone or any(_has_compensation(child) for child in plan.children.values()):
            return []
        message = "a rollback would undo nothing: no task has 'compensate'"
        hint = "Give the tasks that have effects what undoes them: compensate: {agent: …, action: …}."
        path: NodePath = ("workflow", "on_failure")
        return [source.problem("NOTHING_TO_UNDO", message, path, severity="warning", hint=hint)]
    if not undone or not root or any(_may_roll_back(chain, strategies) for chain in _chains(plan)):
        return []
    path = (*undone[0], "compensate")
    more = f", nor what {len(undone) - 1} more tasks have" if len(undone) > 2 else ""
    more = ", nor what another task has" if len(undone) == 2 else more
    message = f"{place(source, path)}'compensate' is not used{more}: this workflow never rolls back by itself"
    hint = (
        "Write 'on_failure: rollback' in the workflow, or end a 'recovery' list with 'rollback'. By hand it is done by "
        "`noa rollback RUN`."
    )
    return [source.problem("NEVER_ROLLED_BACK", message, path, key=True, severity="warning", hint=hint)]


def _tasks(plan: Plan) -> Iterator[tuple[tuple[str, str, int], TaskPlan]]:
    for stage in plan.stages.values():
        for template in stage.templates.values():
            for index, task in enumerate(template.tasks):
                yield (stage.name, template.name, index), task


def _has_compensation(plan: Plan) -> bool:
    if any(task.compensate is not None for _, task in _tasks(plan)):
        return True
    return any(_has_compensation(child) for child in plan.children.values())


def _chains(plan: Plan) -> Iterator[Sequence[StrategySpec] | None]:
    yield plan.recovery
    yield from (stage.recovery for stage in plan.stages.values())
    yield from (task.recovery for _, task in _tasks(plan))


def _may_roll_back(chain: Sequence[StrategySpec] | None, strategies: Mapping[str, RecoveryStrategy]) -> bool:
    return any(strategies[spec.name].rolls_back for spec in chain or ())
