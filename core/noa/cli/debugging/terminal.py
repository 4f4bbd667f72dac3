"""The terminal debugger: reads commands, gives them to the run, says where it stops.

The engine and the store live on an event loop of a thread of their own. So a person can think at the prompt while tasks
go on, and Ctrl-C comes to the prompt's thread, wherever it waits.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import shlex
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from noa.cli.command import style
from noa.cli.debugging.host import Host, Target
from noa.cli.debugging.prompt import Prompt
from noa.cli.debugging.views import around, happened, line_of, observation_lines, source_lines, stopped_by
from noa.cli.text import one_line
from noa.errors import DefinitionError, NoaError, UsageError
from noa.model.events import Event
from noa.model.plan import Plan
from noa.modes.debugger import Debugger, Stop
from noa.modes.replay import Moment, Replay

__all__ = ["COMMANDS", "Command", "Leave", "Point", "Terminal", "command"]

T = TypeVar("T")
_OBSERVE_S = 0.1
_DRIVEN_EVERY = 30
_CHOICES = 12


class Leave(Exception):
    """The debugger is left."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the debugger; its help is the docstring of what does it, the usage its first line."""

    name: str
    aliases: tuple[str, ...]
    do: Callable[[Terminal, str], None]
    repeats: bool
    names: str

    @property
    def usage(self) -> str:
        """How it is typed, and what it does, on one line."""
        return (self.do.__doc__ or "").strip().splitlines()[0]

    @property
    def summary(self) -> str:
        """What it does."""
        return self.usage.partition(": ")[2]


COMMANDS: dict[str, Command] = {}
"""By name, in the order of `help`."""


def command(
    name: str, *aliases: str, repeats: bool = False, names: str = ""
) -> Callable[[Callable[[Terminal, str], None]], Callable[[Terminal, str], None]]:
    """Make a function a command.

    Args:
        repeats: Whether an empty line does it again.
        names: What completes its words: "tasks", "points", "modes", "commands", "expressions".
    """

    def register(do: Callable[[Terminal, str], None]) -> Callable[[Terminal, str], None]:
        COMMANDS[name] = Command(name, aliases, do, repeats, names)
        return do

    return register


