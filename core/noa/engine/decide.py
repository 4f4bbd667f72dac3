"""Answers the core's decisions with events: evaluates expressions, asks stage types and recovery strategies. Pure.

What is decided here is recorded, so a replay never comes here for something that was decided before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from noa.definitions import Evaluator
from noa.engine.commands import (
    AdvanceStage,
    ChooseRecovery,
    CloseStage,
    Decide,
    FinishRun,
    OpenStage,
    StartTask,
)
from noa.engine.nodes import BlockNode, StageNode, TaskNode
from noa.engine.scope import Reads, reads_of, scope_for
from noa.engine.state import RunState
from noa.errors import NoaError
from noa.model.events import (
    Block,
    BlocksOpened,
    Complete,
    Event,
    Hold,
    RecoveryChosen,
    Retry,
    Rollback,
    RunFinished,
    Skip,
    StageFinished,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskScheduled,
    TaskSkipped,
    decode_event,
    encode_event,
)
from noa.model.failure import Failure
from noa.model.plan import Expression, StagePlan, StrategySpec, TaskPlan
from noa.plugin import Attempted, BlockView, RecoveryStrategy, Registry, StageType

__all__ = ["MAX_ATTEMPTS", "Decider"]

MAX_ATTEMPTS = 10_000
"""Attempts of one task in all, whatever a recovery strategy asks for."""


class _RefusedError(Exception):
    """A recovery strategy answered what cannot be done."""


class Decider:
    """Decides for the runs of one plan.

    Args:
        registry: Where stage types and recovery strategies are found.
        evaluator: Evaluates expressions; may be shared.
    """

    def __init__(self, registry: Registry, evaluator: Evaluator) -> None:
        self._registry = registry
        self._evaluator = evaluator
        self._reads: dict[int, tuple[TaskPlan, Reads]] = {}
        self._options: dict[int, tuple[object, Any]] = {}

    def decide(self, state: RunState, command: Decide, at_ms: int) -> list[Event]:
        """The events that answer a command; at least one."""
        return _DECIDE[type(command)](self, state, command, at_ms)

    # --- stages

    def _open_stage(self, state: RunState, command: OpenStage, at_ms: int) -> list[Event]:
        stage = state.stages[command.stage]
        plan = stage.plan
        if state.cancelled and (plan.run_on != "always" or state.forced):
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="cancelled")]
        if stage.doomed and plan.run_on == "success":
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="blocked")]
        if not stage.doomed and plan.run_on == "failure":
            return [StageSkipped(at_ms=at_ms, stage=plan.name, reason="nothing that it depends on failed")]
        try:
            if plan.when is not None and not self._true(state, plan.when):
                return [StageSkipped(at_ms=at_ms, stage=plan.name, reason=f"`{plan.when.text}` is false")]
            opening = self._stage_type(plan).start(_View(self, state, stage))
            _check_blocks(stage, opening.blocks)
            started = StageStarted(at_ms=at_ms, stage=plan.name, blocks=list(opening.blocks), memo=opening.memo)
            return [decode_event(encode_event(started))]
        except Exception as error:  # foreign code: a stage type may raise or answer anything
            failure = _stage_failure(plan, error)
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="failed", failure=failure)]

    def _advance_stage(self, state: RunState, command: AdvanceStage, at_ms: int) -> list[Event]:
        stage = state.stages[command.stage]
        block = stage.blocks[command.block]
        view = BlockView(
            key=block.key,
            template=block.template.name,
            bindings=block.bindings,
            status="failed" if block.failed else "succeeded",
            outputs=block.outputs(),
        )
        try:
            opening = self._stage_type(stage.plan).block_finished(_View(self, state, stage), view)
            _check_blocks(stage, opening.blocks)
            opened = BlocksOpened(
                at_ms=at_ms, stage=stage.plan.name, after=block.key, blocks=list(opening.blocks), memo=opening.memo
            )
            return [decode_event(encode_event(opened))]
        except Exception as error:  # foreign code: a stage type may raise or answer anything
            failure = _stage_failure(stage.plan, error)
            return [BlocksOpened(at_ms=at_ms, stage=stage.plan.name, after=block.key, failure=failure)]

    def _close_stage(self, state: RunState, command: CloseStage, at_ms: int) -> list[Event]:
        stage = state.stages[command.stage]
        name = stage.plan.name
        if stage.failure is not None:
            return [StageFinished(at_ms=at_ms, stage=name, status="failed", failure=stage.failure)]
        if stage.closing:
            return [StageFinished(at_ms=at_ms, stage=name, status="cancelled")]
        if stage.bad:
            failure = Failure("DEPENDENCY_FAILED", f"stage '{name}': a task in another stage that it reads failed")
            return [StageFinished(at_ms=at_ms, stage=name, status="failed", failure=failure)]
        return [StageFinished(at_ms=at_ms, stage=name, status="succeeded")]

    def _stage_type(self, plan: StagePlan) -> StageType:
        return self._registry.stage_types[plan.type]

    # --- tasks

    def _start_task(self, state: RunState, command: StartTask, at_ms: int) -> list[Event]:
        task = state.tasks[command.task]
        plan = task.plan
        agent = task.agent if task.agent != plan.agent else ""
        action = task.action if task.action != plan.action else ""
        try:
            if plan.when is not None and task.attempt == 0 and not self._true(state, plan.when, task.block):
                return [TaskSkipped(at_ms=at_ms, task=task.path, reason=f"`{plan.when.text}` is false")]
            wired = plan.inputs is None and task.substitute is None
            inputs = {} if wired else self._inputs(state, task)
        except NoaError as error:
            return [TaskFailed(at_ms=at_ms, task=task.path, failure=Failure.of(error))]
        return [
            TaskScheduled(
                at_ms=at_ms,
                task=task.path,
                attempt=task.attempt + 1,
                inputs=inputs,
                wired=wired,
                agent=agent,
                action=action,
            )
        ]

    def _inputs(self, state: RunState, task: TaskNode) -> dict[str, Any]:
        plan = task.plan
        if task.substitute is not None:
            return task.substitute
        known = self._reads.get(id(plan))
        if known is None:
            known = self._reads[id(plan)] = (plan, Reads(plan.inputs))
        if known[1].constant:
            return dict(plan.inputs)
        inputs = self._evaluator.evaluate(plan.inputs, scope_for(state, known[1], block=task.block))
        return dict(inputs)

    def _choose_recovery(self, state: RunState, command: ChooseRecovery, at_ms: int) -> list[Event]:
        task = state.tasks[command.task]
        failure = task.failure or Failure("INTERNAL", f"task '{task.path}' failed without saying why")
        for index, spec in enumerate(self._chain(state, task)):
            try:
                decision = self._ask(spec, index, task, failure, at_ms)
                if decision is None:
                    continue
                self._check_decision(state, task, decision)
                chosen = RecoveryChosen(
                    at_ms=at_ms,
                    task=task.path,
                    attempt=task.attempt,
                    strategy=f"{index}:{spec.name}",
                    decision=decision,
                )
                return [decode_event(encode_event(chosen))]
            except Exception as error:  # foreign code: a strategy may raise or answer anything
                reason = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
                message = f"recovery strategy '{spec.name}' of task '{task.path}': {reason}"
                failure = Failure("RECOVERY_FAILED", message, cause=failure)
                break
        return [TaskFailed(at_ms=at_ms, task=task.path, failure=failure)]

    def _ask(self, spec: StrategySpec, index: int, task: TaskNode, failure: Failure, at_ms: int) -> Any:
        strategy = self._registry.recovery_strategies[spec.name]
        past = Attempted(
            attempt=task.attempt,
            chosen=(task.chosen or {}).get(index, 0),
            elapsed_ms=at_ms - task.first_ms,
            jitter=task.jitter,
            idempotent=bool(task.plan.idempotent),
        )
        return strategy.recover(failure, past, self._validated(spec, strategy))

    def _check_decision(self, state: RunState, task: TaskNode, decision: object) -> None:
        """Refuse what cannot be done, or would go on for ever."""
        if not isinstance(decision, Retry | Substitute | Complete | Skip):
            what = "which this version cannot do" if isinstance(decision, Hold | Rollback) else "which is no decision"
            raise _RefusedError(f"answered {decision!r}, {what}")
        if isinstance(decision, Substitute) and decision.agent:
            known = {*self._registry.agents, *state.plan.agents}
            if decision.agent not in known:
                names = ", ".join(sorted(known))
                raise _RefusedError(f"named agent '{decision.agent}', which is not known. Known: {names}")
        if isinstance(decision, Retry | Substitute) and task.attempt >= MAX_ATTEMPTS:
            raise _RefusedError(f"asked for attempt {task.attempt + 1:,}; a task has at most {MAX_ATTEMPTS:,}")

    def _chain(self, state: RunState, task: TaskNode) -> tuple[StrategySpec, ...]:
        for chain in (task.plan.recovery, task.stage.plan.recovery, state.plan.recovery):
            if chain is not None:
                return chain
        return ()

    def _validated(self, spec: StrategySpec, strategy: RecoveryStrategy) -> Any:
        known = self._options.get(id(spec))
        if known is None:
            known = self._options[id(spec)] = (spec, strategy.options.model_validate(dict(spec.options)))
        return known[1]

    # --- runs

    def _finish_run(self, state: RunState, command: FinishRun, at_ms: int) -> list[Event]:
        failure = state.failure
        if state.cancel_requested:
            return [RunFinished(at_ms=at_ms, status="cancelled", failure=failure, degraded=state.degraded)]
        if failure is not None or any(s.status in {"failed", "blocked"} for s in state.stages.values()):
            return [RunFinished(at_ms=at_ms, status="failed", failure=failure, degraded=state.degraded)]
        try:
            outputs = self._evaluator.evaluate(state.plan.outputs, scope_for(state, reads_of(state.plan.outputs)))
        except NoaError as error:
            return [RunFinished(at_ms=at_ms, status="failed", failure=Failure.of(error), degraded=state.degraded)]
        return [RunFinished(at_ms=at_ms, status="succeeded", outputs=dict(outputs), degraded=state.degraded)]

    def _true(self, state: RunState, expression: Expression, block: BlockNode | None = None) -> bool:
        return self._evaluator.evaluate_bool(expression, scope_for(state, reads_of(expression), block=block))


class _View:
    """The `noa.plugin.StageView` of a stage."""

    def __init__(self, decider: Decider, state: RunState, stage: StageNode) -> None:
        self._decider = decider
        self._state = state
        self._stage = stage

    @property
    def plan(self) -> StagePlan:
        return self._stage.plan

    @property
    def memo(self) -> Any:
        return self._stage.memo

    @property
    def open_blocks(self) -> int:
        return self._stage.open_blocks

    @property
    def opened_blocks(self) -> int:
        return self._stage.opened_blocks

    def evaluate(self, template: Any, bindings: Mapping[str, Any] | None = None) -> Any:
        scope = scope_for(self._state, reads_of(template), bindings=bindings)
        return self._decider._evaluator.evaluate(template, scope)


def _check_blocks(stage: StageNode, blocks: Iterable[Block]) -> None:
    seen: set[str] = set()
    for block in blocks:
        if block.template not in stage.plan.templates:
            known = ", ".join(stage.plan.templates)
            raise ValueError(f"it opened a block of template '{block.template}', known are: {known}")
        if block.key in seen or block.key in stage.blocks:
            raise ValueError(f"it opened two blocks under the key '{block.key}'")
        seen.add(block.key)


def _stage_failure(plan: StagePlan, error: Exception) -> Failure:
    if isinstance(error, NoaError):
        return Failure.of(error)
    return Failure(
        "STAGE_TYPE_FAILED", f"stage type '{plan.type}' of stage '{plan.name}': {type(error).__name__}: {error}"
    )


_DECIDE: dict[type, Callable[[Decider, RunState, Any, int], list[Event]]] = {
    OpenStage: Decider._open_stage,
    AdvanceStage: Decider._advance_stage,
    CloseStage: Decider._close_stage,
    StartTask: Decider._start_task,
    ChooseRecovery: Decider._choose_recovery,
    FinishRun: Decider._finish_run,
}
