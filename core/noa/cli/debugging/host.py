"""Begins runs for a debugger in this process, and attaches to those of the store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from noa.cli.actor import actor_of
from noa.cli.follow import read_past
from noa.cli.session import is_driven, now_ms
from noa.engine.engine import Running
from noa.errors import RunNotFoundError, RunStateError
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.modes.debugger import Debugger
from noa.plugin import SignalRecord
from noa.runtime import Runtime, Settings
from noa.storage import ObservationRecord

__all__ = ["Host", "Target"]


@dataclass(slots=True)
class Target:
    """A run that is debugged.

    Attributes:
        running: Where this process drives it; None where another one does, or it is over.
        before: The mode to give back when the debugger lets go of it.
        how: How it came to be debugged, one sentence.
    """

    debugger: Debugger
    running: Running | None
    before: str
    how: str


class Host:
    """The open store and, where a run is driven here, the engine. Use it as an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime = Runtime(settings)
        self._actor = ""

    async def __aenter__(self) -> Self:
        self._actor = actor_of(self.settings)
        await self.runtime.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runtime.close()

    def load(self, program: str) -> Plan:
        """Compile a definition. Raises DefinitionError, UsageError."""
        return self.runtime.load(program)

    async def begin(self, plan: Plan, inputs: Mapping[str, Any], *, mode: str = "debug") -> Target:
        """Begin a run; in mode debug it stops before its first task."""
        running = await self.runtime.engine.start(
            plan, inputs, actor=self._actor, output_uri=self.runtime.output_uri, mode=mode
        )
        debugger = await Debugger.attach(self.runtime.journal, running.run_id, plan, actor=self._actor)
        return Target(debugger, running, plan.mode, f"run {running.run_id} begins")

    async def attach(self, run: str) -> Target:
        """Stop a run that goes on, take over one that nobody drives, or look at one that is over.

        Raises:
            RunNotFoundError: There is none.
            UsageError: A plugin with which it was begun is missing now.
        """
        past = await read_past(self.runtime, run)
        journal, run_id, plan = self.runtime.journal, past.run_id, past.plan
        debugger = await Debugger.attach(journal, run_id, plan, actor=self._actor)
        mode = debugger.state.mode
        before = plan.mode if mode == "debug" else mode
        if debugger.state.finished:
            status = debugger.state.status.replace("_", " ")
            how = f"run {run_id} is over ({status}): it can be looked at, from its beginning"
            return Target(debugger, None, before, how)
        if is_driven(await journal.run(run_id)):
            if mode != "debug":
                try:
                    await debugger.ask("mode", mode="debug", reason="a debugger attached")
                except TimeoutError as error:
                    raise RunStateError(f"run {run_id} did not stop: {error}", run=run_id) from error
            return Target(debugger, None, before, f"run {run_id} goes on in another process: it stops (was in {mode})")
        if mode != "debug":
            signal = SignalRecord(
                uuid.uuid4().hex, run_id, "mode", self._actor, "a debugger attached", {"mode": "debug"}, now_ms()
            )
            await journal.put_signal(signal)
        running = await self.runtime.engine.resume(run_id, plan=plan)
        return Target(debugger, running, before, f"run {run_id} was driven by nobody: it goes on here, and stops")

    async def child(self, run: RunId, parent: Target) -> Target:
        """The run of a sub-workflow that goes on for a task of another target."""
        past = await read_past(self.runtime, run)
        debugger = await Debugger.attach(self.runtime.journal, run, past.plan, actor=self._actor)
        running = self.runtime.engine.running(run)
        return Target(debugger, running, parent.before, f"run {run}, a sub-workflow of {parent.debugger.run_id}")

    def observed(self, run: RunId, *, after_id: int = 0, task: str | None = None) -> list[ObservationRecord]:
        """What was observed of a run's tasks since."""
        if not (self.runtime.home / "observations.db").is_file() and self.runtime.engine.count == 0:
            return []
        return self.runtime.observations.read(run, after_id=after_id, task=task)

    def text_of(self, path: str) -> str | None:
        """Text of a file; None where there is none."""
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    async def close(self) -> None:
        """Let go of everything; a run that is not over stays as it is."""
        await self.runtime.close()

    async def is_driven(self, run: RunId) -> bool:
        """Whether some process drives it now."""
        return is_driven(await self.runtime.journal.run(run))

    @staticmethod
    def check_home(settings: Settings) -> None:
        """Refuse a folder without runs before it is made. Raises RunNotFoundError."""
        home: Path = settings.home.absolute()
        if settings.journal is None and not home.is_dir():
            raise RunNotFoundError(f"no runs: the state folder {home} does not exist. Name another with --home")
