"""What the terminal debugger shows: stops, stacks, source lines, events, observations. Text only."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from noa.cli.command import style
from noa.cli.lines import progress_text
from noa.cli.text import clock_time, columns, duration, one_line
from noa.engine.debugging import Breakpoint
from noa.engine.nodes import StageNode, TaskNode
from noa.engine.state import RunState
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    Hold,
    RunFinished,
    SignalApplied,
    StageHeld,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
)
from noa.model.execution import Log, Observation, OutputChunk, Progress
from noa.model.plan import Plan
from noa.modes.places import at_line, places
from noa.modes.replay import said

__all__ = [
    "breakpoint_lines",
    "event_line",
    "happened",
    "observation_lines",
    "source_lines",
    "stack_lines",
    "stopped_by",
    "task_lines",
    "value_text",
]

_AROUND = 5


def value_text(value: Any, width: int = 100) -> str:
    """A value as JSON: on one line where it fits."""
    short = json.dumps(value, ensure_ascii=False, default=str)
    return short if len(short) <= width else json.dumps(value, ensure_ascii=False, default=str, indent=2)


def stopped_by(hold: Hold) -> str:
    """What holds, in a few words."""
    point = str(hold.show.get("breakpoint", ""))
    match hold.kind:
        case "step":
            return "step"
        case "breakpoint":
            return "interrupted" if point == "interrupt" else f"breakpoint {point}" if len(point) < 20 else "until"
        case "failure":
            return f"it failed, breakpoint {point}"
        case "approval" | "policy":
            return f"waits for an approval: {one_line(hold.question)}"
    return f"a person is asked: {one_line(hold.question)}"


# --- the definition --------------------------------------------------------------------------------------------------


def source_lines(plan: Plan, first: int, last: int, *, current: int = 0, points: tuple[str, ...] = ()) -> list[str]:
    """Numbered lines of the definition, first to last; the current one is marked with `→`, breakpoints with `●`."""
    text = plan.source.splitlines()
    marked = {place.line for place in places(plan) if place.name in points or place.stage in points}
    width = len(str(last))
    lines = []
    for number in range(max(1, first), min(last, len(text)) + 1):
        mark = style("→", "yellow") if number == current else " "
        mark += style("●", "red") if number in marked else " "
        lines.append(f"{mark} {number:>{width}}  {text[number - 1]}".rstrip())
    return lines


def around(plan: Plan, line: int) -> tuple[int, int]:
    """The lines to show around one."""
    return max(1, line - _AROUND), line + _AROUND


def breakpoint_lines(plan: Plan, points: dict[str, Breakpoint]) -> list[str]:
    """A table of breakpoints."""
    if not points:
        return ["no breakpoints"]
    rows = [["id", "where", "when", "condition"]]
    for point in points.values():
        when = ("after a failed attempt" if point.on == "failure" else "before it begins") + (
            ", once" if point.once else ""
        )
        place = next((p for p in places(plan) if p.name == point.place), None)
        where = point.place + (f" (line {place.line})" if place is not None and place.line else "")
        rows.append([point.id, where, when, point.when.text if point.when is not None else ""])
    return columns(rows)


# --- the run ---------------------------------------------------------------------------------------------------------


def stack_lines(state: RunState, focus: str, name: str) -> list[str]:
    """The task that is looked at, its stage and the run as a stack; then what is held and what goes on."""
    rows: list[list[str]] = []
    task, stage = _of(state, focus)
    if task is not None:
        hold = f"held: {stopped_by(task.hold)}" if task.hold is not None else task.status
        asked = f"{task.agent}.{task.action}" if task.agent else f"workflow {task.plan.workflow}"
        rows.append([task.path, f"{hold}; {asked}", _at(name, task.plan.position.line)])
        if task.block.key:
            bound = ", ".join(f"{k}={value_text(v, 40)}" for k, v in task.block.bindings.items())
            rows.append([f"block {task.block.key}", one_line(bound, 100), ""])
    if stage is not None:
        tasks = [one for block in stage.blocks.values() for one in block.tasks]
        done = f", {sum(one.terminal for one in tasks)} of {len(tasks)} tasks done" if tasks else ""
        rows.append([f"stage {stage.plan.name}", f"{stage.status}{done}", _at(name, stage.plan.position.line)])
    status = state.status if state.finished else f"{state.status}, mode {state.mode}"
    paused = f", paused by {state.paused}" if state.paused else ""
    title = f"{state.plan.name} {state.plan.version}".strip()
    rows.append([f"run {state.run_id}", f"{title}: {status}{paused}", ""])
    lines = columns([[f"#{index}", *row] for index, row in enumerate(rows)])
    held = [f"{subject} ({stopped_by(hold)})" for subject, _, hold in state.iter_holds()]
    going = [f"{one.path} (attempt {one.attempt})" for one in state.iter_running()]
    lines += [f"held     {', '.join(held)}"] if held else []
    lines += [f"running  {', '.join(going)}"] if going else []
    return lines


def _of(state: RunState, focus: str) -> tuple[TaskNode | None, StageNode | None]:
    task = next((node for path, node in state.tasks.items() if path == focus), None)
    return task, task.stage if task is not None else state.stages.get(focus)


def _at(name: str, line: int) -> str:
    return f"{name}:{line}" if line else ""


def task_lines(state: RunState) -> list[str]:
    """All tasks of the stages that opened, and the stages that did not."""
    rows = []
    for stage in state.stages.values():
        rows.append([f"stage {stage.plan.name}", stage.status, ""])
        rows += [
            [f"  {task.path}", task.status, one_line(str(task.failure), 80) if task.failure is not None else ""]
            for block in stage.blocks.values()
            for task in block.tasks
        ]
    return columns(rows)


def event_line(seq: int, event: Event) -> str:
    """One event on one line."""
    fields = msgspec.to_builtins(event)
    kind, at_ms = fields.pop("type"), fields.pop("at_ms")
    subject = fields.pop("task", None) or fields.pop("stage", None) or fields.pop("run_id", "")
    rest = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    return f"{seq:>5}  {clock_time(at_ms)}  {kind:<17}  {one_line(f'{subject} {rest}'.strip(), 160)}".rstrip()


def happened(event: Event) -> str:
    """A line for what happens while a run goes on; empty for what is told otherwise, or of no interest."""
    match event:
        case AttemptSucceeded():
            return f"{style('✓', 'green')} {event.task} succeeded in {duration(event.duration_ms)}"
        case AttemptFailed():
            return (
                f"{style('✗', 'red')} {event.task}: attempt {event.attempt} failed: {one_line(str(event.failure), 300)}"
            )
        case SignalApplied(kind="edit" | "mode"):
            return ""  # who did it here is told
        case TaskHeld() | StageHeld() | TaskScheduled() | TaskFailed() | RunFinished():
            return ""
    found = said(event)
    return f"· {one_line(found[1], 300)}" if found is not None and not found[1].endswith(" begins") else ""


def observation_lines(task: str, observation: Observation) -> list[str]:
    """What a task logged, how far it is, what it put out."""
    match observation:
        case Log():
            return [f"  {task} {observation.level}: {one_line(observation.message, 1000)}"]
        case Progress():
            return [f"  {task} {progress_text(observation)}"]
        case OutputChunk():
            return [f"  {task} > {one_line(line, 1000)}" for line in observation.text.splitlines()]
    return []


def line_of(plan: Plan, state: RunState, focus: str) -> int:
    """The line of the task or stage that is looked at; 0 where none is."""
    task, stage = _of(state, focus)
    if task is not None:
        return task.plan.position.line
    if stage is not None:
        found = at_line(plan, stage.plan.position.line) if stage.plan.position.line else None
        return stage.plan.position.line if found is not None else 0
    return 0
