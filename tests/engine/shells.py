"""Real engines on real stores, whose agents a test holds in its hands."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from noa.engine.engine import Engine
from noa.model.events import Event
from noa.model.execution import Assignment, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.plugin import Journal, Registry
from noa.storage import FileArtifactStore, SqliteJournal, new_owner

__all__ = ["Agents", "Setup"]


class Agents:
    """A dispatcher whose work the test holds in its hands."""

    def __init__(self) -> None:
        self.asked: list[Assignment] = []
        self.released: list[tuple[RunId, set[str]]] = []
        self.waiting: dict[ExecutionId, asyncio.Future[Outcome]] = {}
        self.answers: dict[str, Callable[[Assignment], Outcome]] = {}
        self.arrived = asyncio.Event()

    async def execute(self, assignment: Assignment, observe: Any) -> Outcome:
        self.asked.append(assignment)
        self.arrived.set()
        if assignment.action in self.answers:
            return self.answers[assignment.action](assignment)
        future = asyncio.get_running_loop().create_future()
        self.waiting[assignment.execution_id] = future
        try:
            return await future
        finally:
            del self.waiting[assignment.execution_id]

    async def cancel(self, execution: ExecutionId, *, grace_s: float = 5.0, reason: str = "") -> None:
        if execution in self.waiting:
            self.waiting[execution].set_result(Failure("CANCELLED", reason))

    async def release(self, run: RunId, agents: Collection[str]) -> None:
        self.released.append((run, set(agents)))

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            self.arrived.clear()
            await asyncio.wait_for(self.arrived.wait(), 10)


class Setup:
    """An engine on a store in a folder, and more engines on the same store."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.registry = registry
        self.agents = Agents()
        self.seen: list[tuple[RunId, int, Event]] = []
        self._open: list[tuple[Engine, Journal]] = []

    async def engine(self, *, journal: Journal | None = None, **options: Any) -> Engine:
        made = journal or SqliteJournal(f"sqlite://{self.folder / 'noa.db'}")
        await made.open()
        engine = Engine(
            registry=self.registry,
            journal=made,
            dispatcher=self.agents,
            artifacts=FileArtifactStore(f"file://{self.folder / 'artifacts'}"),
            owner=options.pop("owner", None) or new_owner(),
            on_event=options.pop("on_event", lambda *event: self.seen.append(event)),
            **options,
        )
        self._open.append((engine, made))
        return engine

    async def close(self) -> None:
        for engine, journal in self._open:
            await engine.close()
            await journal.close()
