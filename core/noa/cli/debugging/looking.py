"""Commands that look: where a run is, values, source, events, logs; and help."""

from __future__ import annotations

import inspect

from noa.cli.debugging.moving import _path
from noa.cli.debugging.terminal import COMMANDS, Command, Terminal, command
from noa.cli.debugging.views import (
    breakpoint_lines,
    event_line,
    line_of,
    observation_lines,
    stack_lines,
    task_lines,
    value_text,
)
from noa.cli.session import now_ms
from noa.cli.text import columns
from noa.engine.debugging import Breakpoint
from noa.engine.interventions import condition_of
from noa.engine.state import RunState
from noa.engine.why import explain_wait
from noa.errors import UsageError
from noa.modes.places import named, places

__all__ = ["show_points"]

_EVENTS = 10
_GROUPS = (
    ("go on", ("run", "step", "next", "continue", "until", "into", "out")),
    ("stop", ("break", "tbreak", "clear", "pause", "unpause")),
    ("look", ("where", "list", "print", "inputs", "outputs", "info", "task", "events", "log", "why")),
    ("change", ("set", "retry", "skip", "override", "approve", "reject", "mode")),
    ("the past", ("back", "forward", "goto", "rewind", "now")),
    ("leave", ("quit", "detach", "kill", "help")),
)


@command("where", "bt", "w", "backtrace")
def _where(terminal: Terminal, rest: str) -> None:
    """where, bt: the task that you look at, its stage and the run as a stack; what is held, and what goes on."""
    for line in stack_lines(terminal.bug.view, terminal.focus, terminal.name):
        terminal.say(line)
    if not terminal.bug.live:
        terminal.say(f"as it was after event {terminal.bug.view_seq} of {terminal.bug.seq}; `now` comes back")


@command("list", "l", repeats=True, names="tasks")
def _list(terminal: Terminal, rest: str) -> None:
    """list [LINE|TASK], l: lines of the definition around the current task, marked `→`; then the lines after them.

    Breakpoints are marked `●`.
    """
    plan = terminal.known_plan
    if rest:
        first, last = terminal.lines_around(int(rest) if rest.isdigit() else _line(terminal, rest))
    elif terminal.listed:
        first, last = terminal.listed + 1, terminal.listed + 11
    else:
        current = line_of(plan, terminal.bug.view, terminal.focus) if terminal.target is not None else 1
        first, last = terminal.lines_around(current or 1)
    terminal.list_source(first, last)


def _line(terminal: Terminal, text: str) -> int:
    plan = terminal.known_plan
    place = named(plan, text)
    found = next((p for p in places(plan) if p.name == place), None)
    if found is not None:
        return found.line
    stage = plan.stages.get(place)
    if stage is None:
        raise UsageError(f"'{text}' stands in no line of its own")
    return stage.position.line


@command("print", "p", names="expressions")
def _print(terminal: Terminal, rest: str) -> None:
    """print EXPR, p: the value of a CEL expression where you look, such as `p stages.build.wheel.outputs.size * 2`.

    In scope: inputs (of the run), stages.STAGE.TASK.outputs|status, run; and of the task that you look at task.inputs,
    task.agent, tasks.TASK (same block), in loops item and index.
    """
    if not rest:
        raise UsageError("print what? Such as `print inputs`, or `print stages.build.wheel.outputs`")
    terminal.say(value_text(terminal.bug.evaluate(rest, terminal.focus)))


@command("inputs", names="tasks")
def _inputs(terminal: Terminal, rest: str) -> None:
    """inputs [TASK]: what a task is given, or would be as things stand; of the run where no task is looked at."""
    bug, path = terminal.bug, _path(terminal, rest) if rest else terminal.focus
    given = bug.inputs(bug.task(path)) if path in bug.view.tasks or rest else bug.view.inputs
    _fields(terminal, given)


@command("outputs", names="tasks")
def _outputs(terminal: Terminal, rest: str) -> None:
    """outputs [TASK]: what a task gave; without one, of all tasks that are done, and of the run."""
    bug = terminal.bug
    if rest:
        task = bug.task(_path(terminal, rest))
        if task.outputs is None:
            terminal.say(
                f"{task.path} gave nothing, it is {task.status}" + (f": {task.failure}" if task.failure else "")
            )
        else:
            _fields(terminal, task.outputs)
        return
    given = {task.path: task.outputs for task in bug.view.tasks.values() if task.outputs is not None}
    _fields(terminal, given | ({"run": bug.view.outputs} if bug.view.outputs else {}))


