"""Commands that move a run on, change what it does, or go through its past."""

from __future__ import annotations

import re
from typing import Any

from noa.cli.debugging.terminal import Leave, Point, Terminal, command, words_of
from noa.cli.interventions import json_object
from noa.errors import UsageError
from noa.model.events import Hold
from noa.model.ids import TaskPath
from noa.modes.debugger import check_breakpoint
from noa.modes.places import named

__all__: list[str] = []

_STOPS = ("breakpoint", "step", "failure")
_KEYS = re.compile(r"""\.?([A-Za-z_]\w*)|\[(\d+)\]|\["([^"]+)"\]|\['([^']+)'\]""")


# --- going on --------------------------------------------------------------------------------------------------------


@command("run", "r")
def _run(terminal: Terminal, rest: str) -> None:
    """run: begin the run; it stops at the first breakpoint, or before its first task where there is none.

    Where the run is over, `run` begins another one with the same inputs and breakpoints.
    """
    _begin(terminal)
    if terminal.wanted and not terminal.bug.state.finished:
        terminal.wait(terminal.bug.go_on())
    else:
        terminal.wait(terminal.bug.wait_stop())


def _begin(terminal: Terminal) -> None:
    if terminal.target is not None:
        if terminal.plan is None:
            raise UsageError("the run has begun already, elsewhere; `step` and `continue` go on")
        if not terminal.bug.state.finished:
            raise UsageError("the run goes on: `continue` goes on with it, `kill` ends it before you begin another")
        for name, known in terminal.bug.breakpoints.items():
            when = known.when.text if known.when is not None else ""
            terminal.wanted[name] = Point(known.place, when, known.once, known.on == "failure")
    assert terminal.plan is not None
    target = terminal.call(terminal.host.begin(terminal.plan, terminal.inputs))
    terminal.take(target)
    terminal.say(target.how)
    bug = target.debugger
    terminal.call(bug.wait_stop())
    for name, point in terminal.wanted.items():
        if bug.state.finished:
            break
        terminal.call(
            bug.break_at(point.place, when=point.when, once=point.once, on_failure=point.on_failure, name=name)
        )


@command("step", "s", repeats=True, names="tasks")
def _step(terminal: Terminal, rest: str) -> None:
    """step [TASK], s: let one task go, and stop before the next one that begins.

    Of several that are held it is the one that you look at, or TASK. In the past, or in a run that is over, it goes to
    the next event of interest. A sub-workflow is stepped over; `into` debugs it.
    """
    if terminal.target is None:
        _begin(terminal)
        terminal.wait(terminal.bug.wait_stop())
    elif terminal.going:
        task = _path(terminal, rest) if rest else terminal.focus
        terminal.wait(terminal.bug.step(task if rest or _stopped(terminal, task) else ""))
    else:
        _look_on(terminal)
        terminal.looked(terminal.replay.step())


@command("next", "n", repeats=True)
def _next(terminal: Terminal, rest: str) -> None:
    """next, n: go on to the first task of the next stage that begins."""
    if terminal.target is not None and not terminal.going:
        _look_on(terminal)
        terminal.looked(terminal.replay.next_stage())
    else:
        terminal.wait(terminal.bug.next_stage())


@command("continue", "c", repeats=True, names="tasks")
def _continue(terminal: Terminal, rest: str) -> None:
    """continue [TASK], c: go on to the next breakpoint, or to the end; with TASK let only that one go.

    After a failure it lets the recovery chain go on. What waits for an approval still waits: `approve`, `reject`.
    """
    bug = terminal.bug
    if not terminal.going:
        _look_on(terminal)
        terminal.looked(terminal.replay.go_on())
    elif bug.state.mode == "debug":
        terminal.wait(bug.go_on(_path(terminal, rest) if rest else ""))
    else:
        terminal.wait(bug.wait_stop())


@command("until", "u", names="tasks")
def _until(terminal: Terminal, rest: str) -> None:
    """until PLACE, u: go on to a task: STAGE.TASK, a stage, a line, or a pattern such as test/*."""
    place = named(terminal.known_plan, _needed(rest, "until PLACE, such as `until test.unit`"))
    if terminal.target is None:
        _begin(terminal)
    if terminal.going:
        terminal.wait(terminal.bug.until(place))
    else:
        _look_on(terminal)
        terminal.looked(terminal.replay.until(place))


