"""What stands between a task or a stage and its beginning: approvals, rules, breakpoints, steps. Pure.

Here is found what the definition and the debugger want; the run's mode says what is held.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from noa.definitions import Evaluator
from noa.engine.debugging import Breakpoint
from noa.engine.nodes import StageNode, TaskNode
from noa.engine.scope import reads_of, scope_for
from noa.engine.state import RunState
from noa.errors import PluginError
from noa.model.events import ANSWERS, Hold
from noa.model.failure import Failure
from noa.model.plan import ApprovalPlan
from noa.plugin import Gate, Mode

__all__ = ["Gates", "about"]

_APPROVE = ("approve", "reject")
_WITHOUT_PERSON = ("approve", "reject", "continue", "retry", "skip", "fail", "rollback")
"""Answers that a mode can give: `override` needs outputs, and to escalate is to ask a person."""


class Gates:
    """Asks modes about what is about to begin."""

    def __init__(self, modes: Mapping[str, Mode], evaluator: Evaluator) -> None:
        self._modes = modes
        self._evaluator = evaluator

    def answer(self, state: RunState, hold: Hold) -> str | None:
        """The answer that a hold gets at once in this run; None where it waits.

        A mode that raises, or answers what no hold takes without a person, leaves the hold to a person.
        """
        try:
            answer = self._mode(state).resolves(hold)
        except Exception:  # foreign code
            return None
        return answer if answer in _WITHOUT_PERSON else None

    def _mode(self, state: RunState) -> Mode:
        found = self._modes.get(state.mode)
        if found is None:
            raise PluginError(f"mode '{state.mode}' is not known. Known: {', '.join(sorted(self._modes))}")
        return found

    def _asked(self, mode: Mode, gate: Gate) -> Hold | None:
        try:
            hold = mode.gate(gate)
        except Exception as error:  # foreign code
            raise PluginError(
                f"mode '{mode.name}' could not say whether '{gate.subject}' may begin: {type(error).__name__}: {error}"
            ) from error
        if hold is not None and not isinstance(hold, Hold):
            raise PluginError(f"mode '{mode.name}' answered {hold!r} about '{gate.subject}', which is no Hold")
        return hold

    def stage(self, state: RunState, stage: StageNode) -> Hold | None:
        """The hold to place before a stage opens."""
        plan = stage.plan
        if stage.approved or plan.approval is None:
            return None
        wanted = self._approval(state, plan.approval, plan.name, None, {})
        return self._asked(self._mode(state), Gate(subject=plan.name, stage=plan.name, approval=wanted))

    def task(self, state: RunState, task: TaskNode, inputs: dict[str, Any], *, wired: bool) -> Hold | None:
        """The hold to place before the first attempt of a task.

        Args:
            inputs: That it would be given; with `wired` those of implicit wiring.
        """
        known, plan = self._modes.get(state.mode), task.plan
        if plan.approval is None and state.plan.supervise is None and (known is None or not known.watches):
            return None
        mode = self._mode(state)  # what the definition wants held never begins for want of one
        seen = state.wired_inputs(task) if wired else inputs
        approval = None if task.approved or task.undoes is not None else self._wanted(state, task, seen)
        stop = self._stop(state, task, seen) if mode.debugs and not task.passed and not task.tries else None
        asked = task.approved or task.passed or bool(task.tries) or not mode.watches
        if approval is None and stop is None and asked:
            return None
        gate = Gate(
            subject=task.path,
            stage=task.stage.plan.name,
            task=plan.name,
            agent=task.agent,
            action=task.action,
            inputs=seen,
            approval=approval,
            stop=stop,
        )
        return self._asked(mode, gate)

    def failure(self, state: RunState, task: TaskNode, failure: Failure) -> Hold | None:
        """The hold to place between a failed attempt and the recovery chain."""
        mode = self._modes.get(state.mode)
        if mode is None or not mode.debugs or task.seen or task.recalled:
            return None
        for point in state.debugging.at(task, "failure"):
            if self._is_true(state, task, point, task.inputs or {}):
                choices = ["continue", *(answer for answer in ANSWERS if answer != "rollback" or task.undoes is None)]
                question = f"'{task.path}' failed: {failure}"
                hold = Hold(question=question, choices=choices, kind="failure", show={"breakpoint": point.id})
                gate = Gate(subject=task.path, stage=task.stage.plan.name, task=task.plan.name, stop=hold)
                return self._asked(mode, gate)
        return None

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def _wanted(self, state: RunState, task: TaskNode, inputs: dict[str, Any]) -> Hold | None:
        if task.plan.approval is not None:
            return self._approval(state, task.plan.approval, task.path, task, inputs)
        rule = state.plan.supervise
        if rule is None:
            return None
        scope = scope_for(state, reads_of(rule.when), block=task.block, bindings=about(task, inputs))
        if not self._evaluator.evaluate_bool(rule.when, scope):
            return None
        hold = self._approval(state, rule.approval, task.path, task, inputs)
        return msgspec.structs.replace(hold, kind="policy")

    def _approval(
        self, state: RunState, plan: ApprovalPlan, subject: str, task: TaskNode | None, inputs: dict[str, Any]
    ) -> Hold:
        def value(template: Any) -> Any:
            seen = about(task, inputs) if task is not None else {}
            block = task.block if task is not None else None
            return self._evaluator.evaluate(template, scope_for(state, reads_of(template), block=block, bindings=seen))

        prompt = str(value(plan.prompt)) if plan.prompt else f"approve '{subject}'?"
        show = value(plan.show) if plan.show is not None else {}
        return Hold(
            question=prompt,
            choices=list(_APPROVE),
            timeout_ms=plan.timeout_ms,
            on_timeout=plan.on_timeout,
            kind="approval",
            approvers=list(plan.approvers),
            quorum=plan.quorum,
            four_eyes=plan.four_eyes,
            escalate_to=list(plan.escalate_to),
            show=show if isinstance(show, dict) else {"value": show},
        )

    def _stop(self, state: RunState, task: TaskNode, inputs: dict[str, Any]) -> Hold | None:
        for point in state.debugging.at(task, "start"):
            if self._is_true(state, task, point, inputs):
                question = f"breakpoint {point.id} before '{task.path}'"
                return Hold(question=question, choices=["continue"], kind="breakpoint", show={"breakpoint": point.id})
        if state.debugging.steps(task):
            return Hold(question=f"step: before '{task.path}'", choices=["continue"], kind="step")
        return None

    def _is_true(self, state: RunState, task: TaskNode, point: Breakpoint, inputs: dict[str, Any]) -> bool:
        if point.when is None:
            return True
        scope = scope_for(state, reads_of(point.when), block=task.block, bindings=about(task, inputs))
        try:
            return self._evaluator.evaluate_bool(point.when, scope)
        except Exception:  # a condition that a person typed may fail for some tasks; stopping is what they see
            return True


def about(task: TaskNode, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `task` means in an approval, a rule or a condition."""
    return {
        "task": {
            "name": task.plan.name,
            "path": task.path,
            "stage": task.stage.plan.name,
            "agent": task.agent,
            "action": task.action,
            "inputs": inputs,
            "attempt": task.attempt + 1,
        }
    }
