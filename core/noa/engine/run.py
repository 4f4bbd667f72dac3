"""The shell of one run: takes what happened, asks the core, appends durably, then acts. It decides nothing.

Outcomes that arrive while an append is under way are folded in together and share the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec

from noa.engine.commands import CancelAttempt, Effect, Execute, LookUp, SetTimer
from noa.engine.core import Core
from noa.engine.durations import Durations
from noa.engine.guards import Guards
from noa.engine.masking import MaskedView, masked_outcome
from noa.engine.outputs import OutputKeeper
from noa.engine.ports import Clock, Dispatcher, EventObserver, Secrets, TaskObserver, Timer
from noa.errors import ConflictError, JournalError, NoaError, OwnershipError
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Event,
    LateResult,
    Recalled,
    TimerFired,
    decode_event,
    encode_event,
)
from noa.model.execution import Assignment, Observation, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId, TaskPath, execution_id, idempotency_key
from noa.model.plan import TaskPlan
from noa.model.secrets import fill
from noa.plugin import Journal, Lease, SignalRecord

__all__ = ["LiveRun", "SubWorkflows"]

log = logging.getLogger("noa.engine")


class SubWorkflows(Protocol):
    """Runs sub-workflows as runs of their own."""

    async def execute(self, parent: LiveRun, assignment: Assignment, name: str) -> Outcome:
        """Run the child of this name, or go on with it where it was begun before."""

    async def undo(self, parent: LiveRun, assignment: Assignment, name: str) -> Outcome:
        """Undo every child of this name that attempts of the task that `assignment` undoes have begun."""

    async def cancel(self, execution: ExecutionId, reason: str) -> None:
        """Ask the child of an execution to end; `execute` then gives a Failure CANCELLED."""


_EVENTS_PER_APPEND = 5_000


class LiveRun:
    """A run that this process owns and drives.

    Args:
        core: Its state and decisions.
        lease: The right to append.
        seq: Sequence number of its last event.
    """

    def __init__(
        self,
        *,
        core: Core,
        lease: Lease,
        seq: int,
        journal: Journal,
        dispatcher: Dispatcher,
        clock: Clock,
        outputs: OutputKeeper,
        sub_workflows: SubWorkflows,
        secrets: Secrets,
        guards: Guards,
        durations: Durations,
        on_event: EventObserver,
        on_observation: TaskObserver,
    ) -> None:
        self.core = core
        self.state = core.state
        self.lease = lease
        self.seq = seq
        self._journal = journal
        self._dispatcher = dispatcher
        self._clock = clock
        self._outputs = outputs
        self._sub_workflows = sub_workflows
        self._secrets = secrets
        self._guards = guards
        self._durations = durations
        self._on_event = on_event
        self._on_observation = on_observation
        self._inbox: deque[Event | SignalRecord] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._broken: JournalError | None = None
        self._timers: dict[str, Timer] = {}
        self._attempts: dict[ExecutionId, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    @property
    def run_id(self) -> RunId:
        """The run."""
        return self.state.run_id

    async def drive(self, events: list[Event], effects: list[Effect]) -> None:
        """Go on until the run is over.

        Args:
            events: To append first (from `Core.outstanding` or `Core.advance`).
            effects: To do once those are on disk.

        Raises:
            JournalError: The store failed or the run has another owner now; what was appended stays, attempts that were
                going on are ended here, and the run can be resumed.
        """
        try:
            while True:
                if events:
                    await self._append(events)
                for effect in effects:
                    self._act(effect)
                if self.state.finished:
                    break
                if not self._inbox:
                    await self._something()
                events, effects = self._fold()
        finally:
            await self._stop()
        await self._dispatcher.release(self.run_id, self.state.agents)

    def post(self, event: Event | SignalRecord) -> None:
        """Hand in something that happened, or a signal. From the event loop's thread."""
        self._inbox.append(event)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    @property
    def lost(self) -> JournalError | None:
        """Why it is not driven here any more."""
        return self._broken

    def lose(self, error: JournalError) -> None:
        """Stop driving the run: its lease was lost."""
        self._broken = error
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def cancel(self, *, actor: str, reason: str, signal: str = "") -> None:
        """Ask the run to end; returns at once. Nothing happens where it is over."""
        self.post(CancelRequested(at_ms=self._clock.now_ms(), actor=actor, reason=reason, signal=signal))

    async def _something(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        if self._broken is None:
            await self._wake
        self._wake = None
        if self._broken is not None:
            raise self._broken

    def _fold(self) -> tuple[list[Event], list[Effect]]:
        events: list[Event] = []
        effects: list[Effect] = []
        inbox = self._inbox
        while inbox and len(events) < _EVENTS_PER_APPEND and not self.state.finished:
            event = inbox.popleft()
            if isinstance(event, SignalRecord):
                new_events, new_effects = self.core.signalled(event, self._clock.now_ms())
                events += new_events
                effects += new_effects
                continue
            if isinstance(event, AttemptSucceeded | AttemptFailed) and not self.state.accepts(
                event.task, event.attempt
            ):
                outcome = event.failure.code if isinstance(event, AttemptFailed) else "succeeded"
                event = LateResult(at_ms=event.at_ms, task=event.task, attempt=event.attempt, outcome=outcome)
            elif not self._still_wanted(event):
                continue
            new_events, new_effects = self.core.advance(event)
            events += new_events
            effects += new_effects
        return events, effects

    def _still_wanted(self, event: Event) -> bool:
        if isinstance(event, TimerFired):
            return f"timer:{event.timer}" in self.state.pending
        return not isinstance(event, Recalled) or self.state.looks_up(event.task, event.attempt)

    async def _append(self, events: list[Event]) -> None:
        for start in range(0, len(events), _EVENTS_PER_APPEND):
            part = events[start : start + _EVENTS_PER_APPEND]
            try:
                last = await self._journal.append(self.lease, part, expected_seq=self.seq)
            except ConflictError as error:
                raise OwnershipError(
                    f"run {self.run_id} is driven by another engine now; this one stops", run=self.run_id
                ) from error
            first, self.seq = self.seq + 1, last
            for seq, event in enumerate(part, first):
                self._on_event(self.run_id, seq, event)

    # --- effects

    def _act(self, effect: Effect) -> None:
        match effect:
            case Execute(task=path, attempt=attempt):
                if self.state.accepts(path, attempt):
                    self._execute(path, attempt)
            case LookUp():
                self._in_background(self._look_up(effect))
            case SetTimer(timer=timer, due_ms=due_ms):
                before = self._timers.pop(timer, None)
                if before is not None:
                    before.cancel()  # it was set anew
                # What set it may be of a time to which the clock was put back: it lasts no longer for that.
                behind_ms = max(0, self.state.now_ms - self._clock.now_ms())
                self._timers[timer] = self._clock.call_at(due_ms - behind_ms, lambda: self._fire(timer))
            case CancelAttempt(task=path, attempt=attempt, reason=reason):
                self._cancel_attempt(path, attempt, reason)

    async def _look_up(self, effect: LookUp) -> None:
        try:
            found = await self._journal.recall(effect.kept, not_before_ms=effect.not_before_ms)
        except JournalError as error:
            self.lose(error)
            return
        head: dict[str, Any] = {"at_ms": self._clock.now_ms(), "task": effect.task, "attempt": effect.attempt}
        if found is None:
            self.post(Recalled(**head))
        else:
            outputs = dict(found.outputs)
            self.post(Recalled(found=True, outputs=outputs, run=found.run_id, made_at_ms=found.made_at_ms, **head))

    def _fire(self, timer: str) -> None:
        del self._timers[timer]
        self.post(TimerFired(at_ms=self._clock.now_ms(), timer=timer))

    def _execute(self, path: TaskPath, attempt: int) -> None:
        task = self.state.tasks[path]
        run_id = self.run_id
        plan = task.plan
        assignment = Assignment(
            execution_id=execution_id(run_id, path, attempt),
            idempotency_key=idempotency_key(run_id, path, task.redone),
            run_id=run_id,
            workflow=self.state.plan.name,
            stage=task.block.stage.plan.name,
            task=path,
            attempt=attempt,
            agent=task.agent,
            action=task.action,
            inputs=task.inputs or {},
            resources=plan.resources,
            timeouts=plan.timeouts,
            priority=plan.priority,
            output_uri=self.state.output_uri,
            confidential=bool(plan.secrets),
        )
        work = self._attempt(assignment, plan)
        self._attempts[assignment.execution_id] = asyncio.get_running_loop().create_task(work)

    async def _attempt(self, assignment: Assignment, plan: TaskPlan) -> None:
        clock, secrets, workflow = self._clock, self._secrets, plan.workflow
        started_ms = clock.now_ms()
        path, attempt = assignment.task, assignment.attempt

        def told(observation: Observation) -> None:
            self._on_observation(assignment.run_id, path, attempt, observation)

        seen = MaskedView(secrets, told)
        guards = self.core.guards(path)
        admitted = False
        outcome: Outcome = _NO_OUTCOME

        try:
            refusal = self._guards.admit(guards, assignment.agent, assignment.action, started_ms) if guards else None
            admitted = refusal is None
            if refusal is not None:
                outcome = refusal
            elif workflow is None:
                given = assignment
                if assignment.inputs:
                    inputs = self._outputs.whole(assignment.inputs)
                    if plan.secrets:
                        inputs = fill(plan.inputs, inputs, secrets.value)
                    if inputs is not assignment.inputs:
                        given = msgspec.structs.replace(assignment, inputs=inputs)
                outcome = await self._dispatcher.execute(given, seen)
            elif self.state.tasks[path].undoes is not None:
                outcome = await self._sub_workflows.undo(self, assignment, workflow)
            else:
                outcome = await self._sub_workflows.execute(self, assignment, workflow)
            outcome = masked_outcome(outcome, secrets)
            if isinstance(outcome, Succeeded) and outcome.outputs:
                outcome = self._outputs.keep(outcome, path)
        except JournalError as error:
            self.lose(error)
            return
        except NoaError as error:
            outcome = masked_outcome(Failure.of(error), secrets)
        except Exception as error:  # an agent kind is foreign code; whatever it raises must not stop the run
            log.exception("execution %s raised", assignment.execution_id)
            outcome = masked_outcome(Failure("INTERNAL", f"{type(error).__name__}: {error}"), secrets)
        finally:
            seen.flush()
            self._attempts.pop(assignment.execution_id, None)
            if guards and admitted:
                self._guards.observe(guards, assignment.agent, assignment.action, _ended_as(outcome), clock.now_ms())
        self.post(self._ended(assignment, outcome, started_ms))

    def _ended(self, assignment: Assignment, outcome: object, started_ms: int) -> Event:
        """The event of an outcome, proven to be readable again: what a journal cannot give back must not get there."""
        at_ms = self._clock.now_ms()
        head: dict[str, Any] = {"at_ms": at_ms, "task": assignment.task, "attempt": assignment.attempt}
        head["duration_ms"] = at_ms - started_ms
        try:
            if isinstance(outcome, Succeeded):
                keep = self.core.keeps(assignment.task)
                made: Event = AttemptSucceeded(outputs=outcome.outputs, metrics=outcome.metrics, keep=keep, **head)
                plain = outcome.outputs == {} and not outcome.metrics
                self._durations.add(assignment.agent, assignment.action, at_ms - started_ms)
                return made if plain else decode_event(encode_event(made))
            if isinstance(outcome, Failure):
                made = AttemptFailed(failure=outcome, jitter=self._clock.random(), **head)
                return decode_event(encode_event(made))
            problem = f"agent '{assignment.agent}' gave a {type(outcome).__name__} where an outcome was expected"
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError) as error:
            problem = f"what agent '{assignment.agent}' gave cannot be recorded: {type(error).__name__}: {error}"
            if isinstance(outcome, Failure):
                problem = f"{outcome.code}: {outcome.message} ({problem})"
        printable = problem.encode("utf-8", "backslashreplace").decode()
        code = "INVALID_OUTPUT" if isinstance(outcome, Succeeded) else "INTERNAL"
        return AttemptFailed(failure=Failure(code, printable), jitter=self._clock.random(), **head)

    def _cancel_attempt(self, path: TaskPath, attempt: int, reason: str) -> None:
        execution = execution_id(self.run_id, path, attempt)
        if execution not in self._attempts and not self.state.accepts(path, attempt):
            return  # it never began here, and nobody waits for its end
        if self.state.tasks[path].plan.workflow is not None:
            if execution not in self._attempts:
                self._execute(path, attempt)  # the child is on disk, and must end there too
            self._in_background(self._sub_workflows.cancel(execution, reason))
        elif execution in self._attempts:
            self._in_background(self._dispatcher.cancel(execution, reason=reason))
        else:
            # The engine that began it is gone, and with it the agents that it had started.
            failure = Failure("CANCELLED", reason)
            self.post(AttemptFailed(at_ms=self._clock.now_ms(), task=path, attempt=attempt, failure=failure))

    def _in_background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        left = [*self._attempts.values(), *self._background]
        for task in left:
            task.cancel()
        if left:
            await asyncio.gather(*left, return_exceptions=True)


def _ended_as(outcome: object) -> Failure | None:
    return None if isinstance(outcome, Succeeded) else outcome if isinstance(outcome, Failure) else _NO_OUTCOME


_NO_OUTCOME = Failure("CANCELLED", "the attempt gave no outcome")