@command("into", names="tasks")
def _into(terminal: Terminal, rest: str) -> None:
    """into [TASK]: debug the sub-workflow that a task begins, or that goes on for it; `out` comes back."""
    path = _path(terminal, rest) if rest else terminal.focus
    bug = terminal.bug
    if path not in bug.state.tasks or bug.state.tasks[TaskPath(path)].plan.workflow is None:
        raise UsageError(f"'{path}' is no sub-workflow: `step` lets a task go")
    if bug.state.tasks[TaskPath(path)].hold is not None:
        terminal.call(bug.ask("step", task=path))
    child = terminal.call(_child(terminal, path))
    target = terminal.call(terminal.host.child(child, terminal.target)) if child and terminal.target else None
    if target is None or terminal.target is None:
        raise UsageError(f"the sub-workflow of '{path}' does not go on: {bug.state.tasks[TaskPath(path)].status}")
    terminal.outer.append(terminal.target)
    terminal.take(target)
    terminal.say(target.how)
    terminal.wait(target.debugger.wait_stop())


async def _child(terminal: Terminal, path: str) -> Any:
    import asyncio

    while True:
        await terminal.bug.refresh()
        task = terminal.bug.state.tasks[TaskPath(path)]
        child = await terminal.bug.child_of(path)
        if child is not None or task.terminal:
            return child
        await asyncio.sleep(0.05)


@command("out")
def _out(terminal: Terminal, rest: str) -> None:
    """out: go back to the run whose sub-workflow is debugged; the sub-workflow goes on to its end."""
    if not terminal.outer:
        raise UsageError("no sub-workflow is debugged: there is nothing to go out of")
    if not terminal.bug.state.finished:
        terminal.bug.go_to(terminal.bug.seq)
        terminal.call(terminal.bug.ask("mode", mode="supervised"))
    terminal.take(terminal.outer.pop())
    terminal.wait(terminal.bug.wait_stop())


# --- breakpoints -----------------------------------------------------------------------------------------------------


@command("break", "b", names="tasks")
def _break(terminal: Terminal, rest: str) -> None:
    """break PLACE [if CEL], b: stop before a task begins; `break on failure [TASK] [if CEL]` after an attempt failed.

    PLACE is STAGE.TASK, a task whose name is in one stage only, a stage (all its tasks), a line of the definition, or a
    pattern such as deploy/*. In the condition there are task.inputs, task.agent, task.attempt, inputs, stages, run, and
    in loops item and index. Without anything it lists the breakpoints.
    """
    _set_point(terminal, rest, once=False)


@command("tbreak", "tb", names="tasks")
def _tbreak(terminal: Terminal, rest: str) -> None:
    """tbreak PLACE [if CEL], tb: a breakpoint that is gone once it stopped."""
    _set_point(terminal, rest, once=True)


def _set_point(terminal: Terminal, rest: str, *, once: bool) -> None:
    if not rest:
        from noa.cli.debugging.looking import show_points

        show_points(terminal)
        return
    where, _, when = (part.strip() for part in f" {rest} ".partition(" if "))
    on_failure = bool(re.match(r"on\s+failure\b", where))
    if on_failure:
        where = re.sub(r"^on\s+failure\s*", "", where)
    plan = terminal.known_plan
    place = named(plan, where) if where else "*"
    if not where and not on_failure:
        raise UsageError("break where? Such as `break test.unit if task.attempt > 1`")
    if terminal.target is None:
        check_breakpoint(plan, place, when=when, on_failure=on_failure)
        name = next(str(n) for n in range(1, len(terminal.wanted) + 2) if str(n) not in terminal.wanted)
        terminal.wanted[name] = Point(place, when, once, on_failure)
    else:
        name = terminal.call(terminal.bug.break_at(place, when=when, once=once, on_failure=on_failure))
    before = ("after a failed attempt of " if on_failure else "before ") + ("any task" if place == "*" else place)
    terminal.say(f"breakpoint {name} {before}{f', if {when}' if when else ''}{', once' if once else ''}")


@command("clear", "delete", names="points")
def _clear(terminal: Terminal, rest: str) -> None:
    """clear [ID …]: remove breakpoints; without an ID all of them."""
    points = list(terminal.bug.breakpoints) if terminal.target is not None else list(terminal.wanted)
    for name in words_of(rest) or points:
        if terminal.target is not None:
            terminal.call(terminal.bug.clear(name))
        elif name not in terminal.wanted:
            raise UsageError(f"there is no breakpoint '{name}'")
        terminal.wanted.pop(name, None)
        terminal.say(f"breakpoint {name} is gone")


