"""Shows a run that is in the store already: its past first, then what another process does with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from noa.cli.people import questions_of
from noa.cli.session import OVER, find_run, is_driven, plugin_needed
from noa.cli.watch import KEPT_TASKS, Watch
from noa.engine.engine import Running
from noa.engine.state import RunState
from noa.errors import DefinitionError, OwnershipError, PluginError, RunStateError
from noa.model.events import Event, RunCreated
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel
from noa.plugin import Journal
from noa.runtime import Runtime

__all__ = ["Past", "check_over", "follow", "read_past"]

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Past:
    """What is recorded of a run.

    Attributes:
        plan: Compiled from the definition with which the run began.
        events: In order, from its first one.
    """

    run_id: RunId
    plan: Plan
    events: list[Event]

    @property
    def created(self) -> RunCreated:
        """Its first event."""
        first = self.events[0]
        assert isinstance(first, RunCreated)
        return first

    def show(self, watch: Watch, run: RunId | None = None) -> None:
        """Have the watch begin where these events end."""
        watch.model = ProgressModel(self.plan, keep=KEPT_TASKS)
        watch.run_id = run or self.run_id
        for event in self.events:
            watch.model.apply(event)


async def read_past(runtime: Runtime, run: str) -> Past:
    """Everything recorded about the run of this id, unique beginning of an id, or `latest`.

    Raises:
        RunNotFoundError: There is none.
        UsageError: A plugin with which it was begun is missing now.
    """
    record = await find_run(runtime.journal, run, runtime.home)
    events = [event for _, event in await runtime.journal.read(record.run_id)]
    created = events[0]
    assert isinstance(created, RunCreated)
    try:
        plan = await runtime.engine.pinned_plan(created)
    except (DefinitionError, PluginError) as error:
        raise plugin_needed(record.run_id, error) from error
    return Past(record.run_id, plan, events)


async def check_over(runtime: Runtime, past: Past, *, instead: str) -> None:
    """Refuse a run that another process drives now, before anything is taken over.

    Raises:
        RunStateError: It goes on; the message says what to do, `instead` among it.
    """
    record = await runtime.journal.run(past.run_id)
    if record.status not in OVER and is_driven(record):
        raise RunStateError(
            f"run {past.run_id} is not over: another process drives it. See what it waits for with "
            f"`noa why {past.run_id}`, {instead}",
            run=past.run_id,
            status=record.status,
        )


async def follow(runtime: Runtime, watch: Watch, past: Past, *, wait: bool) -> RunState | Running:
    """Show what another process does with a run, until it is over or nobody drives it; then it is taken over here.

    Args:
        wait: Whether to stay where nothing but people moves the run on.

    Returns:
        The state of a run that is over, or that waits for people only; or the run, which now goes on here.
    """
    journal, run = runtime.journal, past.run_id
    state = RunState(past.plan)
    for event in past.events:
        state.apply(event)
    after = len(past.events)
    try:
        while not state.finished:
            for seq, event in await journal.read(run, after=after):
                watch.on_event(run, seq, event)
                state.apply(event)
                after = seq
            if state.finished:
                break
            if not is_driven(await journal.run(run)):  # an answer that waits for an engine counts, too
                running = await _taken_over(runtime, run, past.plan, journal, after)
                if running is not None:
                    return running
            else:
                watch.asked(questions_of(state))
                if state.waiting and not wait:
                    break
            await asyncio.sleep(_POLL_S)
    except asyncio.CancelledError:
        watch.write(f"no longer followed; run {run} goes on. End it with: noa cancel {run}")
        raise
    return state


async def _taken_over(runtime: Runtime, run: RunId, plan: Plan, journal: Journal, after: int) -> Running | None:
    if await journal.read(run, after=after, limit=1):
        return None  # there is more to show first
    try:
        return await runtime.engine.resume(run, plan=plan)
    except (OwnershipError, RunStateError):
        return None  # somebody else was quicker, or it ended
