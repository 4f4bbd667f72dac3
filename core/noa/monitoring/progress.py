"""A run as people watch it: folds events and observations into stages and tasks. Pure; draws nothing.

Works with or without the plan: without it, tasks appear when they begin, and agents are named only where events do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Block,
    BlocksOpened,
    CancelRequested,
    Complete,
    Event,
    RecoveryChosen,
    Retry,
    RunCreated,
    RunFinished,
    RunResumed,
    Skip,
    StageFinished,
    StageSkipped,
    StageStarted,
    TaskFailed,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.execution import Log, Observation, OutputChunk, Progress, Stage, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath, task_path
from noa.model.plan import Plan, StagePlan, TaskPlan

__all__ = ["ProgressModel", "StageView", "TaskView", "ViewStatus"]

ViewStatus: TypeAlias = Literal[
    "pending", "queued", "running", "retrying", "succeeded", "skipped", "failed", "cancelled", "not_run"
]
"""Of a task or a stage as people see it.

`queued`: handed over, and waits for a resource, a slot or its agent; `not_run`: it ended without ever beginning.
"""

_OVER = frozenset({"succeeded", "skipped", "failed", "cancelled", "not_run"})
_RATE_WINDOW_MS = 10_000


@dataclass(slots=True, eq=False)
class TaskView:
    """A task as people see it. Times in UTC epoch milliseconds, 0 where it has not happened.

    Attributes:
        sub_workflow: Whether its work is a run of its own, of which nothing is observed here.
        activity: Where the attempt is: "queued", "starting agent", "waits for …", "running"; empty where not known.
        progress: Latest, of the attempt that is going on.
        retry_at_ms: When it is tried again.
    """

    path: TaskPath
    stage: str
    agent: str = ""
    action: str = ""
    sub_workflow: bool = False
    status: ViewStatus = "pending"
    attempt: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    activity: str = ""
    progress: Progress | None = None
    failure: Failure | None = None
    retry_at_ms: int = 0
    degraded: bool = False
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in _OVER

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

    @property
    def total(self) -> int:
        """Tasks that are known so far."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """Tasks that are over."""
        return sum(count for status, count in self.counts.items() if status in _OVER)

    def duration_ms(self, now_ms: int) -> int:
        """From its start until its end or now."""
        return max(0, (self.finished_ms or now_ms) - self.started_ms) if self.started_ms else 0


class ProgressModel:
    """The view of one run. Fold events with `apply` and observations with `observe`; read the rest.

    Args:
        plan: Of the run, where it is known.
        keep: A stage with more tasks than this forgets those that succeeded, but for their count; None keeps all.
    """

    def __init__(self, plan: Plan | None = None, *, keep: int | None = None) -> None:
        self.plan = plan
        self.run_id = ""
        self.workflow = plan.name if plan else ""
        self.version = plan.version if plan else ""
        self.status = "pending"
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.output_uri = ""
        self.failure: Failure | None = None
        self.degraded = False
        self.cancelling = ""
        self.created_ms = 0
        self.finished_ms = 0
        self.resumed = 0
        self.stages: dict[str, StageView] = {}
        self.counts: dict[str, int] = {}
        self._keep = keep
        self._ended: deque[int] = deque(maxlen=10_000)
        for name, stage in (plan.stages if plan else {}).items():
            self._add_stage(name, stage)

    @property
    def total(self) -> int:
        """Tasks that are known so far; stages that have not begun count the tasks of their only template."""
        return sum(stage.total for stage in self.stages.values())

    @property
    def done(self) -> int:
        """Tasks that are over."""
        return sum(count for status, count in self.counts.items() if status in _OVER)

    def duration_ms(self, now_ms: int) -> int:
        """From the run's creation until its end or now."""
        return max(0, (self.finished_ms or now_ms) - self.created_ms) if self.created_ms else 0

    def rate(self, now_ms: int) -> float:
        """Tasks that ended each second, over the last ten seconds of the run."""
        now_ms = self.finished_ms or now_ms
        window_ms = min(_RATE_WINDOW_MS, max(1, now_ms - self.created_ms))
        while self._ended and self._ended[0] < now_ms - window_ms:
            self._ended.popleft()
        if len(self._ended) == self._ended.maxlen:
            window_ms = max(1, now_ms - self._ended[0])
        return len(self._ended) * 1000 / window_ms

    def task(self, path: TaskPath) -> TaskView | None:
        """A task that is known and was not forgotten."""
        stage = self.stages.get(path.partition("/")[0].partition("[")[0])
        return stage.tasks.get(path) if stage else None

    def apply(self, event: Event) -> None:
        """Fold an event in; events that mean nothing to people are taken and ignored."""
        fold = _FOLD.get(type(event))
        if fold is not None:
            fold(self, event)

    def observe(self, path: TaskPath, attempt: int, observation: Observation) -> TaskView | None:
        """Fold an observation in; the task that it is about, or None where it is about none that is going on."""
        task = self.task(path)
        if task is None or task.over or task.attempt != attempt:
            return None
        match observation:
            case Waiting(kind="agent", what=what):
                self._wait(task, f"waits for agent {what}")
            case Waiting(what=what):
                self._wait(task, f"waits for {what}")
            case Stage(name="starting_agent"):
                self._wait(task, "starting agent")
            case Stage(name="queued"):
                self._wait(task, "queued")
            case Stage() | Log() | OutputChunk():
                self._work(task)
            case Progress():
                self._work(task)
                task.progress = observation
        return task

    def _wait(self, task: TaskView, activity: str) -> None:
        task.activity = activity
        if task.status == "running":  # an overloaded agent gave it back
            self._set(task, "queued")

    def _work(self, task: TaskView) -> None:
        if task.status == "queued":
            task.activity = "running"
            self._set(task, "running")

    def settle(self, statuses: Mapping[TaskPath, str]) -> None:
        """Take the exact statuses of the engine's state; events alone do not tell `cancelled` from `not_run`."""
        for path, status in statuses.items():
            task = self.task(path)
            if task is not None and status in ("cancelled", "failed", "skipped", "succeeded"):
                self._set(task, status)  # type: ignore[arg-type]
            elif task is not None and status == "blocked":
                self._set(task, "not_run")

    # --- runs

    def _run_created(self, event: RunCreated) -> None:
        self.run_id, self.workflow, self.version = event.run_id, event.workflow, event.version
        self.inputs, self.output_uri = event.inputs, event.output_uri
        self.created_ms = event.at_ms
        self.status = "running"

    def _run_resumed(self, event: RunResumed) -> None:
        self.resumed += 1

    def _cancel_requested(self, event: CancelRequested) -> None:
        self.cancelling = self.cancelling or event.reason or "cancelled"

    def _run_finished(self, event: RunFinished) -> None:
        self.status, self.outputs, self.failure = event.status, event.outputs, event.failure
        self.degraded, self.finished_ms = event.degraded, event.at_ms

    # --- stages

    def _add_stage(self, name: str, plan: StagePlan | None) -> StageView:
        stage = self.stages[name] = StageView(name, plan.type if plan else "")
        if plan is not None and plan.single and "main" in plan.templates:
            for task in plan.templates["main"].tasks:
                self._add_task(stage, task_path(name, "", task.name), task)
        return stage

    def _stage(self, name: str) -> StageView:
        return self.stages.get(name) or self._add_stage(name, None)

    def _stage_started(self, event: StageStarted) -> None:
        stage = self._stage(event.stage)
        stage.status, stage.started_ms = "running", event.at_ms
        self._open(stage, event.blocks)

    def _blocks_opened(self, event: BlocksOpened) -> None:
        self._open(self._stage(event.stage), event.blocks)

    def _open(self, stage: StageView, blocks: list[Block]) -> None:
        plan = self.plan.stages.get(stage.name) if self.plan else None
        for block in blocks:
            template = plan.templates.get(block.template) if plan else None
            for task in template.tasks if template else ():
                path = task_path(stage.name, block.key, task.name)
                if path not in stage.tasks:
                    self._add_task(stage, path, task)

    def _stage_skipped(self, event: StageSkipped) -> None:
        stage = self._stage(event.stage)
        stage.reason = event.reason
        self._end_stage(stage, "skipped", event.at_ms)

    def _stage_finished(self, event: StageFinished) -> None:
        stage = self._stage(event.stage)
        stage.failure = event.failure
        status: ViewStatus = "not_run" if event.status == "blocked" else event.status
        if status == "cancelled" and not stage.started_ms:
            status = "not_run"
        self._end_stage(stage, status, event.at_ms)

    def _end_stage(self, stage: StageView, status: ViewStatus, at_ms: int) -> None:
        stage.status, stage.finished_ms = status, at_ms
        for task in [t for t in stage.tasks.values() if not t.over]:
            if status == "skipped":
                self._end(task, "skipped", at_ms)
            elif not task.attempt:
                self._end(task, "not_run", at_ms)
            else:
                self._end(task, "failed" if task.failure else "cancelled", at_ms)

    # --- tasks

    def _add_task(self, stage: StageView, path: TaskPath, plan: TaskPlan | None) -> TaskView:
        task = TaskView(path, stage.name)
        if plan is not None:
            task.agent, task.action = plan.agent or "workflow", plan.action or plan.workflow or ""
            task.sub_workflow = plan.workflow is not None
        stage.tasks[path] = task
        stage.counts["pending"] = stage.counts.get("pending", 0) + 1
        self.counts["pending"] = self.counts.get("pending", 0) + 1
        return task

    def _known(self, path: TaskPath) -> TaskView:
        task = self.task(path)
        if task is not None:
            return task
        stage = self._stage(path.partition("/")[0].partition("[")[0])
        return self._add_task(stage, path, None)

    def _task_scheduled(self, event: TaskScheduled) -> None:
        task = self._known(event.task)
        task.attempt = event.attempt
        task.started_ms = task.started_ms or event.at_ms
        task.agent, task.action = event.agent or task.agent, event.action or task.action
        task.activity, task.progress, task.retry_at_ms, task.finished_ms = "", None, 0, 0
        self._set(task, "running" if task.sub_workflow else "queued")

    def _task_skipped(self, event: TaskSkipped) -> None:
        task = self._known(event.task)
        task.reason = event.reason
        self._end(task, "skipped", event.at_ms)

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        task = self._known(event.task)
        task.failure = None
        self._end(task, "succeeded", event.at_ms)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        task = self._known(event.task)
        task.progress, task.activity = None, ""
        if event.failure.code == "CANCELLED":
            self._end(task, "cancelled", event.at_ms)
        else:
            task.failure = event.failure

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        task = self._known(event.task)
        match event.decision:
            case Retry(after_ms=after_ms):
                task.retry_at_ms = event.at_ms + after_ms
                self._set(task, "retrying")
            case Complete(degraded=degraded):
                task.degraded = degraded
                self._end(task, "succeeded", event.at_ms)
            case Skip():
                task.reason = f"skipped by {event.strategy.partition(':')[2]}"
                self._end(task, "skipped", event.at_ms)
            case _:
                pass

    def _task_failed(self, event: TaskFailed) -> None:
        task = self._known(event.task)
        task.failure = event.failure
        self._end(task, "failed", event.at_ms)

    def _timer_fired(self, event: TimerFired) -> None:
        kind, _, path = event.timer.partition(":")
        task = self.task(TaskPath(path)) if kind == "retry" else None
        if task is not None and task.status == "retrying":
            task.retry_at_ms = 0
            self._set(task, "pending")

    def _end(self, task: TaskView, status: ViewStatus, at_ms: int) -> None:
        task.finished_ms = at_ms
        task.progress, task.activity, task.retry_at_ms = None, "", 0
        self._set(task, status)
        if status in ("succeeded", "failed"):
            self._ended.append(at_ms)
        stage = self.stages[task.stage]
        if status == "succeeded" and self._keep is not None and stage.total > self._keep:
            del stage.tasks[task.path]

    def _set(self, task: TaskView, status: ViewStatus) -> None:
        stage = self.stages[task.stage]
        for counts in (stage.counts, self.counts):
            counts[task.status] -= 1
            counts[status] = counts.get(status, 0) + 1
        task.status = status
        for name, going in (("queued", stage.queued), ("running", stage.running)):
            if status == name:
                going[task.path] = task
            else:
                going.pop(task.path, None)


_FOLD: dict[type, Callable[[ProgressModel, Any], None]] = {
    RunCreated: ProgressModel._run_created,
    RunResumed: ProgressModel._run_resumed,
    CancelRequested: ProgressModel._cancel_requested,
    RunFinished: ProgressModel._run_finished,
    StageStarted: ProgressModel._stage_started,
    BlocksOpened: ProgressModel._blocks_opened,
    StageSkipped: ProgressModel._stage_skipped,
    StageFinished: ProgressModel._stage_finished,
    TaskScheduled: ProgressModel._task_scheduled,
    TaskSkipped: ProgressModel._task_skipped,
    AttemptSucceeded: ProgressModel._attempt_succeeded,
    AttemptFailed: ProgressModel._attempt_failed,
    RecoveryChosen: ProgressModel._recovery_chosen,
    TaskFailed: ProgressModel._task_failed,
    TimerFired: ProgressModel._timer_fired,
}
