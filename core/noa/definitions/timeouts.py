"""Limits of tasks: the nearest one counts, of the task, the defaults, the stage and the workflow."""

from __future__ import annotations

from noa.definitions.models import SharedTimeoutsModel, TimeoutsModel
from noa.model.plan import Timeouts

__all__ = ["compensation_timeouts", "inherited_timeouts", "task_timeouts"]

_NONE = Timeouts()


def inherited_timeouts(defaults: TimeoutsModel | None, *outer: SharedTimeoutsModel | None) -> Timeouts:
    """What the tasks of a stage have where they do not say it themselves.

    Args:
        defaults: Of all tasks; only here `total` is that of a task.
        outer: Of the stage and the workflow, the nearest first.
    """
    near = [limits for limits in (defaults, *outer) if limits is not None]

    def pick(name: str) -> int | None:
        return next((value for limits in near if (value := getattr(limits, name)) is not None), None)

    total = defaults.total if defaults is not None else None
    return Timeouts(pick("execution"), pick("heartbeat"), pick("queue"), total) if near else _NONE


def task_timeouts(own: TimeoutsModel | None, inherited: Timeouts, *, sub_workflow: bool = False) -> Timeouts:
    """The limits of a task. A sub-workflow has no attempts of its own that could wait or be silent: only `total`."""
    total = own.total if own is not None and own.total is not None else inherited.total_ms
    if sub_workflow:
        return Timeouts(total_ms=total)
    if own is None:
        return inherited
    return Timeouts(
        own.execution if own.execution is not None else inherited.execution_ms,
        own.heartbeat if own.heartbeat is not None else inherited.heartbeat_ms,
        own.queue if own.queue is not None else inherited.queue_ms,
        total,
    )


def compensation_timeouts(own: TimeoutsModel | None, inherited: Timeouts) -> Timeouts:
    """The limits of a compensation. It has no inherited `total`: how long a task may take says nothing of that."""
    return task_timeouts(own, Timeouts(inherited.execution_ms, inherited.heartbeat_ms, inherited.queue_ms))
