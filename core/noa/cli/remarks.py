"""What there is to say of a task beside its status: why it is degraded, what it took, who answered."""

from __future__ import annotations

from noa.cli.text import age, duration, one_line
from noa.monitoring.progress import Intervention, TaskView

__all__ = ["ended", "intervention", "remark", "subject"]

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
    if failure and failure not in task.reason and task.status not in ("pending", "queued", "running", "held"):
        parts.append(f"after {failure}" if task.status in ("succeeded", "skipped") else failure)
    return one_line("; ".join(parts), _WIDTH)


def intervention(done: Intervention) -> str:
    """`ann answered 'retry' for init/hash: the disk is back`."""
    about = f" for {done.task}" if done.task and done.task not in done.what else ""
    why = f": {one_line(done.reason, 300)}" if done.reason else ""
    refused = f", which was refused: {one_line(done.refused, 300)}" if done.refused else ""
    return f"{done.actor or 'somebody'} {done.what}{about}{why}{refused}"


def ended(status: str) -> str:
    """How a run of this status ended, as `it …`."""
    past = {"cancelled": "was cancelled", "rolled_back": "was rolled back"}
    past["rollback_failed"] = "was rolled back in part"
    return past.get(status, status)
