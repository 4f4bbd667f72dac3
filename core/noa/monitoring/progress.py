"""A run as people watch it: folds events and observations into stages and tasks. Pure; draws nothing.

Works with or without the plan: without it, tasks appear when they begin, and agents are named only where events do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from noa.model.events import (
    ANSWERS,
    AttemptFailed,
    AttemptSucceeded,
    Block,
    BlocksOpened,
    CancelRequested,
    Complete,
    Event,
    Fail,
    Hold,
    HoldResolved,
    Recall,
    Recalled,
    RecoveryChosen,
    Retry,
    Rollback,
    RollbackStarted,
    RunCreated,
    RunFinished,
    RunReopened,
    RunResumed,
    SignalApplied,
    SignalRefused,
    Skip,
    StageFinished,
    StageHeld,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.execution import Log, Observation, OutputChunk, Progress, Stage, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath, compensation_path, task_path
from noa.model.plan import Plan, StagePlan, TaskPlan
from noa.monitoring.views import OVER, Held, StageView, TaskView, ViewStatus

__all__ = ["Held", "Intervention", "ProgressModel", "StageView", "TaskView", "ViewStatus"]

_RATE_WINDOW_MS = 10_000
_OTHER_INPUTS = "other inputs"
_GIVEN = "outputs given"
_ENDS_TASK = frozenset({"answer", "skip", "override", "reject"})
_UNDO = compensation_path(TaskPath(""))


@dataclass(frozen=True, slots=True)
class Intervention:
    """What somebody outside did about the run.

    Attributes:
        what: In words, such as "answered 'skip'".
        task: Which it is about; empty for the run.
        refused: Why it was not done; empty where it was.
    """

    at_ms: int
    what: str
    actor: str = ""
    reason: str = ""
    task: str = ""
    refused: str = ""


class ProgressModel:
    """The view of one run. Fold events with `apply` and observations with `observe`; read the rest.

    Attributes:
        rollback: What undoes the run, as a stage of its own: its tasks count nowhere else. None before it begins.
        left: Tasks that a rollback could not undo.
        interventions: What people did about the run, oldest first.
        mode: Mode of execution now.
        paused: Who paused the run, else empty.

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
        self.mode = ""
        self.paused = ""
        self.created_ms = 0
        self.finished_ms = 0
        self.resumed = 0
        self.key = ""
        self.forked_from = ""
        self.forked_at = 0
        self.rollback: StageView | None = None
        self.left: list[TaskPath] = []
        self.interventions: list[Intervention] = []
        self.stages: dict[str, StageView] = {}
        self.counts: dict[str, int] = {}
        self._keep = keep
        self._now_ms = 0
        self._begun = False
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
        return sum(count for status, count in self.counts.items() if status in OVER)

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

    @property
    def phase(self) -> str:
        """The run's status, or what it is about to become, such as "rolling back" or "waiting for a person".

        A run is "pausing" while tasks go on that began before it was paused, then "paused".
        """
        if self.finished_ms or not self.created_ms:
            return self.status
        if self.rollback is not None:
            return "rolling back"
        if self.cancelling:
            return "cancelling"
        going = sum(self.counts.get(status, 0) for status in ("queued", "running", "retrying"))
        if self.paused:
            return "paused" if not going else "pausing"
        held = self.counts.get("held") or any(stage.status == "held" for stage in self.stages.values())
        return "waiting for a person" if held and not going else self.status

    def task(self, path: TaskPath) -> TaskView | None:
        """A task that is known and was not forgotten."""
        if path.endswith(_UNDO):
            return self.rollback.tasks.get(path) if self.rollback else None
        stage = self.stages.get(path.partition("/")[0].partition("[")[0])
        return stage.tasks.get(path) if stage else None

    def iter_tasks(self) -> Iterator[TaskView]:
        """Every task that is known and was not forgotten; those that undo come last."""
        for stage in self.stages.values():
            yield from stage.tasks.values()
        if self.rollback is not None:
            yield from self.rollback.tasks.values()

    def apply(self, event: Event) -> None:
        """Fold an event in; events that mean nothing to people are taken and ignored."""
        fold = _FOLD.get(type(event))
        if fold is not None:
            self._now_ms = event.at_ms
            fold(self, event)

    def observe(self, path: TaskPath, attempt: int, observation: Observation) -> TaskView | None:
        """Fold an observation in; the task that it is about, or None where it is about none that is going on."""
        task = self.task(path)
        if task is None or task.over or attempt not in (task.attempt, task.hedge):
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
        """Take the exact statuses of the engine's state.

        Events alone do not tell `cancelled` from `not_run`, nor which tasks a reopened run does again.
        """
        for path, status in statuses.items():
            task = self.task(path)
            if task is None:
                continue
            if status in OVER:
                self._set(task, status)  # type: ignore[arg-type]
            elif status == "blocked":
                self._set(task, "not_run")
            elif task.over:
                self._renew(task)

    # --- runs

    def _run_created(self, event: RunCreated) -> None:
        self.run_id, self.workflow, self.version = event.run_id, event.workflow, event.version
        self.inputs, self.output_uri = event.inputs, event.output_uri
        self.created_ms = event.at_ms
        self.mode = event.mode
        self.key, self.forked_from, self.forked_at = event.key, event.forked_from, event.forked_at
        self.status = "running"

    def _run_resumed(self, event: RunResumed) -> None:
        if self.forked_from and not self._begun:
            self.created_ms = event.at_ms  # what it shares happened to another run
        else:
            self.resumed += 1
        self._begun = True

    def _cancel_requested(self, event: CancelRequested) -> None:
        self.cancelling = self.cancelling or event.reason or "cancelled"
        self.interventions.append(Intervention(event.at_ms, "cancelled the run", event.actor, event.reason))

    def _run_finished(self, event: RunFinished) -> None:
        self.status, self.outputs, self.failure = event.status, event.outputs, event.failure
        self.degraded, self.finished_ms, self.left = event.degraded, event.at_ms, event.left
        if self.rollback is not None:
            ended: ViewStatus = "succeeded" if event.status == "rolled_back" else "failed"
            self._end_stage(self.rollback, ended, event.at_ms)

    def _run_reopened(self, event: RunReopened) -> None:
        what = "had the run rolled back" if event.rollback else "had the run tried again"
        if event.rollback and self.rollback is not None:
            what = "had the rollback go on"
        what += f" from {event.from_task}" if event.from_task else ""
        self.interventions.append(Intervention(event.at_ms, what, event.actor, event.reason, event.from_task))
        self.status, self.finished_ms, self.cancelling = "running", 0, ""
        self.outputs, self.failure, self.left = {}, None, []
        if self.rollback is not None:
            self.rollback.status, self.rollback.finished_ms = "running", 0
            self._renew_failed(self.rollback)
        elif not event.rollback:
            self._reopen_stages(event.from_task)

    def _reopen_stages(self, from_task: TaskPath) -> None:
        """What did not succeed is done again, with the stages behind it. `settle` corrects what only the core knows."""
        again = self.task(from_task)
        if again is not None:
            self._renew(again)
        first = [s.name for s in self.stages.values() if s.status not in ("succeeded", "skipped")]
        behind = self._stages_behind([*first, *([again.stage] if again else [])])
        for stage in self.stages.values():
            if stage.name in behind:
                stage.status, stage.started_ms, stage.reason = "pending", 0, ""
                for task in stage.tasks.values():
                    self._renew(task)
            elif stage.name in first or (again is not None and again.stage == stage.name):
                stage.status = "running" if stage.started_ms else "pending"
                self._renew_failed(stage)
            else:
                continue
            stage.finished_ms, stage.failure = 0, None

    def _stages_behind(self, names: list[str]) -> set[str]:
        """Stages that depend on these, however far."""
        found: set[str] = set()
        plans = self.plan.stages if self.plan else {}
        todo = list(names)
        while todo:
            plan = plans.get(todo.pop())
            for name in plan.dependents if plan is not None else ():
                if name not in found:
                    found.add(name)
                    todo.append(name)
        return found

    def _renew_failed(self, stage: StageView) -> None:
        for task in stage.tasks.values():
            if task.status in ("failed", "cancelled", "not_run"):
                self._renew(task)

    def _renew(self, task: TaskView) -> None:
        """Show a task as one that has not begun; its attempts are counted on."""
        task.started_ms = task.finished_ms = task.taken_made_ms = 0
        task.failure, task.degraded = None, False
        task.reason = task.fallback = task.taken_from = ""
        self._set(task, "pending")

    # --- rollback

    def _rollback_started(self, event: RollbackStarted) -> None:
        if self.rollback is None:
            self.rollback = StageView("rollback")
            for stage in self.stages.values():
                for task in stage.tasks.values():
                    if _is_undone(task):
                        self._add_undo(self.rollback, compensation_path(task.path))
        self.rollback.status, self.rollback.finished_ms = "running", 0
        self.rollback.started_ms = self.rollback.started_ms or event.at_ms
        self.rollback.failure = event.failure or self.rollback.failure

    def _add_undo(self, rollback: StageView, path: TaskPath) -> TaskView:
        undone = TaskPath(path.removesuffix(_UNDO))
        task = self._add(rollback, TaskView(path, rollback.name, undoes=undone))
        of = self.task(undone)
        if of is not None:
            task.agent = task.planned_agent = of.undo_agent
            task.action = task.planned_action = of.undo_action
            task.sub_workflow = of.undo_agent == "workflow"
        return task

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
        stage.status, stage.started_ms, stage.reason = "running", event.at_ms, ""
        self._open(stage, event.blocks)

    def _stage_held(self, event: StageHeld) -> None:
        stage = self._stage(event.stage)
        stage.status, stage.reason = "held", event.hold.question

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
            task.agent = task.planned_agent = plan.agent or "workflow"
            task.action = task.planned_action = plan.action or plan.workflow or ""
            task.sub_workflow = plan.workflow is not None
            if plan.compensate is not None:
                task.undo_agent, task.undo_action = plan.compensate.agent, plan.compensate.action
                task.undo_after = plan.compensate_after
            elif task.sub_workflow:
                task.undo_agent, task.undo_action = "workflow", plan.workflow or ""
        return self._add(stage, task)

    def _add(self, stage: StageView, task: TaskView) -> TaskView:
        stage.tasks[task.path] = task
        for counts in self._counts_of(task):
            counts["pending"] = counts.get("pending", 0) + 1
        return task

    def _known(self, path: TaskPath) -> TaskView:
        task = self.task(path)
        if task is not None:
            return task
        if path.endswith(_UNDO):
            self.rollback = self.rollback or StageView("rollback", status="running", started_ms=self._now_ms)
            return self._add_undo(self.rollback, path)
        stage = self._stage(path.partition("/")[0].partition("[")[0])
        return self._add_task(stage, path, None)

    def _task_scheduled(self, event: TaskScheduled) -> None:
        task = self._known(event.task)
        task.attempt = event.attempt
        task.started_ms = task.started_ms or event.at_ms
        self._fall_back(task, event.agent, event.action)
        task.activity, task.progress, task.retry_at_ms, task.finished_ms, task.hedge = "", None, 0, 0, 0
        if event.cache_key:
            task.activity = "looks for kept outputs"
        self._set(task, "running" if task.sub_workflow else "queued")

    def _fall_back(self, task: TaskView, agent: str, action: str) -> None:
        """Note who is asked, and whether that is another one than the plan says; empty is what the plan says."""
        agent, action = agent or task.planned_agent, action or task.planned_action
        changes = []
        if task.planned_agent and agent != task.planned_agent:
            changes.append(f"agent '{agent}' instead of '{task.planned_agent}'")
        if task.planned_action and action != task.planned_action:
            changes.append(f"action '{action}' instead of '{task.planned_action}'")
        task.fallback = ", ".join(changes) or ("" if task.fallback != _OTHER_INPUTS else task.fallback)
        task.agent, task.action = agent or task.agent, action or task.action

    def _task_skipped(self, event: TaskSkipped) -> None:
        task = self._known(event.task)
        task.reason = event.reason
        self._end(task, "skipped", event.at_ms)

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        task = self._known(event.task)
        task.failure = None
        if task.hedge == event.attempt:
            task.reason = "the second attempt beside the first was faster"
        self._end(task, "succeeded", event.at_ms)

    def _attempt_failed(self, event: AttemptFailed) -> None:
        task = self._known(event.task)
        if task.over:
            return  # the slower of two, which was told to end
        if task.hedge and event.attempt in (task.attempt, task.hedge):
            task.attempt = task.hedge if event.attempt == task.attempt else task.attempt  # the other one goes on
            task.hedge = 0
            return
        task.progress, task.activity = None, ""
        if event.failure.code == "CANCELLED":
            self._end(task, "cancelled", event.at_ms)
        else:
            task.failure = event.failure

    def _recalled(self, event: Recalled) -> None:
        task = self._known(event.task)
        task.activity = ""
        if event.found:
            task.taken_from, task.taken_made_ms = event.run, event.made_at_ms
            task.degraded = bool(task.reason)  # a strategy asked; a cache did not have to
            self._end(task, "succeeded", event.at_ms)
        else:
            task.reason = ""

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        task = self._known(event.task)
        name = event.strategy.partition(":")[2] or event.strategy
        why = f" after {task.failure}" if task.failure else ""
        match event.decision:
            case Retry(after_ms=after_ms):
                task.retry_at_ms = event.at_ms + after_ms
                self._set(task, "retrying")
            case Substitute(agent=agent, action=action, inputs=inputs):
                self._fall_back(task, agent or "", action or "")
                if not task.fallback and inputs is not None:
                    task.fallback = _OTHER_INPUTS
            case Recall():
                task.reason = f"degraded by {name}{why}"
                task.activity = "looks for kept outputs"
            case Complete(degraded=degraded):
                task.degraded = degraded
                task.reason = f"{'degraded' if degraded else 'completed'} by {name}{why}"
                self._end(task, "succeeded", event.at_ms)
            case Skip():
                task.reason = f"skipped by {name}"
                self._end(task, "skipped", event.at_ms)
            case Fail(code=code, message=message):
                if task.failure is not None and (code or message):
                    task.failure = Failure(
                        code or task.failure.code, message or task.failure.message, cause=task.failure
                    )
                self._end(task, "failed", event.at_ms)
            case Rollback():
                self._end(task, "failed", event.at_ms)
            case Hold() as hold:
                self._hold(task, hold, event.at_ms)

    def _task_held(self, event: TaskHeld) -> None:
        self._hold(self._known(event.task), event.hold, event.at_ms)

    def _hold(self, task: TaskView, hold: Hold, at_ms: int) -> None:
        due_ms = 0 if hold.timeout_ms is None else at_ms + hold.timeout_ms
        self._set(task, "held")
        default = hold.on_timeout if due_ms else ""
        task.held = Held(hold.question, tuple(hold.choices or ANSWERS), at_ms, default, due_ms)

    def _task_failed(self, event: TaskFailed) -> None:
        task = self._known(event.task)
        task.failure = event.failure
        self._end(task, "failed", event.at_ms)

    def _timer_fired(self, event: TimerFired) -> None:
        kind, _, path = event.timer.partition(":")
        task = self.task(TaskPath(path))
        if task is None or task.over:
            return
        if kind == "retry" and task.status == "retrying":
            task.retry_at_ms = 0
            self._set(task, "pending")
        elif kind == "hedge":
            task.hedge = task.attempt + 1
        elif kind == "hold" and task.held is not None:
            self._answer(task, task.held.default, "", "nobody answered in time", event.at_ms)

    # --- people

    def _signal_applied(self, event: SignalApplied) -> None:
        choice = str(event.body.get("choice", ""))
        self.interventions.append(Intervention(event.at_ms, _in_words(event), event.actor, event.reason, event.task))
        if event.kind in ("pause", "unpause"):
            self.paused = (event.actor or "somebody") if event.kind == "pause" else ""
        elif event.kind == "mode":
            self.mode = str(event.body.get("mode", ""))
        task = self.task(event.task)
        if task is not None and event.kind in _ENDS_TASK:
            self._answer(task, choice or event.kind, event.actor or "somebody", event.reason, event.at_ms)

    def _hold_resolved(self, event: HoldResolved) -> None:
        task = self.task(TaskPath(event.subject))
        if task is not None:
            who = "" if event.by.startswith("nobody") else event.by
            self._answer(task, event.answer, who, event.reason or ("" if who else event.by), event.at_ms)

    def _signal_refused(self, event: SignalRefused) -> None:
        what = f"said '{event.kind}'"
        self.interventions.append(Intervention(event.at_ms, what, event.actor, "", event.task, event.why))

    def _answer(self, task: TaskView, choice: str, who: str, why: str, at_ms: int) -> None:
        """Apply an answer; `who` is empty where the time for one was over."""
        if task.over:
            return
        by = (f" by {who}" if who else "") + (f": {why}" if why else "")
        match choice:
            case "skip":
                task.reason = f"skipped{by}"
                self._end(task, "skipped", at_ms)
            case "override":
                task.reason = f"{_GIVEN}{by}"
                self._end(task, "succeeded", at_ms)
            case "fail" | "rollback" | "reject":
                task.reason = f"'{choice}' was answered{by}" if who else why
                self._end(task, "failed", at_ms)
            case "approve" | "escalate":
                pass  # others have to answer, too; it is scheduled where that was the last one
            case _:
                self._set(task, "pending")

    # --- statuses

    def _end(self, task: TaskView, status: ViewStatus, at_ms: int) -> None:
        task.finished_ms = at_ms
        task.progress, task.activity, task.retry_at_ms, task.hedge = None, "", 0, 0
        self._set(task, status)
        if task.undoes:
            return
        if status in ("succeeded", "failed"):
            self._ended.append(at_ms)
        stage = self.stages[task.stage]
        if status == "succeeded" and self._keep is not None and stage.total > self._keep and not task.remarkable:
            del stage.tasks[task.path]

    def _set(self, task: TaskView, status: ViewStatus) -> None:
        for counts in self._counts_of(task):
            counts[task.status] -= 1
            counts[status] = counts.get(status, 0) + 1
        if status != "held":
            task.held = None
        task.status, task.since_ms = status, self._now_ms
        stage = self._home(task)
        for name, going in (("queued", stage.queued), ("running", stage.running), ("held", stage.held)):
            if status == name:
                going[task.path] = task
            else:
                going.pop(task.path, None)

    def _home(self, task: TaskView) -> StageView:
        if not task.undoes:
            return self.stages[task.stage]
        assert self.rollback is not None, "a task that undoes is made with it"
        return self.rollback

    def _counts_of(self, task: TaskView) -> tuple[dict[str, int], ...]:
        """What counts a task: its stage, and the run where it is not part of the rollback."""
        home = self._home(task).counts
        return (home,) if task.undoes else (home, self.counts)


