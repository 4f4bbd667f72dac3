"""A debugger over a run: stops, steps, breakpoints, inspection, time travel. `noa debug` and `noa dap` are made of it.

It knows a run by its journal only, and speaks to it by signals only. So the same object serves a run of this process,
one that another process drives, one that nobody drives now, and one that is over (read only).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from noa.definitions import Evaluator
from noa.definitions.snippets import snippet
from noa.engine.gates import about
from noa.engine.nodes import TaskNode
from noa.engine.scope import reads_of, scope_for
from noa.engine.state import RunState
from noa.errors import RunStateError, UsageError
from noa.model.events import Event, Hold, SignalApplied, SignalRefused
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Expression, Plan
from noa.plugin import Journal, SignalRecord

__all__ = ["Debugger", "RefusedError", "Stop"]

_POLL_S = 0.03
_DEBUGGER = ("breakpoint", "step", "failure")


class RefusedError(UsageError):
    """The run refused what was asked of it, because it makes no sense now; nothing was changed."""

    code = "SIGNAL_REFUSED"


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run stands still for the debugger, or why it does not.

    Attributes:
        subject: Path of the task, or name of the stage; empty when the run is over.
        hold: What holds it; None when the run is over.
        seq: Sequence number of the last event.
    """

    subject: str
    hold: Hold | None
    seq: int


class Debugger:
    """Follows one run.

    Args:
        journal: Open; where the run is.
        plan: Of the run.
        actor: Who debugs; stands with everything that is asked.

    `view` is the state that is looked at: the run as it is now, or as it was after an earlier event (`go_to`).
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
        self._evaluator = Evaluator()
        self._breakpoints = 0

    @classmethod
    async def attach(cls, journal: Journal, run: RunId, plan: Plan, *, actor: str) -> Self:
        """Follow a run from where it is now."""
        debugger = cls(journal, run, plan, actor=actor)
        await debugger.refresh()
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
        new = [event for _, event in await self._journal.read(self.run_id, after=self.seq)]
        for event in new:
            self.state.apply(event)
        self.history += new
        if self.live:
            self.view_seq = self.seq
        return new

    def stops(self) -> list[Stop]:
        """Everything that is held now, in the order in which it stopped."""
        return [Stop(subject, hold, self.seq) for subject, _, hold in self.state.iter_holds()]

    async def wait_stop(self, *, but: frozenset[str] = frozenset(), busy: str = "", timeout_s: float = 0) -> Stop:
        """Until the run is held somewhere, or is over.

        Args:
            but: Subjects that were held before and do not count.
            busy: A task that was let go; once it is over, what was held before counts again.
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
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"run {self.run_id} did not stop within {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    # --- asking --------------------------------------------------------------------------------------------------

    async def ask(self, kind: str, *, reason: str = "", timeout_s: float = 15.0, **body: Any) -> SignalApplied:
        """Give a signal and wait until the run took it.

        Raises:
            RefusedError: It makes no sense now; the message says why.
            RunStateError: The run is over, or an earlier state of it is looked at.
            TimeoutError: Nobody drives the run now; the signal is recorded and counts on resume.
        """
        if not self.live:
            raise RunStateError(
                f"you look at the run as it was after event {self.view_seq}; go back to now first", run=self.run_id
            )
        await self.refresh()
        if self.state.finished:
            raise RunStateError(f"run {self.run_id} is over: it can only be looked at", run=self.run_id)
        signal = uuid.uuid4().hex
        now_ms = time.time_ns() // 1_000_000
        given = {name: value for name, value in body.items() if value is not None}
        await self._journal.put_signal(SignalRecord(signal, self.run_id, kind, self.actor, reason, given, now_ms))
        end = time.monotonic() + timeout_s
        while True:
            for event in await self.refresh():
                if isinstance(event, SignalRefused) and event.signal == signal:
                    raise RefusedError(event.why, kind=kind)
                if isinstance(event, SignalApplied) and event.signal == signal:
                    return event
            if time.monotonic() > end:
                raise TimeoutError(f"no process took '{kind}' within {timeout_s:g} s: it is recorded, and counts once "
                                   f"`noa resume {self.run_id}` goes on")  # fmt: skip
            await asyncio.sleep(_POLL_S)

    async def step(self, task: str = "") -> Stop:
        """Let one held task go, and wait for the next stop."""
        held = frozenset(stop.subject for stop in self.stops())
        busy = task or next((s.subject for s in self.stops() if s.hold and s.hold.kind in _DEBUGGER), "")
        await self.ask("step", task=busy or None)
        return await self.wait_stop(but=held, busy=busy)

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
        while not name and point in self.state.debugging.breakpoints:
            self._breakpoints += 1
            point = str(self._breakpoints)
        on = "failure" if on_failure else "start"
        await self.ask("break", id=point, place=place, when=when or None, once=once, on=on)
        return point

    async def clear(self, breakpoint_id: str) -> None:
        """Remove a breakpoint."""
        await self.ask("clear", id=breakpoint_id)

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
            self.view = RunState(self.plan)
            for event in self.history[:seq]:
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
