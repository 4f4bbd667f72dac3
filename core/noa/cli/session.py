"""Opens the store for commands that read, and finds runs by what a person types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from noa.cli.text import one_line
from noa.definitions import parse_plan
from noa.engine.state import RunState
from noa.errors import DefinitionError, NoaError, PluginError, RunNotFoundError, UsageError
from noa.model.events import Event, RunCreated
from noa.model.execution import Observation, Stage, Waiting
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel
from noa.plugin import Journal, Registry, RunRecord
from noa.runtime import Settings, open_journal
from noa.storage import ObservationStore, is_dead

__all__ = ["OVER", "History", "Store", "find_run", "is_driven", "now_ms", "open_store", "plugin_needed", "run_async"]

T = TypeVar("T")

OVER = frozenset({"succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"})
"""Statuses of runs that are over, unless they are reopened."""


def now_ms() -> int:
    """UTC epoch milliseconds."""
    return time.time_ns() // 1_000_000


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(work())


@dataclass(frozen=True, slots=True)
class History:
    """A run as its journal has it.

    Attributes:
        plan: None where it cannot be compiled now, such as when a plugin is missing; `problem` then says why.
        state: The exact state; None without a plan.
        view: As people see it; also without a plan.
    """

    record: RunRecord
    events: list[tuple[int, Event]]
    plan: Plan | None
    state: RunState | None
    view: ProgressModel
    problem: str = ""


class Store:
    """The journal and what was observed, for reading; nothing is started or taken over."""

    def __init__(self, settings: Settings, registry: Registry, journal: Journal) -> None:
        self.settings = settings
        self.registry = registry
        self.journal = journal
        self.home = settings.home.absolute()

    async def find(self, run: str) -> RunRecord:
        """The run of this id, of this unique beginning of an id, or the `latest`.

        Raises:
            RunNotFoundError: There is none.
        """
        return await find_run(self.journal, run, self.home)

    async def history(self, run: str) -> History:
        """Everything recorded about a run, folded."""
        record = await self.find(run)
        events = await self.journal.read(record.run_id)
        created = events[0][1]
        assert isinstance(created, RunCreated)
        plan, problem = None, ""
        try:
            texts = {name: await self.journal.text(sha) for name, sha in created.definitions.items()}
            plan = parse_plan(texts[""], created.workflow, registry=self.registry, base=None, texts=texts)
        except (DefinitionError, PluginError) as error:
            problem = error.message
        state = RunState(plan) if plan is not None else None
        view = ProgressModel(plan)
        for _, event in events:
            view.apply(event)
            if state is not None:
                state.apply(event)
        if state is not None:
            view.settle({path: task.status for path, task in state.tasks.items()})
        return History(record, events, plan, state, view, problem)

    async def children(self, history: History) -> list[History]:
        """The sub-workflows of a run that go on now, and theirs."""
        state, run = history.state, history.record.run_id
        if state is None or not any(t.plan.workflow is not None and not t.terminal for t in state.tasks.values()):
            return []
        found: list[History] = []
        for record in await self.journal.runs(limit=None):
            if record.parent.startswith(f"{run}:") and record.status not in OVER:
                child = await self.history(record.run_id)
                found += [child, *await self.children(child)]
        return found

    async def seen(self, history: History) -> dict[TaskPath, Observation]:
        """The latest Stage or Waiting of each task that has an attempt going on."""
        found: dict[TaskPath, Observation] = {}
        going = {t.path: t.attempt for s in history.view.stages.values() for t in s.tasks.values() if not t.over}
        if not (self.home / "observations.db").is_file():
            return found
        async with self.observations() as observations:
            after = 0
            while batch := observations.read(history.record.run_id, after_id=after):
                for entry in batch:
                    after = entry.id
                    task = TaskPath(entry.task)
                    if going.get(task) == entry.attempt:
                        at = entry.observation
                        found[task] = at if isinstance(at, Stage | Waiting) else Stage("running")
        return found

    async def watch_now(self, history: History) -> None:
        """Fold into the view what was last seen of its attempts. One that waits is always seen; others are at work."""
        seen = await self.seen(history)
        for stage in history.view.stages.values():
            for task in list(stage.queued.values()):
                history.view.observe(task.path, task.attempt, seen.get(task.path, Stage("running")))

    @asynccontextmanager
    async def observations(self) -> AsyncIterator[ObservationStore]:
        """Logs and progress."""
        store = ObservationStore(self.home / "observations.db")
        try:
            yield store
        finally:
            store.close()


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store of these settings for reading.

    Raises:
        RunNotFoundError: There is no store yet, so no run either; nothing was made.
    """
    _check_home(settings)
    registry = Registry.load(settings.plugins)
    journal = open_journal(registry, settings, settings.home.absolute())
    await journal.open()
    try:
        yield Store(settings, registry, journal)
    finally:
        await journal.close()


def _check_home(settings: Settings) -> None:
    if settings.journal is None and not settings.home.is_dir():
        raise RunNotFoundError(
            f"no runs: the state folder {settings.home.absolute()} does not exist. Begin one with `noa run FILE`, or "
            "name another folder with --home or NOA_HOME"
        )


def is_driven(record: RunRecord) -> bool:
    """Whether a live engine holds the run's lease."""
    return bool(record.owner) and record.lease_until_ms > now_ms() and not is_dead(record.owner)


def plugin_needed(run: str, error: NoaError) -> UsageError:
    """What to say where a run's definition, which was right when it began, cannot be read now."""
    return UsageError(
        f"run {run} cannot go on without the plugins with which it was begun: name each by --plugin FILE.py. "
        f"Missing now: {one_line(error.message, 200)}"
    )


async def find_run(journal: Journal, run: str, home: Path) -> RunRecord:
    """See `Store.find`."""
    if run != "latest":
        from noa.model.ids import RunId

        return await journal.run(RunId(run))
    for record in await journal.runs(limit=1000):
        if not record.parent:
            return record
    raise RunNotFoundError(f"no runs in {home}. Begin one with `noa run FILE`")