def _fields(terminal: Terminal, values: object) -> None:
    if not isinstance(values, dict) or not values:
        terminal.say("nothing")
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        terminal.say(f"{name.ljust(width)}  {value_text(value)}")


@command("info", "i")
def _info(terminal: Terminal, rest: str) -> None:
    """info breakpoints|tasks|run: the breakpoints; every stage and task with its status; the run."""
    what = next((name for name in ("breakpoints", "tasks", "run") if rest and name.startswith(rest)), "")
    match what:
        case "breakpoints":
            show_points(terminal)
        case "tasks":
            for line in task_lines(terminal.bug.view):
                terminal.say(line)
        case "run":
            for line in stack_lines(terminal.bug.view, "", terminal.name):
                terminal.say(line)
        case _:
            raise UsageError("info about what? breakpoints, tasks or run")


def show_points(terminal: Terminal) -> None:
    """The breakpoints."""
    plan = terminal.known_plan
    if terminal.target is not None:
        points = dict(terminal.bug.breakpoints)
    else:
        empty = RunState(plan)
        points = {
            name: Breakpoint(
                name,
                point.place,
                condition_of(empty, point.when) if point.when else None,
                point.once,
                "failure" if point.on_failure else "start",
            )
            for name, point in terminal.wanted.items()
        }
    for line in breakpoint_lines(plan, points):
        terminal.say(line)


@command("task", names="tasks")
def _task(terminal: Terminal, rest: str) -> None:
    """task [TASK]: look at another task, such as another one that is held; commands are then about that one."""
    if rest:
        path = _path(terminal, rest)
        bug = terminal.bug
        terminal.focus = path if path in bug.view.stages else bug.task(path).path
    _where(terminal, "")
    terminal.show_line(line_of(terminal.known_plan, terminal.bug.view, terminal.focus))


@command("events", "e")
def _events(terminal: Terminal, rest: str) -> None:
    """events [N]: the last N events (10) up to where you look, with their numbers; `goto` goes to one."""
    if rest and not rest.isdigit():
        raise UsageError("how many events? Such as `events 20`")
    end = terminal.bug.view_seq
    for seq in range(max(1, end - int(rest or _EVENTS) + 1), end + 1):
        terminal.say(event_line(seq, terminal.bug.history[seq - 1]))


@command("log", names="tasks")
def _log(terminal: Terminal, rest: str) -> None:
    """log [TASK]: all that a task logged, its progress and its output; without one, of all tasks."""
    path = _path(terminal, rest) if rest else None
    after, lines = 0, 0
    while batch := terminal.host.observed(terminal.bug.run_id, after_id=after, task=path):
        for record in batch:
            after = record.id
            for line in observation_lines(record.task, record.observation):
                terminal.say(line)
                lines += 1
    if not lines:
        terminal.say("nothing was logged")


@command("why")
def _why(terminal: Terminal, rest: str) -> None:
    """why: what each part of the run that is not over waits for."""
    bug = terminal.bug
    waits = explain_wait(bug.view, now_ms() if bug.live else bug.view.now_ms)
    for line in columns([[wait.subject, wait.reason] for wait in waits]) or [
        f"it waits for nothing: {bug.view.status}"
    ]:
        terminal.say(line)


@command("help", "h", "?", names="commands")
def _help(terminal: Terminal, rest: str) -> None:
    """help [COMMAND], h: what commands there are, or how one is used."""
    if rest:
        found = terminal.find(rest)
        terminal.say(inspect.cleandoc(found.do.__doc__ or ""))
        short = [alias for alias in found.aliases if alias not in found.usage]
        if short:
            terminal.say(f"Also: {', '.join(short)}")
        return
    for group, names in _GROUPS:
        terminal.say(group)
        for line in columns([[f"  {_short(COMMANDS[name])}", COMMANDS[name].summary] for name in names]):
            terminal.say(line)
    terminal.say(
        "A beginning of a name that is unique will do; an empty line repeats the last step. `help COMMAND` tells more."
    )


def _short(found: Command) -> str:
    return found.usage.partition(": ")[0]
