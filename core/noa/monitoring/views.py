"""A task and a stage as people watch them. Plain data; `noa.monitoring.progress` fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from noa.model.execution import Progress
from noa.model.failure import Failure
from noa.model.ids import TaskPath

__all__ = ["OVER", "Held", "StageView", "TaskView", "ViewStatus"]

ViewStatus: TypeAlias = Literal[
    "pending", "queued", "running", "retrying", "held", "succeeded", "skipped", "failed", "cancelled", "not_run"
]
"""Of a task or a stage as people see it.

`queued`: handed over, and waits for a resource, a slot or its agent; `held`: a person must answer; `not_run`: it ended
without ever beginning.
"""

OVER = frozenset({"succeeded", "skipped", "failed", "cancelled", "not_run"})
"""What nothing more happens to."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a person is asked about a task.

    Attributes:
        question: As the definition puts it; may be empty.
        choices: Answers that are taken.
        since_ms: When it was asked, UTC epoch milliseconds.
        default: The answer that counts where nobody gives one in time.
        default_at_ms: When that is; 0 where it waits for ever.
    """

    question: str
    choices: tuple[str, ...]
    since_ms: int
    default: str = ""
    default_at_ms: int = 0


@dataclass(slots=True, eq=False)
class TaskView:
    """A task as people see it. Times in UTC epoch milliseconds, 0 where it has not happened.

    Attributes:
        sub_workflow: Whether its work is a run of its own, of which nothing is observed here.
        undoes: The task that it undoes, where it is a compensation; else empty.
        planned_agent: Agent that the definition names; `planned_action` likewise; empty where it cannot be read.
        undo_agent: Agent that undoes it; `undo_action`: what that is asked.
        undo_after: "success" or "attempt" where a rollback undoes it; else empty.
        since_ms: When its status last changed.
        activity: Where the attempt is: "queued", "starting agent", "waits for …", "running"; empty where not known.
        progress: Latest, of the attempt that is going on.
        failure: Of the latest attempt that failed; also of a task that then ended well by its recovery chain.
        retry_at_ms: When it is tried again.
        held: What a person is asked, while it is held.
        hedge: Number of the second attempt that goes on beside the first; 0 where there is none.
        fallback: What the recovery chain asked in its place, such as "agent 'b' instead of 'a'".
        taken_from: The run whose kept outputs it took; empty for none.
        taken_made_ms: When those outputs were made.
        reason: Why it ended as it did, where that is neither its work nor its failure.
    """

    path: TaskPath
    stage: str
    agent: str = ""
    action: str = ""
    sub_workflow: bool = False
    undoes: str = ""
    planned_agent: str = ""
    planned_action: str = ""
    undo_agent: str = ""
    undo_action: str = ""
    undo_after: str = ""
    status: ViewStatus = "pending"
    since_ms: int = 0
    attempt: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    activity: str = ""
    progress: Progress | None = None
    failure: Failure | None = None
    retry_at_ms: int = 0
    held: Held | None = None
    hedge: int = 0
    fallback: str = ""
    taken_from: str = ""
    taken_made_ms: int = 0
    degraded: bool = False
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in OVER

    @property
    def remarkable(self) -> bool:
        """Whether there is more to say of it than that it succeeded."""
        return bool(self.degraded or self.reason or self.fallback or self.taken_from)

    def duration_ms(self, now_ms: int) -> int:
        """From the start of its first attempt until its end or now."""
        return max(0, (self.finished_ms or now_ms) - self.started_ms) if self.started_ms else 0


@dataclass(slots=True, eq=False)
class StageView:
    """A stage as people see it. `counts` has all tasks by status; `tasks` may leave out some (see `ProgressModel`)."""

    name: str
    type: str = ""
    status: ViewStatus = "pending"
    started_ms: int = 0
    finished_ms: int = 0
    failure: Failure | None = None
    reason: str = ""
    tasks: dict[TaskPath, TaskView] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    queued: dict[TaskPath, TaskView] = field(default_factory=dict)
    running: dict[TaskPath, TaskView] = field(default_factory=dict)
    held: dict[TaskPath, TaskView] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Tasks that are known so far."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """Tasks that are over."""
        return sum(count for status, count in self.counts.items() if status in OVER)

    def duration_ms(self, now_ms: int) -> int:
        """From its start until its end or now."""
        return max(0, (self.finished_ms or now_ms) - self.started_ms) if self.started_ms else 0
