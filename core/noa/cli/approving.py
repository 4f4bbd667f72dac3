"""What `noa approve` and `noa reject` are about, where that is not said."""

from __future__ import annotations

from noa.cli.asked import questions_in
from noa.cli.interventions import Target, target_of
from noa.cli.session import History
from noa.errors import UsageError

__all__ = ["subject_of"]


def subject_of(histories: list[History], subject: str | None) -> Target:
    """The task or stage that waits for an approval, of the run or of a sub-workflow.

    What is named is taken as it is, also where it does not wait: who drives the run then says so, and records that.

    Raises:
        UsageError: Nothing is named, and not exactly one thing waits.
    """
    waiting = [
        Target(histories[0], history, question.task)
        for history in histories
        for question in questions_in(history)
        if question.approves
    ]
    named = [target for target in waiting if target.subject == subject]
    if len(named) == 1:
        return named[0]
    if subject is not None:
        return target_of(histories, subject)
    if len(waiting) == 1:
        return waiting[0]
    run = histories[0].record.run_id
    if waiting:
        raise UsageError(f"run {run}: more than one thing waits for an approval; name one of {_names(waiting)}")
    raise UsageError(f"run {run}: nothing waits for an approval. What it waits for: noa why {run}")


def _names(targets: list[Target]) -> str:
    return ", ".join(target.subject for target in targets)