@dataclass(frozen=True, slots=True)
class Point:
    """A breakpoint that is wanted of every run that begins here."""

    place: str
    when: str = ""
    once: bool = False
    on_failure: bool = False


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="noa-debugger", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], *, patient: bool = False) -> T:
        """Run a coroutine there and wait; Ctrl-C cancels it and is raised once it has ended.

        Args:
            patient: Ctrl-C does nothing: for what is short, and must not be left half done.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while patient:
            with contextlib.suppress(KeyboardInterrupt):
                return future.result()
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            with contextlib.suppress(concurrent.futures.CancelledError, NoaError, TimeoutError):
                concurrent.futures.wait([future])
            raise

    def close(self) -> None:
        """End the thread."""
        self.call(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Terminal:
    """One session.

    Args:
        plan: Of the run that `run` begins; None where a run of the store is attached to.
        inputs: Of that run.
    """

    def __init__(
        self, host: Host, loop: Loop, prompt: Prompt, plan: Plan | None = None, inputs: Mapping[str, Any] | None = None
    ) -> None:
        self.host = host
        self.loop = loop
        self.prompt = prompt
        self.plan = plan
        self.inputs = dict(inputs or {})
        self.target: Target | None = None
        self.outer: list[Target] = []
        self.focus = ""
        self.wanted: dict[str, Point] = {}
        self.listed = 0
        self._seen: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._again: tuple[Command, str] | None = None

    # --- what commands use ---------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """A line for the person."""
        click.echo(text)

    @property
    def bug(self) -> Debugger:
        """The run that is debugged. Raises UsageError where none has begun."""
        if self.target is None:
            raise UsageError("the run has not begun: `run` begins it, `step` begins it and stops before its first task")
        return self.target.debugger

    @property
    def known_plan(self) -> Plan:
        """The definition that is shown."""
        plan = self.target.debugger.plan if self.target is not None else self.plan
        assert plan is not None
        return plan

    @property
    def name(self) -> str:
        """The definition's file, as it is shown."""
        return Path(self.known_plan.source_name).name

    @property
    def going(self) -> bool:
        """Whether the run can be moved on: it is not over, and is looked at as it is now."""
        return self.bug.live and not self.bug.state.finished

    @property
    def replay(self) -> Replay:
        """Moves through the past."""
        return Replay(self.bug)

    def take(self, target: Target) -> None:
        """Debug this run."""
        self.target = target
        self.focus, self.listed = "", 0
        self._told[target.debugger.run_id] = target.debugger.seq
        target.debugger.on_events = self._on_events
        if target.debugger.run_id not in self._seen:  # what was logged before is no news
            self._seen[target.debugger.run_id] = self._last_observed(target.debugger.run_id)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something short."""
        return self.loop.call(work)

    def wait(self, work: Coroutine[Any, Any, Stop]) -> None:
        """Wait until the run stops, show what happens meanwhile, and say where it stopped. Ctrl-C stops the run."""
        stop: Stop | None
        try:
            stop = self.call(self._observed(work))
        except KeyboardInterrupt:
            self.say()
            self.call(self.bug.interrupt())
            stop = self._soon()
        if stop is not None:
            self.stopped(stop)

    def stopped(self, stop: Stop) -> None:
        """Say where the run stopped, and look at that."""
        state = self.bug.state
        if state.finished:
            self.focus = ""
            self.over()
            return
        if stop.hold is None:
            self.say(f"nothing goes on: the run is paused by {state.paused}. `unpause` lets it go on")
            return
        self.focus = stop.subject
        before = "after" if stop.hold.kind in ("failure", "ask") else "before"
        line = line_of(self.known_plan, state, stop.subject)
        where = f" ({self.name}:{line})" if line else ""
        self.say(f"{style(f'stopped {before} {stop.subject}', bold=True)}{where}: {stopped_by(stop.hold)}")
        self.show_line(line)
        others = [subject for subject, _, _ in state.iter_holds() if subject != stop.subject]
        if others:
            self.say(f"also held: {_some(others)}")
        self.hint(stop)

    def hint(self, stop: Stop) -> None:
        """What a person can say to what is no matter of the debugger."""
        if stop.hold is None or stop.hold.kind in ("step", "breakpoint"):
            return
        if stop.hold.kind in ("approval", "policy"):
            self.say("`approve` lets it begin, `reject REASON` does not")
        else:
            self.say("`continue` lets the recovery chain go on; or `retry`, `skip`, `override JSON`")

    def over(self) -> None:
        """Say how the run ended."""
        state = self.bug.state
        why = f": {one_line(str(state.failure), 300)}" if state.failure is not None else ""
        color = "green" if state.status == "succeeded" else "red"
        self.say(f"{style(f'run {state.run_id} is over', bold=True)}: {style(state.status, color)}{why}")
        if self.outer:
            self.say("`out` goes back to the run that began it")

    def looked(self, moment: Moment) -> None:
        """Say where in the past we are, and look at that."""
        self.focus = moment.subject
        point = f" (breakpoint {moment.breakpoint})" if moment.breakpoint else ""
        where = "now" if self.bug.live and not self.bug.state.finished else f"of {self.bug.seq}, read only"
        self.say(f"@{moment.seq} {where}: {one_line(moment.said, 300)}{point}")
        if not moment.said.startswith("the run is over"):
            self.show_line(line_of(self.known_plan, self.bug.view, moment.subject))

    def show_line(self, line: int) -> None:
        """The current line of the definition."""
        self.listed = 0
        if line:
            for text in source_lines(self.known_plan, line, line, current=line, points=self._marked()):
                self.say(text)

    def list_source(self, first: int, last: int) -> None:
        """Lines of the definition."""
        current = line_of(self.known_plan, self.bug.view, self.focus) if self.target is not None else 0
        lines = source_lines(self.known_plan, first, last, current=current, points=self._marked())
        for line in lines or [f"the definition ends at line {len(self.known_plan.source.splitlines())}"]:
            self.say(line)
        self.listed = last

    def _marked(self) -> tuple[str, ...]:
        """Places of the breakpoints."""
        points = self.wanted if self.target is None else self.bug.breakpoints
        return tuple(point.place for point in points.values())

    def lines_around(self, line: int) -> tuple[int, int]:
        """What `list` shows around a line."""
        return around(self.known_plan, line)

    # --- the session ---------------------------------------------------------------------------------------------

    def session(self, first: Callable[[], None] | None = None) -> None:
        """Read commands until the debugger is left.

        Args:
            first: Done before the first one is read.
        """
        while True:
            try:
                if first is not None:
                    now, first = first, None
                    now()
                self._read_one()
            except Leave:
                return
            except KeyboardInterrupt:
                self.say("\ninterrupted")
            except (NoaError, TimeoutError) as error:
                self.say(f"{style('error', 'red')}: {_told(error)}")

    def _read_one(self) -> None:
        try:
            text = self.prompt.read(self._prompt())
        except KeyboardInterrupt:
            self.say("\n`quit` leaves the debugger")
            return
        self.do("quit" if text is None else text)

    def do(self, text: str) -> None:
        """One command line."""
        text = text.strip()
        if text.startswith("#"):
            return
        if not text:
            if self._again is None:
                return
            found, rest = self._again
        else:
            word, _, rest = text.partition(" ")
            found = self.find(word)
        self._news()
        self._again = (found, "" if found.name == "list" else rest) if found.repeats else None
        found.do(self, rest.strip())

    def find(self, word: str) -> Command:
        """The command of a name, an alias, or a beginning that is unique.

        Raises:
            UsageError: There is none, or several.
        """
        for one in COMMANDS.values():
            if word == one.name or word in one.aliases:
                return one
        found = [one for one in COMMANDS.values() if one.name.startswith(word)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"'{word}' may be {', '.join(one.name for one in found)}")
        import difflib

        near = difflib.get_close_matches(word, COMMANDS, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"command '{word}' is not known: `help` lists them.{hint} `print EXPR` evaluates an expression"
        )

    def complete(self, line: str, word: str) -> list[str]:
        """What a word of a line can be."""
        head = line[: len(line) - len(word)].split()
        if not head:
            return sorted(name for name in COMMANDS if name.startswith(word))
        try:
            wanted = self.find(head[0]).names
        except NoaError:
            return []
        return sorted(name for name in self._names(wanted) if name.startswith(word))

    def _names(self, kind: str) -> Sequence[str]:
        from noa.modes.places import places

        plan = self.known_plan
        match kind:
            case "tasks":
                live = list(self.target.debugger.view.tasks) if self.target is not None else []
                return [*dict.fromkeys([*(p.name for p in places(plan)), *live, *plan.stages, "on failure"])]
            case "points":
                return list(self.bug.breakpoints) if self.target is not None else list(self.wanted)
            case "modes":
                return list(self.host.runtime.registry.modes)
            case "commands":
                return list(COMMANDS)
            case "expressions":
                reads = [f"stages.{p.stage}.{p.task}.{what}" for p in places(plan) for what in ("outputs", "status")]
                given = self.target.debugger.inputs_of(self.focus) if self.target is not None else {}
                return [*reads, *(f"inputs.{name}" for name in {*plan.inputs, *self.inputs, *given}), "task.inputs"]
        return []

    def _prompt(self) -> str:
        if self.target is None or self.bug.live:
            return "(noa) "
        return f"(noa @{self.bug.view_seq}) "

    def _news(self) -> None:
        """What happened while the person was thinking."""
        if self.target is None or self.bug.state.finished:
            return
        held = {subject for subject, _, _ in self.bug.state.iter_holds()}
        self.call(self.bug.refresh())
        self._tell_observed()
        new = [subject for subject, _, _ in self.bug.state.iter_holds() if subject not in held]
        if new:
            self.say(f"stopped meanwhile: {_some(new)}")
            if self.bug.live and self.focus not in self.bug.state.held:
                self.focus = new[0]

    def _on_events(self, first: int, events: Sequence[Event]) -> None:
        run = self.bug.run_id
        for seq, event in enumerate(events, first):
            if seq > self._told.get(run, 0):
                self._told[run] = seq
                self._tell_observed()
                if line := happened(event):
                    self.say(line)

    async def _observed(self, work: Coroutine[Any, Any, Stop]) -> Stop:
        watch = asyncio.ensure_future(self._observe())
        try:
            return await work
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            self._tell_observed()

    async def _observe(self) -> None:
        """Show what tasks log while one waits, and whether anybody drives the run at all."""
        told, count = False, 0
        while True:
            await asyncio.sleep(_OBSERVE_S)
            self._tell_observed()
            count += 1
            if count % _DRIVEN_EVERY == 0 and not told and not await self.host.is_driven(self.bug.run_id):
                told = not self.bug.state.finished
                if told:
                    run = self.bug.run_id
                    self.say(f"no process drives the run now; `noa resume {run}` goes on with it. Ctrl-C to the prompt")

    def _tell_observed(self) -> None:
        run = self.bug.run_id
        for record in self.host.observed(run, after_id=self._seen.get(run, 0)):
            self._seen[run] = record.id
            for line in observation_lines(record.task, record.observation):
                self.say(style(line, dim=True))

    def _last_observed(self, run: Any) -> int:
        last = 0
        while batch := self.host.observed(run, after_id=last):
            last = batch[-1].id
        return last

    def _soon(self) -> Stop | None:
        """Where a run stopped that was just interrupted; None where what goes on takes longer."""
        with contextlib.suppress(TimeoutError):
            return self.call(self.bug.wait_stop(timeout_s=0.5))
        going = [task.path for task in self.bug.state.iter_running()]
        self.say(f"it stops before the next task that begins; goes on: {_some(going) or 'nothing'}")
        return None


def words_of(text: str) -> list[str]:
    """Words as a shell reads them. Raises UsageError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{text}: {error}") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_CHOICES]) + (f" and {len(names) - _CHOICES} more" if len(names) > _CHOICES else "")


def _told(error: Exception) -> str:
    if isinstance(error, DefinitionError) and error.problems:
        from noa.definitions import explain

        return explain(error.problems)
    return error.message if isinstance(error, NoaError) else str(error)


def is_interactive() -> bool:
    """Whether a person types."""
    return sys.stdin.isatty() and sys.stdout.isatty()
