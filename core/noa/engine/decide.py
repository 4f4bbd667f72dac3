"""Answers the core's decisions with events: evaluates expressions, asks stage types and recovery strategies. Pure.

What is decided here is recorded, so a replay never comes here for something that was decided before.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from noa.definitions import Evaluator, schema_problems
from noa.engine.chains import Chains, Entry
from noa.engine.commands import (
    AdvanceStage,
    ChooseRecovery,
    CloseStage,
    Decide,
    FinishRun,
    OpenStage,
    StartTask,
)
from noa.engine.durations import Durations
from noa.engine.gates import Gates
from noa.engine.nodes import BlockNode, StageNode, TaskNode, last_outputs_key
from noa.engine.scope import Reads, reads_of, scope_for
from noa.engine.signals import Known
from noa.engine.state import RunState
from noa.errors import NoaError
from noa.model.events import (
    ANSWERS,
    Block,
    BlocksOpened,
    Decision,
    Event,
    Hold,
    HoldResolved,
    Recall,
    RecoveryChosen,
    Retry,
    Rollback,
    RollbackStarted,
    RunFinished,
    RunStatus,
    StageFinished,
    StageHeld,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
    decode_event,
    encode_event,
)
from noa.model.failure import Failure
from noa.model.plan import Expression, StagePlan, TaskPlan
from noa.plugin import ActionInfo, Attempted, BlockView, Registry, StageType

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
        durations: Of attempts in this process, for strategies that time a second attempt by them.
        action: What is known of an action of an agent, for checking what people put in its place.
    """

    def __init__(
        self,
        registry: Registry,
        evaluator: Evaluator,
        durations: Durations | None = None,
        action: Callable[[str, str], ActionInfo | None] | None = None,
    ) -> None:
        self._registry = registry
        self._evaluator = evaluator
        self._durations = durations or Durations()
        self._reads: dict[int, tuple[TaskPlan, Reads]] = {}
        self._chains = Chains(registry.recovery_strategies)
        self._gates = Gates(registry.modes, evaluator)
        self._action = action or (lambda _agent, _action: None)

    def decide(self, state: RunState, command: Decide, at_ms: int) -> list[Event]:
        """The events that answer a command; at least one."""
        return _DECIDE[type(command)](self, state, command, at_ms)

    def known(self, state: RunState) -> Known:
        """What signals to this run may name."""
        agents = {*self._registry.agents, *state.plan.agents}
        return Known(agents, self._registry.modes, self._action, schema_problems)

    def resolved(self, state: RunState, at_ms: int) -> list[Event]:
        """Answers to the holds for which the mode that the run is in now waits for nobody."""
        found = ((subject, self._gates.answer(state, hold)) for subject, _, hold in state.iter_holds())
        by = f"nobody: mode {state.mode}"
        return [HoldResolved(at_ms=at_ms, subject=subject, answer=a, by=by) for subject, a in found if a is not None]

    def _with_answer(self, state: RunState, held: Event, subject: str, hold: Hold, at_ms: int) -> list[Event]:
        """A hold, and its answer where nobody is waited for."""
        answer = self._gates.answer(state, hold)
        if answer is None:
            return [held]
        return [held, HoldResolved(at_ms=at_ms, subject=subject, answer=answer, by=f"nobody: mode {state.mode}")]

    def guards(self, state: RunState, task: TaskNode) -> tuple[Entry, ...]:
        """The strategies of a task's chain that may refuse an attempt before it begins."""
        try:
            return self._chains.of(state.plan, task).guards
        except (KeyError, ValueError):
            return ()  # said when the chain is asked

    def keeps(self, state: RunState, task: TaskNode) -> dict[str, int]:
        """Under which keys the outputs of a task are kept when it succeeds, and for how long (0: for ever)."""
        kept = dict([task.kept]) if task.kept is not None else {}
        with contextlib.suppress(Exception):  # foreign code; what is wrong with it is said when the chain is asked
            if any(entry.strategy.recalls(entry.options) for entry in self._chains.of(state.plan, task).recalls):
                kept[last_outputs_key(state.plan.name, task)] = 0
        return kept

    # --- stages

    def _open_stage(self, state: RunState, command: OpenStage, at_ms: int) -> list[Event]:
        stage = state.stages[command.stage]
        plan = stage.plan
        if stage.failure is not None:
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="failed", failure=stage.failure)]
        if state.cancelled and not state.cleans_up(plan):
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="cancelled")]
        if stage.doomed and plan.run_on == "success":
            return [StageFinished(at_ms=at_ms, stage=plan.name, status="blocked")]
        if not stage.doomed and plan.run_on == "failure":
            return [StageSkipped(at_ms=at_ms, stage=plan.name, reason="nothing that it depends on failed")]
        try:
            if plan.when is not None and not self._true(state, plan.when):
                return [StageSkipped(at_ms=at_ms, stage=plan.name, reason=f"`{plan.when.text}` is false")]
            hold = self._gates.stage(state, stage)
            if hold is not None:
                held = StageHeld(at_ms=at_ms, stage=plan.name, hold=hold)
                return self._with_answer(state, held, plan.name, hold, at_ms)
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
            if plan.when is not None and task.tries == 0 and not self._true(state, plan.when, task.block):
                return [TaskSkipped(at_ms=at_ms, task=task.path, reason=f"`{plan.when.text}` is false")]
            wired = plan.inputs is None and task.substitute is None
            inputs = {} if wired else self._inputs(state, task)
            if task.edits:
                inputs, wired = {**(inputs or (state.wired_inputs(task) if wired else {})), **task.edits}, False
            hold = self._gates.task(state, task, inputs, wired=wired)
            if hold is not None:
                seen = state.wired_inputs(task) if wired else inputs
                held = TaskHeld(at_ms=at_ms, task=task.path, hold=hold, inputs=seen)
                return self._with_answer(state, held, task.path, hold, at_ms)
            cache_key = ""
            if plan.cache is not None and not task.first_ms:
                cache_key = self._cache_key(state, task, inputs)
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
                cache_key=cache_key,
                cache_ttl_ms=plan.cache.ttl_ms if plan.cache is not None and cache_key else None,
                hedge_ms=self._hedge_ms(state, task),
            )
        ]

    def _cache_key(self, state: RunState, task: TaskNode, inputs: dict[str, Any]) -> str:
        """Names what is asked: agent, action, and the key that the definition gives or else the inputs."""
        cache = task.plan.cache
        key: Any = inputs or state.wired_inputs(task)
        if cache is not None and cache.key is not None:
            key = self._evaluator.evaluate(cache.key, scope_for(state, Reads(cache.key), block=task.block))
        asked = msgspec.json.encode([state.plan.name, task.agent, task.action, key], order="deterministic")
        return "cache:" + hashlib.sha256(asked).hexdigest()

    def _hedge_ms(self, state: RunState, task: TaskNode) -> int | None:
        if not task.plan.idempotent:
            return None
        try:
            for entry in self._chains.of(state.plan, task).hedges:
                taken = self._durations.of(task.agent, task.action)
                after_ms = entry.strategy.hedge_after_ms(taken, task.attempt, entry.options)
                if after_ms is not None:
                    return max(0, int(after_ms))
        except Exception:  # foreign code: a strategy that cannot say so hedges nothing
            return None
        return None

    def _inputs(self, state: RunState, task: TaskNode) -> dict[str, Any]:
        plan = task.plan
        if task.substitute is not None:
            return task.substitute
        known = self._reads.get(id(plan))
        if known is None:
            known = self._reads[id(plan)] = (plan, Reads(plan.inputs))
        if known[1].constant:
            return dict(plan.inputs)
        scope = scope_for(state, known[1], block=task.block)
        if task.undoes is not None:
            _see_effects(scope, task, task.undoes)
        return dict(self._evaluator.evaluate(plan.inputs, scope))

    def _choose_recovery(self, state: RunState, command: ChooseRecovery, at_ms: int) -> list[Event]:
        task = state.tasks[command.task]
        failure = task.failure or Failure("INTERNAL", f"task '{task.path}' failed without saying why")
        try:
            hold = self._gates.failure(state, task, failure)
        except NoaError as error:
            broken = Failure(error.code, error.message, cause=failure)
            return [TaskFailed(at_ms=at_ms, task=task.path, failure=broken)]
        if hold is not None:
            held = TaskHeld(at_ms=at_ms, task=task.path, hold=hold, inputs=task.inputs or {})
            return self._with_answer(state, held, task.path, hold, at_ms)
        name = "?"
        try:
            entries = self._chains.of(state.plan, task).entries
            for index in range(task.entry, len(entries)):
                entry, name = entries[index], entries[index].name
                decision = entry.strategy.recover(failure, _past(task, index, at_ms), entry.options)
                if decision is None or (task.expired and isinstance(decision, Retry | Substitute)):
                    continue
                decision = self._evaluated(state, task, decision, failure)
                self._check_decision(state, task, decision)
                chosen = RecoveryChosen(
                    at_ms=at_ms, task=task.path, attempt=task.attempt, strategy=f"{index}:{name}", decision=decision
                )
                made = decode_event(encode_event(chosen))
                asked = made.decision if isinstance(made, RecoveryChosen) else None
                if isinstance(asked, Hold):
                    return self._with_answer(state, made, task.path, asked, at_ms)
                return [made]
        except Exception as error:  # foreign code: a strategy may raise or answer anything
            known = isinstance(error, _RefusedError | NoaError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            message = f"recovery strategy '{name}' of task '{task.path}': {reason}"
            failure = Failure("RECOVERY_FAILED", message, cause=failure)
        return [TaskFailed(at_ms=at_ms, task=task.path, failure=failure)]

    def _evaluated(self, state: RunState, task: TaskNode, decision: Decision, failure: Failure) -> Decision:
        """The decision with the expressions in it replaced by their values."""
        if not isinstance(decision, msgspec.Struct):
            return decision
        changed: dict[str, Any] = {}
        for name in decision.__struct_fields__:
            value = getattr(decision, name)
            reads = Reads(value)
            if not reads.constant:
                seen = {"failure": _seen(failure)}
                scope = scope_for(state, reads, block=task.block, bindings=seen)
                if task.undoes is not None:
                    _see_effects(scope, task, task.undoes)
                changed[name] = self._evaluator.evaluate(value, scope)
        return msgspec.structs.replace(decision, **changed) if changed else decision

    def _check_decision(self, state: RunState, task: TaskNode, decision: object) -> None:
        """Refuse what cannot be done, or would go on for ever."""
        if not isinstance(decision, Decision):
            raise _RefusedError(f"answered {decision!r}, which is no decision")
        if isinstance(decision, Rollback) and task.undoes is not None:
            raise _RefusedError("asked to undo the run, which is being undone already")
        if isinstance(decision, Recall) and task.recalled:
            raise _RefusedError("asked again for outputs of earlier runs, of which there are none")
        if isinstance(decision, Hold) and not {*decision.choices, decision.on_timeout} <= {*ANSWERS}:
            raise _RefusedError(f"gave a choice that is not known. Known: {', '.join(ANSWERS)}")
        if isinstance(decision, Substitute) and decision.agent:
            known = {*self._registry.agents, *state.plan.agents}
            if decision.agent not in known:
                names = ", ".join(sorted(known))
                raise _RefusedError(f"named agent '{decision.agent}', which is not known. Known: {names}")
        if isinstance(decision, Retry | Substitute) and task.attempt >= MAX_ATTEMPTS:
            raise _RefusedError(f"asked for attempt {task.attempt + 1:,}; a task has at most {MAX_ATTEMPTS:,}")

    # --- runs

    def _finish_run(self, state: RunState, command: FinishRun, at_ms: int) -> list[Event]:
        failure = state.failure
        failed = failure is not None or any(s.status in {"failed", "blocked"} for s in state.stages.values())
        outputs: dict[str, Any] = {}
        if state.undoing is not None:
            return [self._undone(state, at_ms)]
        if not failed and not state.cancel_requested and not state.undo_wanted:
            try:
                template = state.plan.outputs
                outputs = dict(self._evaluator.evaluate(template, scope_for(state, reads_of(template))))
            except NoaError as error:
                failure, failed = Failure.of(error), True
        if state.undo_wanted or (failed and state.plan.on_failure == "rollback"):
            return [RollbackStarted(at_ms=at_ms, failure=failure)]
        status: RunStatus = "cancelled" if state.cancel_requested else "failed" if failed else "succeeded"
        return [RunFinished(at_ms=at_ms, status=status, outputs=outputs, failure=failure, degraded=state.degraded)]

    def _undone(self, state: RunState, at_ms: int) -> Event:
        assert state.undoing is not None
        left = list(state.undoing.left.values())[::-1]  # of tasks that finished at once, the later one first
        left.sort(key=lambda task: -task.finished_ms)
        if not left:
            return RunFinished(at_ms=at_ms, status="rolled_back", failure=state.failure, degraded=state.degraded)
        why = next((t.undo.failure for t in left if t.undo is not None and t.undo.failure is not None), None)
        names = ", ".join(f"'{task.path}'" for task in left[:_NAMED])
        more = f" and {len(left) - _NAMED:,} more" if len(left) > _NAMED else ""
        message = f"not undone: {names}{more}" + (f" ({why})" if why is not None else "")
        paths = [task.path for task in left]
        failure = Failure("ROLLBACK_FAILED", message, details={"left": paths}, cause=state.failure)
        return RunFinished(at_ms=at_ms, status="rollback_failed", failure=failure, degraded=state.degraded, left=paths)

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


_NAMED = 5


def _past(task: TaskNode, entry: int, at_ms: int) -> Attempted:
    past = task.chosen.get(entry) if task.chosen is not None else None
    return Attempted(
        attempt=task.attempt,
        chosen=past.chosen if past is not None else 0,
        elapsed_ms=at_ms - task.first_ms,
        jitter=task.jitter,
        idempotent=bool(task.plan.idempotent),
        switches=past.switches if past is not None else 0,
        tries=task.tries,
        tries_elapsed_ms=at_ms - task.tries_ms if task.tries else 0,
        last_delay_ms=past.delay_ms if past is not None else 0,
        expired=task.expired,
    )


def _see_effects(scope: dict[str, Any], task: TaskNode, undone: TaskNode) -> None:
    """Let what undoes a task see, under the task's name, what it gave when it did what is being undone."""
    scope["outputs"] = outputs = task.effects[-1][1]
    view = {"outputs": outputs, "status": "succeeded" if undone.done or len(task.effects) > 1 else undone.status}
    name, stage = undone.plan.name, undone.stage.plan.name
    if name in scope["tasks"]:
        scope["tasks"][name] = view
    if name in scope["stages"].get(stage, {}):
        scope["stages"][stage][name] = view


def _seen(failure: Failure) -> dict[str, Any]:
    """A failure as expressions see it."""
    return {
        "code": failure.code,
        "message": failure.message,
        "retryable": failure.retryable,
        "details": failure.details,
    }


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
