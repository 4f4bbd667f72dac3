"""`approval` of tasks and stages and the rule `supervise`: who must say yes before something begins."""

from __future__ import annotations

from noa.definitions.models import ApprovalModel, SuperviseModel
from noa.definitions.scopes import ExpressionCompiler, Place
from noa.definitions.source import NodePath
from noa.model.plan import ApprovalPlan, SupervisePlan

__all__ = ["TASK", "compile_approval", "compile_supervise"]

TASK = "task"
"""In scope of approvals of tasks and of `supervise`: name, path, stage, agent, action, inputs, attempt."""


def compile_approval(
    expressions: ExpressionCompiler, model: ApprovalModel | None, path: NodePath, where: Place
) -> ApprovalPlan | None:
    """The approval that a task or stage at a path asks for; None where it asks for none."""
    if model is None:
        return None
    return ApprovalPlan(
        prompt=expressions.template(model.prompt, (*path, "prompt"), where),
        approvers=tuple(model.approvers),
        quorum=model.quorum,
        timeout_ms=model.timeout,
        on_timeout=model.on_timeout,
        escalate_to=tuple(model.escalate_to),
        four_eyes=model.four_eyes,
        show=expressions.template(model.show, (*path, "show"), where),
    )


def compile_supervise(
    expressions: ExpressionCompiler, model: SuperviseModel | None, path: NodePath, where: Place
) -> SupervisePlan | None:
    """The rule of a workflow; None where it has none, or one that does not compile."""
    if model is None:
        return None
    when = expressions.condition(model.when, (*path, "when"), where)
    approval = compile_approval(expressions, model, path, where)
    return SupervisePlan(when, approval) if when is not None and approval is not None else None
