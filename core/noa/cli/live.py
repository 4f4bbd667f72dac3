"""A run on a terminal, drawn ten times a second: header, stages, tasks, rate. The only module that imports rich."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import IO, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from noa.cli.lines import progress_text
from noa.cli.people import Question, question_lines
from noa.cli.remarks import intervention, remark
from noa.cli.text import clock_time, duration, one_line
from noa.cli.watch import Watch
from noa.model.events import AttemptFailed, Event, SignalApplied, SignalRefused
from noa.model.execution import Log, Observation, Progress
from noa.monitoring.progress import ProgressModel, StageView, TaskView

__all__ = ["LiveWatch", "draw"]

_EVERY_S = 0.1
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_MARKS = {
    "pending": ("·", "dim"),
    "queued": ("…", "yellow"),
    "retrying": ("↻", "yellow"),
    "held": ("?", "bold yellow"),
    "succeeded": ("✓", "green"),
    "skipped": ("-", "dim"),
    "not_run": ("-", "dim"),
    "failed": ("✗", "bold red"),
    "cancelled": ("■", "yellow"),
    "rolled_back": ("↶", "yellow"),
}
_BAR = 20
_ASKED = 3


class LiveWatch(Watch):
    """Draws the run. With `verbose`, log lines scroll by above the drawing; without, warnings and errors do."""

    def __init__(self, stream: IO[str], *, verbose: bool = False) -> None:
        super().__init__()
        self._console = Console(file=stream)
        self._verbose = verbose
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
                          vertical_overflow="crop")  # fmt: skip
        self._refresher: asyncio.Task[None] | None = None
        self._note = ""
        self._questions: list[Question] = []

    async def __aenter__(self) -> Self:
        self._live.start()
        self._refresher = asyncio.get_running_loop().create_task(self._refresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.gather(self._refresher, return_exceptions=True)
        if self.model.finished_ms:
            self._note, self._questions = "", []
        self._draw()
        self._live.stop()

    def show_event(self, event: Event) -> None:
        if isinstance(event, AttemptFailed) and event.failure.code != "CANCELLED":
            self._above(event.at_ms, event.task, f"attempt {event.attempt} failed: {event.failure}", "red")
        elif isinstance(event, SignalApplied | SignalRefused):
            self._above(event.at_ms, "", intervention(self.model.interventions[-1]), "yellow")

    def show_observation(self, task: TaskView, observation: Observation) -> None:
        if isinstance(observation, Log) and (self._verbose or observation.level in ("warning", "error")):
            color = {"warning": "yellow", "error": "red"}.get(observation.level, "dim")
            self._above(observation.at_ms or self.now_ms, task.path, observation.message, color)

    def say(self, text: str) -> None:
        self._note = text

    def tell(self, text: str) -> None:
        self._above(self.now_ms, "", text, "dim")

    def asked(self, questions: list[Question]) -> None:
        self._questions = questions

    def _above(self, at_ms: int, subject: str, text: str, color: str) -> None:
        line = Text(f"{clock_time(at_ms)} {subject} " if subject else f"{clock_time(at_ms)} ", "dim")
        line.append(one_line(text, 2_000), color)
        self._console.print(line)

    async def _refresh(self) -> None:
        while True:
            self._draw()
            await asyncio.sleep(_EVERY_S)

    def _draw(self) -> None:
        width, height = self._console.size
        asked = self._hints()[: max(0, height // 2)]
        lines = [*draw(self.model, self.now_ms, width=width, height=height - 1 - len(asked)), *asked]
        if self._note:
            lines.append(Text(self._note, "yellow", no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*lines), refresh=True)

    def _hints(self) -> list[Text]:
        """What people are asked, and how each answers; at most three questions."""
        lines: list[Text] = []
        for question in self._questions[:_ASKED]:
            lines += [Text(text, "yellow", overflow="fold") for text in question_lines(question, self.now_ms, "")]
        if len(self._questions) > _ASKED:
            lines.append(Text(f"and {len(self._questions) - _ASKED:,} more: noa why {self.model.run_id}", "yellow"))
        return [Text(""), *lines] if lines else []


def draw(model: ProgressModel, now_ms: int, *, width: int, height: int) -> list[Text]:
    """The run as at most `height` lines of at most `width` cells.

    Every stage with all its tasks where that fits; else a line for each stage, with those tasks that run or failed
    filling what room is left; where even the stages do not fit, those that are over are summed up.
    """
    room = max(4, height - 2)
    stages = [*model.stages.values(), *([model.rollback] if model.rollback is not None else [])]
    lines = [_header(model, now_ms, width), Text("")]
    if sum(1 + len(s.tasks) for s in stages) <= room and all(s.total == len(s.tasks) for s in stages):
        for stage in stages:
            lines.append(_stage_line(stage, now_ms, width))
            lines += [_task_line(t, now_ms, width) for t in stage.tasks.values()]
        return lines
    shown = stages
    if len(stages) > room:
        active = [s for s in stages if s.status in ("running", "failed") or s is model.rollback]
        rest = [s for s in stages if s.status == "pending" and s is not model.rollback]
        shown = (active + rest)[: room - 1]
        lines.append(Text(f"  … {len(stages) - len(shown)} more stages", "dim"))
    left = max(0, room - len(shown) - (len(shown) < len(stages)))
    share = left // max(1, sum(1 for s in shown if s.running or s.queued or s.held or s.counts.get("failed")))
    for stage in shown:
        lines.append(_stage_line(stage, now_ms, width, bar=True))
        lines += [_task_line(t, now_ms, width) for t in _worth_showing(stage, share)]
    return lines


def _worth_showing(stage: StageView, most: int) -> list[TaskView]:
    if most <= 0:
        return []
    found = []
    if stage.counts.get("failed"):
        for task in stage.tasks.values():
            if task.status == "failed":
                found.append(task)
                if len(found) * 2 >= most:
                    break
    for task in chain(stage.held.values(), stage.running.values(), stage.queued.values()):
        if len(found) >= most:
            break
        found.append(task)
    return found


def _header(model: ProgressModel, now_ms: int, width: int) -> Text:
    line = _line()
    if model.finished_ms:
        mark, color = _MARKS.get("succeeded" if model.status == "succeeded" else model.status, ("✗", "bold red"))
    else:
        mark, color = _spin(now_ms), "cyan"
    line.append(f"{mark} ", color)
    line.append(model.workflow, "bold")
    line.append(f"  {model.phase.replace('_', ' ')}", color)
    if model.degraded:
        line.append("  degraded", "yellow")
    line.append(f"  {duration(model.duration_ms(now_ms))}")
    line.append(f"  {model.done:,}/{model.total:,} tasks")
    failed = model.counts.get("failed", 0)
    if failed:
        line.append(f"  {failed:,} failed", "red")
    rate = model.rate(now_ms)
    shown = (f"  {rate:,.1f}/s" if rate < 100 else f"  {rate:,.0f}/s") if rate >= 0.05 else ""
    run = f"  {model.run_id}"
    if line.cell_len + len(shown) + len(run) <= width:  # the id is what one types elsewhere, so the rate goes first
        line.append(shown, "dim")
    line.append(run, "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _stage_line(stage: StageView, now_ms: int, width: int, *, bar: bool = False) -> Text:
    line = _line()
    line.append(*_mark(stage.status, now_ms))
    line.append(f" {stage.name}", "bold" if stage.status == "running" else "dim" if stage.status == "pending" else "")
    if stage.type and width >= 60:
        line.append(f"  {stage.type}", "dim")
    if bar and stage.total and stage.status != "pending" and width >= 60:
        line.append("  ")
        line.append_text(_bar(stage.done / stage.total))
    if stage.total and (bar or stage.status not in ("pending", "not_run")):
        line.append(f"  {stage.done:,}/{stage.total:,}", "dim")
    if bar and (running := len(stage.running)):
        line.append(f"  {running:,} running", "cyan")
    if bar and (queued := len(stage.queued)):
        line.append(f"  {queued:,} queued", "yellow")
    if bar and (held := len(stage.held)):
        line.append(f"  {held:,} held", "yellow")
    if failed := stage.counts.get("failed", 0):
        line.append(f"  {failed:,} failed", "red")
    if stage.started_ms:
        line.append(f"  {duration(stage.duration_ms(now_ms))}", "dim")
    elif stage.reason:
        line.append(f"  {one_line(stage.reason)}", "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _task_line(task: TaskView, now_ms: int, width: int) -> Text:
    line = _line("   ")
    line.append(*_mark(task.status, now_ms))
    name = task.path.partition("/")[2] if "[" not in task.path else task.path
    name = task.undoes or name
    line.append(f" {name}", "dim" if task.status in ("pending", "not_run", "skipped") else "")
    if task.agent and width >= 60:
        line.append(f"  {task.agent}", "dim")
    if task.attempt > 1:
        line.append(f"  attempt {task.attempt}", "yellow")
    if task.started_ms:
        line.append(f"  {duration(task.duration_ms(now_ms))}", "dim")
    if task.status == "queued":
        waits = f": {task.activity}" if task.activity not in ("", "queued") else ""
        line.append(f"  queued{waits}", "yellow")
    elif task.status == "running":
        _append_progress(line, task, width)
    if said := remark(task, now_ms):
        line.append(f"  {said}", _color(task))
    line.truncate(width, overflow="ellipsis")
    return line


def _color(task: TaskView) -> str:
    if task.status == "failed":
        return "red"
    return "yellow" if task.degraded or task.status in ("held", "retrying") else "dim"


def _append_progress(line: Text, task: TaskView, width: int) -> None:
    progress: Progress | None = task.progress
    if progress is None:
        return
    fraction = progress.fraction
    if fraction is None and progress.done is not None and progress.total:
        fraction = progress.done / progress.total
    if fraction is not None and width >= 60:
        line.append("  ")
        line.append_text(_bar(fraction))
    line.append(f"  {progress_text(progress)}", "dim")


def _bar(fraction: float) -> Text:
    filled = round(min(1.0, max(0.0, fraction)) * _BAR)
    bar = Text("━" * filled, "green" if filled == _BAR else "cyan")
    bar.append("━" * (_BAR - filled), "bright_black")
    return bar


def _mark(status: str, now_ms: int) -> tuple[str, str]:
    return (_spin(now_ms), "cyan") if status == "running" else _MARKS[status]


def _spin(now_ms: int) -> str:
    return _SPINNER[now_ms // 100 % len(_SPINNER)]


def _line(text: str = "") -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
