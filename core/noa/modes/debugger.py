"""A debugger over a run: stops, steps, breakpoints, inspection, time travel. `noa debug` and `noa dap` are made of it.

It knows a run by its journal only, and speaks to it by signals only. So the same object serves a run of this process,
one that another process drives, one that nobody drives now, and one that is over (read only).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from noa.definitions import Evaluator
from noa.definitions.snippets import snippet
from noa.engine.commands import SetTimer
from noa.engine.debugging import Breakpoint
from noa.engine.gates import about
from noa.engine.interventions import condition_of
from noa.engine.nodes import TaskNode
from noa.engine.scope import reads_of, scope_for
from noa.engine.signals import judge
from noa.engine.state import RunState
from noa.errors import RunStateError, UsageError
from noa.model.events import CancelRequested, Event, Hold, SignalApplied, SignalRefused
from noa.model.ids import RunId, TaskPath, execution_id
from noa.model.plan import Expression, Plan
from noa.plugin import Journal, SignalRecord

__all__ = ["Debugger", "OnEvents", "RefusedError", "Stop", "check_breakpoint"]

OnEvents: TypeAlias = Callable[[int, Sequence[Event]], None]
"""Told of events as they become known: the sequence number of the first one, and the events."""

INTERRUPT = "interrupt"
"""Id of the breakpoint by which a run that goes on is stopped."""

_POLL_S = 0.03
_CHILDREN_S = 0.2
_DEBUGGER = ("breakpoint", "step", "failure")
_REASON = "in the debugger"


class RefusedError(UsageError):
    """The run refused what was asked of it, because it makes no sense now; nothing was changed."""

    code = "SIGNAL_REFUSED"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run stands still for the debugger, or why it does not.

    Attributes:
        subject: Path of the task, or name of the stage; empty when the run is over, or paused.
        hold: What holds it; None when the run is over, or paused.
        seq: Sequence number of the last event.
    """

    subject: str
    hold: Hold | None
    seq: int


def check_breakpoint(plan: Plan, place: str, *, when: str = "", on_failure: bool = False) -> None:
    """Find out before a run begins, or after it is over, whether a breakpoint makes sense.

    Raises:
        RefusedError: There is no such place, or the condition does not compile.
    """
    body = {"id": "1", "place": place, "on": "failure" if on_failure else "start", "when": when}
    judged = judge(RunState(plan), SignalRecord("check", RunId(""), "break", "", "", body, 0), 0)
    if isinstance(judged, SignalRefused):
        raise RefusedError(judged.why, kind="break")