# --- the past --------------------------------------------------------------------------------------------------------


@command("back", repeats=True)
def _back(terminal: Terminal, rest: str) -> None:
    """back [N]: look at the run as it was N events of interest earlier. Nothing can be changed there.

    There step, next, until and continue go forwards through what happened, and stop at breakpoints. `now` comes back.
    """
    if rest and not rest.isdigit():
        raise UsageError("how many events back? Such as `back 3`")
    terminal.looked(terminal.replay.back(int(rest or 1)))


@command("rewind")
def _rewind(terminal: Terminal, rest: str) -> None:
    """rewind: go back to the last breakpoint before, or to the beginning."""
    terminal.looked(terminal.replay.go_back())


@command("forward", repeats=True)
def _forward(terminal: Terminal, rest: str) -> None:
    """forward: look at the next event of interest, after `back`."""
    _look_on(terminal)
    terminal.looked(terminal.replay.step())


@command("goto")
def _goto(terminal: Terminal, rest: str) -> None:
    """goto SEQ: look at the run as it was after an event; `events` has the numbers, `goto 1` is the beginning."""
    if rest == "now":
        _now(terminal, "")
        return
    if not rest.isdigit():
        raise UsageError("go to which event? Such as `goto 12`; `events` has the numbers")
    terminal.looked(terminal.replay.go_to(int(rest)))


@command("now")
def _now(terminal: Terminal, rest: str) -> None:
    """now: look at the run as it is now."""
    bug = terminal.bug
    bug.go_to(bug.seq)
    stops = bug.stops()
    if stops:
        terminal.stopped(stops[0])
    else:
        terminal.looked(terminal.replay.here())


def _look_on(terminal: Terminal) -> None:
    if terminal.bug.live:
        raise UsageError("the run is over, and you look at its end: `back` goes back, `goto 1` to the beginning")


# --- saying what becomes of a task -----------------------------------------------------------------------------------


@command("set", names="expressions")
def _set(terminal: Terminal, rest: str) -> None:
    """set inputs.NAME = EXPR: change an input of the task that you look at before it begins.

    EXPR is CEL, as in `print`. Parts of a value are named too: set inputs.options.limits[0] = 5
    """
    found = re.match(r"inputs((?:\.[A-Za-z_]\w*|\[[^\]]+\])+)\s*=(?!=)\s*(.+)$", rest)
    if found is None:
        raise UsageError("such as `set inputs.limit = 10`, or `set inputs.options.tags[0] = 'a'`")
    keys: list[str | int] = [int(m[2]) if m[2] else m[1] or m[3] or m[4] for m in _KEYS.finditer(found[1])]
    bug = terminal.bug
    value = bug.evaluate(found[2], terminal.focus) if bug.live else None
    terminal.call(bug.set_input(terminal.focus, keys, value))
    from noa.cli.debugging.views import value_text

    terminal.say(f"inputs{found[1]} = {value_text(value)}")


@command("retry", names="tasks")
def _retry(terminal: Terminal, rest: str) -> None:
    """retry [TASK]: try a task again that failed, or that waits for its next attempt, now."""
    _settle(terminal, "retry", rest)


@command("skip", names="tasks")
def _skip(terminal: Terminal, rest: str) -> None:
    """skip [TASK]: go on without a task; what depends on it reads null."""
    _settle(terminal, "skip", rest)


@command("override")
def _override(terminal: Terminal, rest: str) -> None:
    """override JSON|@FILE: give the outputs of the task that you look at in its place."""
    outputs = json_object("override", _needed(rest, 'override JSON, such as `override {"n": 1}`'), 'override {"n": 1}')
    _settle(terminal, "override", "", outputs=outputs)


@command("approve", names="tasks")
def _approve(terminal: Terminal, rest: str) -> None:
    """approve [TASK]: let something begin that waits for an approval."""
    _settle(terminal, "approve", rest)


@command("reject")
def _reject(terminal: Terminal, rest: str) -> None:
    """reject REASON: refuse what waits for an approval; the task fails."""
    _settle(terminal, "reject", "", reason=_needed(rest, "reject REASON"))