def _in_words(event: SignalApplied) -> str:
    """What somebody did, in words; with the task in it, where there is one."""
    task, body = event.task, event.body
    match event.kind:
        case "answer":
            return f"answered '{body.get('choice', '')}'"
        case "approve" | "reject" | "skip":
            past = {"approve": "approved", "reject": "rejected", "skip": "skipped"}[event.kind]
            return f"{past} {task}"
        case "override":
            return f"gave the outputs of {task}"
        case "edit":
            return f"changed {', '.join(body.get('inputs', {}))} of {task}"
        case "reassign":
            return f"gave {task} to agent '{body.get('agent', '')}'"
        case "cancel":
            return f"cancelled {task}"
        case "retry":
            return f"had {task} tried again"
        case "pause":
            return "paused the run"
        case "unpause":
            return "let the run go on"
        case "mode":
            return f"changed the mode to '{body.get('mode', '')}'"
    return f"said '{event.kind}'"


def _is_undone(task: TaskView) -> bool:
    """Whether a rollback undoes a task, as far as can be seen."""
    if not task.undo_after:
        return False
    if task.status == "succeeded":
        return not (task.degraded or task.taken_from or task.reason.startswith(_GIVEN))
    return task.undo_after == "attempt" and task.attempt > 0


_FOLD: dict[type, Callable[[ProgressModel, Any], None]] = {
    RunCreated: ProgressModel._run_created,
    RunResumed: ProgressModel._run_resumed,
    CancelRequested: ProgressModel._cancel_requested,
    RunFinished: ProgressModel._run_finished,
    RunReopened: ProgressModel._run_reopened,
    RollbackStarted: ProgressModel._rollback_started,
    HoldResolved: ProgressModel._hold_resolved,
    SignalApplied: ProgressModel._signal_applied,
    SignalRefused: ProgressModel._signal_refused,
    StageStarted: ProgressModel._stage_started,
    BlocksOpened: ProgressModel._blocks_opened,
    StageHeld: ProgressModel._stage_held,
    StageSkipped: ProgressModel._stage_skipped,
    StageFinished: ProgressModel._stage_finished,
    TaskScheduled: ProgressModel._task_scheduled,
    TaskSkipped: ProgressModel._task_skipped,
    AttemptSucceeded: ProgressModel._attempt_succeeded,
    AttemptFailed: ProgressModel._attempt_failed,
    Recalled: ProgressModel._recalled,
    RecoveryChosen: ProgressModel._recovery_chosen,
    TaskFailed: ProgressModel._task_failed,
    TaskHeld: ProgressModel._task_held,
    TimerFired: ProgressModel._timer_fired,
}