class Debugger:
    """Follows one run.

    Args:
        journal: Open; where the run is.
        plan: Of the run.
        actor: Who debugs; stands with everything that is asked.

    `view` is the state that is looked at: the run as it is now, or as it was after an earlier event (`go_to`).
    `on_events` is told of what happens, whoever reads it.
    """

    def __init__(self, journal: Journal, run: RunId, plan: Plan, *, actor: str) -> None:
        self.run_id = run
        self.plan = plan
        self.actor = actor
        self.history: list[Event] = []
        self.state = RunState(plan)
        self.view = self.state
        self.view_seq = 0
        self._journal = journal
        self.on_events: OnEvents | None = None
        self._evaluator = Evaluator()
        self._breakpoints = 0
        self._own: dict[str, Breakpoint] | None = None  # of a run that is over
        self._reading = asyncio.Lock()
        self._children_ms = 0.0

    @classmethod
    async def attach(cls, journal: Journal, run: RunId, plan: Plan, *, actor: str) -> Self:
        """Follow a run from where it is now."""
        debugger = cls(journal, run, plan, actor=actor)
        await debugger.refresh()
        if debugger.state.finished:
            debugger._own = {}  # breakpoints of those who debugged it are not ours
        return debugger

    # --- following -----------------------------------------------------------------------------------------------

    @property
    def seq(self) -> int:
        """Sequence number of the last event that is known."""
        return len(self.history)

    @property
    def live(self) -> bool:
        """Whether the state as it is now is looked at."""
        return self.view is self.state

    async def refresh(self) -> list[Event]:
        """Read and fold what has happened since; the new events."""
        async with self._reading:
            live, first = self.live, self.seq + 1
            new = [event for _, event in await self._journal.read(self.run_id, after=self.seq)]
            for event in new:
                self.state.apply(event)
            self.history += new
            if live:
                self.view_seq = self.seq
        if new and self.on_events is not None:
            self.on_events(first, new)
        return new

    def stops(self) -> list[Stop]:
        """Everything that is held now, in the order in which it stopped."""
        return [Stop(subject, hold, self.seq) for subject, _, hold in self.state.iter_holds()]

    async def wait_stop(
        self, *, but: frozenset[str] = frozenset(), busy: str = "", into: bool = False, timeout_s: float = 0
    ) -> Stop:
        """Until the run is held somewhere, or is over, or nothing but a person moves it on.

        Args:
            but: Subjects that were held before and do not count.
            busy: A task that was let go; once it is over, what was held before counts again.
            into: Whether sub-workflows that begin stay where the debugger stops them; else they are let go.
            timeout_s: 0 waits for ever.

        Raises:
            TimeoutError: It went on for so long.
        """
        end = time.monotonic() + timeout_s if timeout_s else None
        while True:
            await self.refresh()
            if self.state.finished:
                return Stop("", None, self.seq)
            task = self.state.tasks.get(TaskPath(busy)) if busy else None
            again = task is not None and task.terminal
            for stop in self.stops():
                if again or stop.subject not in but:
                    return stop
            if self._stands():
                return next(iter(self.stops()), Stop("", None, self.seq))
            if not into:
                await self._pass_children()
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"run {self.run_id} did not stop within {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    def _stands(self) -> bool:
        """Whether nothing but people (and the time that they have) moves the run on."""
        state = self.state
        return bool(state.held or state.held_stages or state.paused) and all(
            isinstance(command, SetTimer) and not command.timer.startswith(("retry:", "hedge:"))
            for command in state.pending.values()
        )

    async def child_of(self, path: str) -> RunId | None:
        """The run of a sub-workflow that goes on for a task; None where there is none (yet)."""
        task = self.state.tasks.get(TaskPath(path))
        if task is None or task.plan.workflow is None or not task.live:
            return None
        parent = execution_id(self.run_id, task.path, task.live[-1])
        records = await self._journal.runs(limit=None)
        return next((record.run_id for record in records if record.parent == parent), None)

    async def _pass_children(self) -> None:
        """A sub-workflow is a run of its own in the same mode; one that nobody steps into goes on to its end."""
        now = time.monotonic()
        if now < self._children_ms:
            return
        self._children_ms = now + _CHILDREN_S
        for task in self.state.iter_running():
            run = await self.child_of(task.path) if task.plan.workflow is not None else None
            if run is None:
                continue
            created = (await self._journal.read(run, limit=1))[0][1]
            signal = f"over-{run}"
            if getattr(created, "debugs", False):
                now_ms = time.time_ns() // 1_000_000
                body = {"mode": "supervised"}
                await self._journal.put_signal(
                    SignalRecord(signal, run, "mode", self.actor, "stepped over", body, now_ms)
                )

    # --- asking --------------------------------------------------------------------------------------------------

    async def ask(self, kind: str, *, reason: str = "", timeout_s: float = 15.0, **body: Any) -> Event:
        """Give a signal and wait until the run took it.

        Raises:
            RefusedError: It makes no sense now; the message says why.
            RunStateError: The run is over, or an earlier state of it is looked at.
            TimeoutError: Nobody drives the run now; the signal is recorded and counts on resume.
        """
        self._check_now()
        await self.refresh()
        if self.state.finished:
            raise RunStateError(f"run {self.run_id} is over: it can only be looked at", run=self.run_id)
        return await self._ask(kind, reason, timeout_s, body)

    def _check_now(self) -> None:
        if not self.live:
            raise RunStateError(
                f"you look at the run as it was after event {self.view_seq}; go back to now first", run=self.run_id
            )

    async def _ask(self, kind: str, reason: str, timeout_s: float, body: Mapping[str, Any]) -> Event:
        seen = self.seq
        signal = uuid.uuid4().hex
        now_ms = time.time_ns() // 1_000_000
        given = {name: value for name, value in body.items() if value is not None}
        await self._journal.put_signal(SignalRecord(signal, self.run_id, kind, self.actor, reason, given, now_ms))
        end = time.monotonic() + timeout_s
        while True:
            await self.refresh()
            for event in self.history[seen:]:
                if isinstance(event, SignalRefused) and event.signal == signal:
                    raise RefusedError(event.why, kind=kind)
                if isinstance(event, SignalApplied | CancelRequested) and event.signal == signal:
                    return event
            seen = self.seq
            if self.state.finished:
                raise RunStateError(f"run {self.run_id} was over before '{kind}' came", run=self.run_id)
            if time.monotonic() > end:
                raise TimeoutError(f"no process took '{kind}' within {timeout_s:g} s: it is recorded, and counts once "
                                   f"`noa resume {self.run_id}` goes on")  # fmt: skip
            await asyncio.sleep(_POLL_S)

    async def step(self, task: str = "", *, into: bool = False) -> Stop:
        """Let one held task go, and wait for the next stop.

        Args:
            task: Which one; by default the first that the debugger holds.
            into: Whether a sub-workflow that begins so stays stopped before its first task (see `child_of`).
        """
        await self.refresh()
        held = frozenset(stop.subject for stop in self.stops())
        busy = task or next((s.subject for s in self.stops() if s.hold and s.hold.kind in _DEBUGGER), "")
        if busy:
            await self.ask("step", task=busy)
        else:  # what is held by the time that a signal comes is not ours to let go
            await self.interrupt()
        return await self.wait_stop(but=held, busy=busy, into=into)

    async def interrupt(self) -> None:
        """Stop a run that goes on before the next task that begins; what goes on is not touched."""
        if self.state.mode != "debug":
            await self.ask("mode", mode="debug", reason=_REASON)
        elif INTERRUPT not in self.state.debugging.breakpoints:
            await self.ask("break", id=INTERRUPT, place="*", once=True, on="start")

    async def settle(self, kind: str, task: str, *, reason: str = "", **body: Any) -> Stop:
        """Say how a task goes on (retry, skip, override, approve, reject …), and wait for the next stop."""
        held = frozenset(stop.subject for stop in self.stops())
        await self.ask(kind, task=task, reason=reason or _REASON, **body)
        return await self.wait_stop(but=held, busy=task)

    async def set_input(self, task: str, keys: Sequence[str | int], value: Any) -> None:
        """Change an input of a task that has not begun.

        Args:
            keys: Where: name of the input, then keys and indexes inside it.
        """
        self._check_now()
        if not keys:
            raise UsageError("name an input, such as inputs.limit")
        name, *inner = keys
        whole = dict(self.inputs(self.task(task)))
        await self.ask("edit", task=task, inputs={str(name): _replaced(whole.get(str(name)), inner, value)})

    async def next_stage(self) -> Stop:
        """Go on to the first task of the next stage that begins."""
        return await self._go("next")

    async def go_on(self, task: str = "") -> Stop:
        """Go on to the next breakpoint, or to the end."""
        return await self._go("continue", task=task or None)

    async def until(self, place: str) -> Stop:
        """Go on to a task."""
        return await self._go("until", place=place)

    async def _go(self, kind: str, **body: Any) -> Stop:
        if INTERRUPT in self.state.debugging.breakpoints:
            with contextlib.suppress(RefusedError):  # it stopped something just now
                await self._ask("clear", "", 15.0, {"id": INTERRUPT})
        approvals = frozenset(s.subject for s in self.stops() if s.hold and s.hold.kind not in _DEBUGGER)
        await self.ask(kind, **body)
        return await self.wait_stop(but=approvals)

    async def break_at(
        self, place: str = "*", *, when: str = "", once: bool = False, on_failure: bool = False, name: str = ""
    ) -> str:
        """Set a breakpoint; its id.

        Args:
            place: `stage/task`, a stage, or a pattern.
            when: CEL; it stops only where this is true.
            once: It is gone after it stopped once.
            on_failure: It stops after a failed attempt, not before the task.
            name: Its id; a number by default.
        """
        self._breakpoints += 1
        point = name or str(self._breakpoints)
        while not name and point in self.breakpoints:
            self._breakpoints += 1
            point = str(self._breakpoints)
        on: Any = "failure" if on_failure else "start"
        await self.refresh()
        if self.state.finished:
            check_breakpoint(self.plan, place, when=when, on_failure=on_failure)
            condition = condition_of(self.state, when) if when else None
            self._of_the_past()[point] = Breakpoint(point, place, condition, once, on)
        else:
            body = {"id": point, "place": place, "when": when or None, "once": once, "on": on}
            await self._ask("break", "", 15.0, body)
        return point

    async def clear(self, breakpoint_id: str) -> None:
        """Remove a breakpoint."""
        await self.refresh()
        if not self.state.finished:
            await self._ask("clear", "", 15.0, {"id": breakpoint_id})
        elif self._of_the_past().pop(breakpoint_id, None) is None:
            raise RefusedError(f"there is no breakpoint '{breakpoint_id}'", kind="clear")

    @property
    def breakpoints(self) -> Mapping[str, Breakpoint]:
        """By id; of a run that is over, those that stop looking through its past."""
        found = self._of_the_past() if self.state.finished else self.state.debugging.breakpoints
        return {name: point for name, point in found.items() if name != INTERRUPT}

    def _of_the_past(self) -> dict[str, Breakpoint]:
        if self._own is None:
            self._own = dict(self.state.debugging.breakpoints)
        return self._own

    # --- looking -------------------------------------------------------------------------------------------------

    def go_to(self, seq: int) -> RunState:
        """Look at the run as it was after an event; the last one is now. Returns what is looked at.

        Raises:
            UsageError: There is no such event.
        """
        if not 1 <= seq <= self.seq:
            raise UsageError(f"the run has events 1 to {self.seq}, not {seq}", run=self.run_id)
        if seq == self.seq:
            self.view = self.state
        else:
            if self.live or seq < self.view_seq:
                self.view, self.view_seq = RunState(self.plan), 0
            for event in self.history[self.view_seq : seq]:
                self.view.apply(event)
        self.view_seq = seq
        return self.view

    def task(self, path: str) -> TaskNode:
        """A task of the state that is looked at. Raises UsageError."""
        found = self.view.tasks.get(TaskPath(path))
        if found is None:
            raise UsageError(f"there is no task '{path}' now. There are: {', '.join(list(self.view.tasks)[:20])}")
        return found

    def inputs(self, task: TaskNode) -> Mapping[str, Any]:
        """What a task is given: what it was given, or would be as things stand."""
        if task.inputs is not None:
            return {**task.inputs, **(task.edits or {})}
        for event in reversed(self.history[: self.view_seq]):
            if getattr(event, "task", "") == task.path and type(event).__name__ in ("TaskScheduled", "TaskHeld"):
                inputs: dict[str, Any] = getattr(event, "inputs", {})
                return inputs or self.view.wired_inputs(task)
        return {}

    def inputs_of(self, path: str) -> Mapping[str, Any]:
        """What the task of a path is given; empty where there is no such task now."""
        task = self.view.tasks.get(TaskPath(path))
        return self.inputs(task) if task is not None else {}

    def evaluate(self, text: str, task: str = "") -> Any:
        """The value of an expression in the state that is looked at.

        Args:
            text: CEL; inputs, stages, run are in scope, and for a task also tasks, task, item and the like.
            task: Path of the task in whose place it is evaluated.

        Raises:
            ExpressionError: It does not compile, or fails.
        """
        node = self.view.tasks.get(TaskPath(task)) if task else None
        stages = {
            name: [t.name for template in stage.templates.values() for t in template.tasks]
            for name, stage in self.plan.stages.items()
        }
        block = node.block if node is not None else None
        names = {"task", *(block.bindings if block is not None else ())} if node is not None else set()
        tasks = [t.plan.name for t in block.tasks] if block is not None else ()
        compiled: Expression = snippet(text, names, stages, tasks)
        bindings = about(node, dict(self.inputs(node))) if node is not None else {}
        return self._evaluator.evaluate(
            compiled, scope_for(self.view, reads_of(compiled), block=block, bindings=bindings)
        )

    def is_true(self, point: Breakpoint, task: TaskNode) -> bool:
        """Whether the condition of a breakpoint is true of a task in the state that is looked at."""
        if point.when is None:
            return True
        bindings = about(task, dict(self.inputs(task)))
        scope = scope_for(self.view, reads_of(point.when), block=task.block, bindings=bindings)
        try:
            return self._evaluator.evaluate_bool(point.when, scope)
        except Exception:  # as in a run that goes on: stopping is what a person sees
            return True


def _replaced(whole: Any, keys: Sequence[str | int], value: Any) -> Any:
    """A copy of a value in which the part that the keys name is another one."""
    if not keys:
        return value
    key, *inner = keys
    if isinstance(whole, Mapping):
        return {**whole, str(key): _replaced(whole.get(str(key)), inner, value)}
    if isinstance(whole, list) and isinstance(key, int) and 0 <= key < len(whole):
        return [*whole[:key], _replaced(whole[key], inner, value), *whole[key + 1 :]]
    raise UsageError(f"there is nothing at '{key}' of {type(whole).__name__} {str(whole)[:80]}")
