"""A run as plain lines with times, for pipes, files and continuous integration."""

from __future__ import annotations

from typing import IO

from noa.cli.people import Question, question_lines
from noa.cli.remarks import intervention, remark, subject
from noa.cli.text import clock_time, duration, one_line, plural
from noa.cli.watch import Watch
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    Recall,
    RecoveryChosen,
    RollbackStarted,
    RunCreated,
    RunReopened,
    RunResumed,
    SignalApplied,
    SignalRefused,
    StageFinished,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.execution import Log, Observation, OutputChunk, Progress
from noa.model.ids import TaskPath
from noa.monitoring.progress import StageView, TaskView

__all__ = ["LineWatch", "progress_text"]

_PROGRESS_EVERY_MS = 5_000
_OUTPUT_LINE = 2_000
_MANY = 100
"""In a stage with more tasks than this, single tasks are told of only when they fail."""


class LineWatch(Watch):
    """One line for each stage and task that begins or ends, and for progress at most every five seconds a task.

    A task begins when its agent does: while it waits for a resource, a slot or the agent, nothing is said of it.

    Args:
        verbose: Also every log line, output as it is made, and single tasks of large stages.
    """

    tells_questions = True

    def __init__(self, stream: IO[str], *, verbose: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._verbose = verbose
        self._told_ms: dict[str, int] = {}
        self._begun: dict[TaskPath, int] = {}
        self._waiting: set[TaskPath] = set()
        self._output: dict[TaskPath, str] = {}

    def show_event(self, event: Event) -> None:
        for text in self._lines(event):
            self.write(f"{clock_time(event.at_ms)} {text}", self._stream)

    def show_observation(self, task: TaskView, observation: Observation) -> None:
        now_ms = self.now_ms
        if task.status == "queued":
            self._waiting.add(task.path)
        elif task.status == "running":
            self._waiting.discard(task.path)
            for text in self._begin(task):
                self.write(f"{clock_time(now_ms)} {text}", self._stream)
        if isinstance(observation, Log) and (self._verbose or observation.level in ("warning", "error")):
            text = one_line(observation.message, 2_000)
            self.write(
                f"{clock_time(observation.at_ms or now_ms)} {task.path} {observation.level}: {text}", self._stream
            )
        elif isinstance(observation, OutputChunk) and self._verbose:
            self._show_output(task.path, observation.text)
        elif (
            isinstance(observation, Progress)
            and self._tells(task)
            and now_ms - self._told_ms.get(task.path, task.started_ms) >= _PROGRESS_EVERY_MS
        ):
            self._told_ms[task.path] = now_ms
            self.write(f"{clock_time(now_ms)} {task.path} {progress_text(observation)}", self._stream)

    def _show_output(self, path: TaskPath, text: str) -> None:
        """Show output by lines, however it came in pieces; a very long line is cut."""
        *lines, rest = (self._output.pop(path, "") + text).split("\n")
        if len(rest) > _OUTPUT_LINE:
            lines, rest = [*lines, rest], ""
        for line in lines:
            self.write(f"{clock_time(self.now_ms)} {path} > {one_line(line, _OUTPUT_LINE)}", self._stream)
        if rest:
            self._output[path] = rest

    def _lines(self, event: Event) -> list[str]:
        model = self.model
        match event:
            case RunCreated():
                fork = f", forked from {event.forked_from} at event {event.forked_at}" if event.forked_from else ""
                return [f"{event.workflow} started: run {event.run_id}{fork}"]
            case RunReopened():
                kept = model.counts.get("succeeded", 0) + model.counts.get("skipped", 0)
                done = f", {plural(kept, 'task')} done before" if not event.rollback else ""
                said = intervention(model.interventions[-1])
                return [f"{model.workflow} goes on: run {model.run_id}{done}; {said}"]
            case SignalApplied() | SignalRefused():
                return [intervention(model.interventions[-1])]
            case RollbackStarted():
                known = model.rollback.total - model.rollback.done if model.rollback is not None else 0
                many = f" {plural(known, 'task')}" if known else ""
                why = f": {one_line(str(event.failure), 300)}" if event.failure is not None else ""
                return [f"rolling back{many}{why}"]
            case TimerFired(timer=timer) if timer.startswith("hedge:"):
                return self._hedged(TaskPath(timer.removeprefix("hedge:")))
            case RunResumed() if model.finished_ms:
                return []  # it is about to be reopened
            case RunResumed():
                return [f"{model.workflow} goes on: run {model.run_id}, {plural(model.done, 'task')} done before"]
            case CancelRequested():
                return [f"cancelling{f': {event.reason}' if event.reason else ''}"]
            case StageStarted(stage=name):
                stage = model.stages[name]
                return [f"{name} started" + (f" ({plural(stage.total, 'task')})" if stage.total else "")]
            case StageSkipped(stage=name):
                return [f"{name} skipped: {event.reason}"]
            case StageFinished(stage=name):
                return [self._stage_end(model.stages[name])]
        task = getattr(event, "task", None)
        view = model.task(task) if task is not None else None
        # A succeeded task of a large stage is forgotten by the model; nothing is told of it then.
        return self._task_lines(event, view) if view is not None else []

    def _task_lines(self, event: Event, task: TaskView) -> list[str]:
        path, name = task.path, subject(task)
        begun = self._begun_unseen(event, task)
        if path in self._output and (task.over or isinstance(event, AttemptFailed)):
            self._show_output(path, "\n")
        if isinstance(event, AttemptFailed) or task.over:
            self._waiting.discard(path)
        if task.over:
            self._begun.pop(path, None)
        match event:
            case TaskScheduled():
                return self._begin(task) if task.sub_workflow else []
            case TaskSkipped(reason=reason):
                return [f"{name} skipped: {reason}"] if self._tells(task) else []
            case AttemptFailed(failure=failure, attempt=attempt) if task.status not in ("cancelled", "succeeded"):
                return [*begun, f"{name} attempt {attempt} failed: {one_line(str(failure), 500)}"]
            case AttemptFailed() if task.status == "succeeded":
                return []  # the slower of two, which was told to end
            case RecoveryChosen() if task.status == "retrying":
                return [f"{name} is tried again in {duration(max(0, task.retry_at_ms - event.at_ms))}"]
            case RecoveryChosen(decision=Substitute()):
                return [f"{name} falls back to {task.fallback or 'another try'}"]
            case RecoveryChosen(decision=Recall()):
                return [f"{name} looks for outputs of earlier runs"]
            case TaskFailed():
                return [f"{name} failed in {duration(task.duration_ms(event.at_ms))}"]
            case RecoveryChosen() if task.status == "failed":
                return [f"{name} failed in {duration(task.duration_ms(event.at_ms))}"]
        if task.over and (self._tells(task) or task.degraded):
            undone = task.undoes and task.status == "succeeded"
            why = remark(task, event.at_ms) if task.remarkable else ""
            took = duration(task.duration_ms(event.at_ms))
            return [
                *begun,
                f"{f'{task.undoes} undone' if undone else f'{name} {task.status}'} in {took}"
                + (f" ({why})" if why else ""),
            ]
        return self._stage_progress(task, event.at_ms)

    def tell(self, text: str) -> None:
        self.write(f"{clock_time(self.now_ms)} {text}", self._stream)

    def _hedged(self, path: TaskPath) -> list[str]:
        task = self.model.task(path)
        if task is None or not task.hedge or not self._tells(task):
            return []
        return [f"{path} takes long: attempt {task.hedge} begins beside it"]

    def asked(self, questions: list[Question]) -> None:
        """Say once of each question that it is asked, and how it is answered."""
        known, self._asked = {question.asks for question in self._asked}, questions
        for question in questions:
            if question.asks not in known:
                first, *rest = question_lines(question, question.since_ms, "")
                first = first.replace(f" since {duration(0)}", "", 1)
                self.write(f"{clock_time(question.since_ms)} {first}", self._stream)
                for line in rest:
                    self.write(f"{' ' * 9}{line}", self._stream)

    def _begin(self, task: TaskView) -> list[str]:
        """Say once of each attempt that it begins."""
        if self._begun.get(task.path) == task.attempt or not self._tells(task):
            return []
        self._begun[task.path] = task.attempt
        again = f" (attempt {task.attempt})" if task.attempt > 1 else ""
        on = f" on {task.agent}" if task.agent else ""
        return [f"{subject(task)} started{on}{again}"]

    def _begun_unseen(self, event: Event, task: TaskView) -> list[str]:
        """An attempt that ended without anything seen of it had begun; one that was last seen waiting had not."""
        match event:
            case AttemptSucceeded():
                return self._begin(task)
            case AttemptFailed() if task.status != "cancelled" and task.path not in self._waiting:
                return self._begin(task)
        return []

    def _stage_progress(self, task: TaskView, at_ms: int) -> list[str]:
        stage = self.model.stages.get(task.stage) if not task.undoes else self.model.rollback
        if (
            stage is None
            or at_ms - self._told_ms.get(stage.name, stage.started_ms) < _PROGRESS_EVERY_MS
            or not task.over
        ):
            return []
        self._told_ms[stage.name] = at_ms
        return [f"{stage.name} {stage.done:,} of {stage.total:,} tasks, {self.model.rate(at_ms):.0f}/s"]

    def _tells(self, task: TaskView) -> bool:
        stage = self.model.rollback if task.undoes else self.model.stages[task.stage]
        return self._verbose or stage is None or stage.total <= _MANY

    def _stage_end(self, stage: StageView) -> str:
        if stage.status == "not_run":
            return f"{stage.name} not run"
        why = f": {one_line(str(stage.failure), 500)}" if stage.failure else ""
        return f"{stage.name} {stage.status} in {duration(stage.duration_ms(stage.finished_ms))}{why}"


def progress_text(progress: Progress) -> str:
    """`40 % (400 of 1,000 files) hashing`."""
    parts = []
    fraction = progress.fraction
    if fraction is None and progress.done is not None and progress.total:
        fraction = progress.done / progress.total
    if fraction is not None:
        parts.append(f"{min(1.0, max(0.0, fraction)) * 100:.0f} %")
    if progress.done is not None:
        of = f" of {progress.total:,}" if progress.total is not None else ""
        text = f"{progress.done:,}{of} {progress.unit}".strip()
        parts.append(f"({text})" if parts else text)
    if progress.message:
        parts.append(one_line(progress.message, 200))
    return " ".join(parts) or "is working"
