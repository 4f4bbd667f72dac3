"""What there is to say of a task beside its status: why it is degraded, what it took, who answered."""

from __future__ import annotations

from noa.cli.text import age, duration, one_line
from noa.monitoring.views import TaskView

__all__ = ["remark", "subject"]

_WIDTH = 200


def subject(task: TaskView) -> str:
    """The task as lines name it: `init/hash`, or `undo of init/hash` for what undoes that."""
    return f"undo of {task.undoes}" if task.undoes else task.path


def remark(task: TaskView, now_ms: int) -> str:
    """One line; empty where a task just did what was planned."""
    parts = []
    if task.held is not None:
        parts.append(f"waits for a person: {task.held.question or 'what is to be done?'}")
    if task.taken_from:
        parts.append(f"took outputs of run {task.taken_from} (made {age(task.taken_made_ms, now_ms)})")
    if task.fallback:
        parts.append(task.fallback)
    if task.reason:
        parts.append(task.reason)
    if task.hedge:
        parts.append(f"attempt {task.hedge} goes on beside it")
    if task.status == "retrying" and task.retry_at_ms:
        parts.append(f"again in {duration(max(0, task.retry_at_ms - now_ms))}")
    failure = str(task.failure) if task.failure is not None else ""
    if failure and failure not in task.reason and task.status not in ("pending", "queued", "running"):
        parts.append(f"after {failure}" if task.status in ("succeeded", "skipped") else failure)
    return one_line("; ".join(parts), _WIDTH)