def _settle(terminal: Terminal, kind: str, rest: str, *, reason: str = "", **body: Any) -> None:
    subject = _path(terminal, rest) if rest else terminal.focus
    if not subject:
        raise UsageError(f"{kind} which task? Name one; `where` shows what is held")
    terminal.wait(terminal.bug.settle(kind, subject, reason=reason, **body))


@command("mode", names="modes")
def _mode(terminal: Terminal, rest: str) -> None:
    """mode MODE: go on in another mode; in auto and supervised the debugger stops nothing."""
    terminal.call(terminal.bug.ask("mode", mode=_needed(rest, "mode auto, supervised or debug")))
    terminal.say(f"the run is in mode {rest}")


@command("pause")
def _pause(terminal: Terminal, rest: str) -> None:
    """pause: let nothing more begin, in whatever mode; `unpause` lets it go on."""
    terminal.call(terminal.bug.ask("pause"))
    terminal.say("nothing more begins until `unpause`")


@command("unpause")
def _unpause(terminal: Terminal, rest: str) -> None:
    """unpause: let a paused run go on."""
    terminal.call(terminal.bug.ask("unpause"))
    terminal.say("what could not begin begins now, or is held")


# --- leaving ---------------------------------------------------------------------------------------------------------


@command("kill")
def _kill(terminal: Terminal, rest: str) -> None:
    """kill [REASON]: cancel the run; what goes on is ended."""
    _to_root(terminal)
    bug = terminal.bug
    bug.go_to(bug.seq)
    terminal.call(bug.ask("cancel", reason=rest or "killed in the debugger"))
    terminal.wait(bug.wait_stop())


@command("detach")
def _detach(terminal: Terminal, rest: str) -> None:
    """detach: leave the run to itself, in the mode that it had; a run of this process is followed to its end."""
    _to_root(terminal)
    bug, target = terminal.bug, terminal.target
    assert target is not None
    bug.go_to(bug.seq)
    if not bug.state.finished:
        terminal.call(bug.ask("mode", mode=target.before, reason="the debugger detached"))
        terminal.say(f"run {bug.run_id} goes on in mode {target.before}")
        if target.running is not None:
            terminal.wait(bug.wait_stop())
            if not bug.state.finished:
                terminal.say(f"it waits for a person; `noa resume {bug.run_id}` goes on with it")
    raise Leave


@command("quit", "q", "exit")
def _quit(terminal: Terminal, rest: str) -> None:
    """quit, q: leave the debugger. A run that is not over stays stopped; it is said how to go on with it."""
    if terminal.target is None:
        raise Leave
    _to_root(terminal)
    bug, target = terminal.bug, terminal.target
    terminal.call(bug.refresh())
    bug.go_to(bug.seq)
    if bug.state.finished:
        raise Leave
    run = bug.run_id
    answer = terminal.prompt.ask(
        f"run {run} is not over: [l]eave it stopped, [d]etach and let it go on, [k]ill it, [c]ancel quitting? [l] "
    )
    match answer[:1]:
        case "d":
            _detach(terminal, "")
        case "k":
            _kill(terminal, "")
        case "c":
            return
    if not bug.state.finished:
        terminal.say(f"run {run} stays as it is. Go on with: noa debug --attach {run}")
        going = f"noa mode {run} {target.before}" + (f" && noa resume {run}" if target.running is not None else "")
        terminal.say(f"  let it go: {going};  end it: noa cancel {run}")
    raise Leave


def _to_root(terminal: Terminal) -> None:
    while terminal.outer:
        terminal.take(terminal.outer.pop())


# --- what is meant ---------------------------------------------------------------------------------------------------


def _needed(rest: str, usage: str) -> str:
    if not rest:
        raise UsageError(f"expected: {usage}")
    return rest


def _stopped(terminal: Terminal, path: str) -> bool:
    hold: Hold | None = next((h for subject, _, h in terminal.bug.state.iter_holds() if subject == path), None)
    return hold is not None and hold.kind in _STOPS


def _path(terminal: Terminal, text: str) -> str:
    """A task of the run, or a stage, as it is typed."""
    state = terminal.bug.view
    if text in state.tasks or text in state.stages:
        return text
    place = named(terminal.known_plan, text)
    found = [path for path, task in state.tasks.items() if f"{task.stage.plan.name}/{task.plan.name}" == place]
    if len(found) > 1:
        raise UsageError(f"'{text}' may be {', '.join(found[:8])}")
    return found[0] if found else place
