"""Lives of an engine: a scenario begins, its engine dies, another goes on until it is over. And what must hold then."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import noa.builtins
from noa.engine.state import RunState
from noa.errors import JournalError, RunNotFoundError
from noa.model.ids import RunId
from noa.plugin import AgentDeclaration, Journal, Registry, SignalRecord, hookimpl
from noa.runtime import Runtime

from .dying_journal import DyingJournal
from .ledger import Entry, Ledger, LedgerAgent, effects_of, read
from .scenarios import Scenario, Wish

__all__ = ["RUN", "Life", "Store", "Verdict", "judge", "live", "runtime_of", "snapshot"]

RUN = RunId("r1")


class LedgerPlugin:
    """The agent `ledger` in the process of the engine, and the journal that dies."""

    def __init__(self, ledger: Ledger, capacity: int) -> None:
        self._ledger = ledger
        self._capacity = capacity

    @hookimpl
    def noa_agents(self) -> Sequence[AgentDeclaration]:
        return [AgentDeclaration(name="ledger", factory=lambda: LedgerAgent(self._ledger), capacity=self._capacity)]

    @hookimpl
    def noa_journals(self) -> dict[str, type[Journal]]:
        return {"dying": DyingJournal}


@dataclass(frozen=True, slots=True)
class Store:
    """Where the lives of one run leave what they leave."""

    folder: Path

    @property
    def database(self) -> Path:
        """The journal's file."""
        return self.folder / "noa.db"

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.folder / "ledger"

    def prepare(self, scenario: Scenario) -> Path:
        """Write the definition down; its file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, definition in {"main.json": scenario.definition, **scenario.files}.items():
            (self.folder / name).write_text(json.dumps(definition))
        return self.folder / "main.json"

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """Events on disk by run, read past the engine."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if self.database.exists():
            base = sqlite3.connect(self.database, timeout=30)
            try:
                for run, body in base.execute(
                    "SELECT run_id, body FROM events JOIN runs ON runs.id = events.id >> 32 ORDER BY events.id"
                ):
                    found[run].append(json.loads(body))
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):  # it died before the store was made
                    raise
            finally:
                base.close()
        return found


@dataclass(frozen=True, slots=True)
class Life:
    """One engine's life.

    Attributes:
        state: Of the run as it ended; None where the engine died.
        writes: How often the journal was written.
    """

    state: RunState | None
    writes: int


def runtime_of(folder: Path, ledger: Ledger, *, capacity: int = 50, **options: Any) -> Runtime:
    """A runtime whose state is in a folder, with the agent `ledger` in its process."""
    registry = Registry()
    registry.register(noa.builtins, "noa")
    registry.register(LedgerPlugin(ledger, capacity), "chaos")
    return Runtime(registry=registry, home=folder, **options)


async def live(scenario: Scenario, store: Store, *, at: int = 0, how: str = "after") -> Life:
    """Begin the run of a scenario, or go on with it, to its end or until the engine dies at write `at` (0: never)."""
    definition = store.prepare(scenario)
    ledger = Ledger(store.ledger)
    url = f"dying://{store.database}" + (f"?at={at}&how={how}" if at else "")
    try:
        async with runtime_of(store.folder, ledger, journal=url) as runtime:
            journal = runtime.journal
            assert isinstance(journal, DyingJournal)
            going = asyncio.create_task(_go_on(scenario, definition, runtime, ledger))
            death = asyncio.create_task(journal.died.wait())
            await asyncio.wait([going, death], return_when=asyncio.FIRST_COMPLETED)
            died = journal.died.is_set()
            if died:
                ledger.frozen = True  # whatever the agents of a dead engine still do is not done
            for waiting in (going, death):
                waiting.cancel()
            outcomes = await asyncio.gather(going, death, return_exceptions=True)
            if died:
                return Life(None, journal.writes)
            if isinstance(outcomes[0], BaseException):
                raise outcomes[0]
            return Life(outcomes[0], journal.writes)
    finally:
        ledger.close()


async def _go_on(scenario: Scenario, definition: Path, runtime: Runtime, ledger: Ledger) -> RunState:
    engine, journal = runtime.engine, runtime.journal
    people = asyncio.create_task(_people(scenario.wishes, runtime, ledger))
    try:
        try:
            await journal.run(RUN)
        except RunNotFoundError:
            await runtime.start(definition, dict(scenario.inputs), run_id=RUN)
        state = await _ended(runtime)
        if scenario.again is not None and not any(
            type(event).__name__ == "RunReopened" for _, event in await journal.read(RUN)
        ):
            state = await (await engine.reopen(RUN, **scenario.again)).wait()
        return state
    finally:
        people.cancel()
        await asyncio.gather(people, return_exceptions=True)


async def _ended(runtime: Runtime) -> RunState:
    running = runtime.engine.running(RUN)
    if running is None:
        state = await runtime.engine.folded(RUN)
        if state.finished:
            return state
        running = await runtime.engine.resume(RUN)
    return await running.wait()


async def _people(wishes: Sequence[Wish], runtime: Runtime, ledger: Ledger) -> None:
    """Ask for each wish once its time has come; one that was asked for in an earlier life is known by its id."""
    left = dict(enumerate(wishes))
    while left:
        running = runtime.engine.running(RUN)
        for number, wish in list(left.items()) if running else []:
            begun = {entry.task for entry in ledger.entries()}
            if running and wish.when(running.state, begun):
                now_ms = time.time_ns() // 1_000_000
                signal = SignalRecord(f"wish-{number}", RUN, wish.kind, "ann", "asked to", dict(wish.body), now_ms)
                try:
                    await runtime.journal.put_signal(signal)
                except JournalError:
                    return
                del left[number]
        await asyncio.sleep(0.002)


def snapshot(state: RunState) -> dict[str, Any]:
    """How a run ended, as far as two lives of it must agree."""
    return {
        "status": state.status,
        "outputs": state.outputs,
        "degraded": state.degraded,
        "failure": state.failure.code if state.failure else None,
        "left": list(getattr(state, "left", ())),
        "tasks": {path: task.status for path, task in state.tasks.items()},
    }


@dataclass(slots=True)
class Verdict:
    """What is wrong with the lives of a run; empty where nothing is."""

    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(what)


def judge(scenario: Scenario, store: Store, deaths: Sequence[tuple[int, dict[str, list[dict[str, Any]]]]]) -> list[str]:
    """What the ledger has against the journal.

    Args:
        deaths: For each death the length of the ledger then, and the events that were on disk.
    """
    verdict = Verdict()
    for mark, events in deaths:
        done, ended = _settled(scenario, events)
        for entry in read(store.ledger, mark):
            if entry.what == "begin":
                verdict.check(entry.key not in done, f"{entry.key} was done before the death and began again")
                verdict.check(entry.execution not in ended, f"{entry.execution} had ended before and began again")
    histories = store.events()
    effects = effects_of(read(store.ledger))
    _same_inputs(verdict, [effect.begin for effect in effects], histories)
    finished = {effect.begin.key for effect in effects if effect.end and effect.end.what == "done"}
    parents = {history[0].get("parent", "").rpartition(":")[0] for history in histories.values()}
    for run, history in histories.items():
        for event in history:
            if event["type"] == "attempt_succeeded":
                key = f"{run}:{event['task']}"
                does_nothing_itself = key.removesuffix("~compensate") in parents  # a sub-workflow
                verdict.check(
                    key in finished or does_nothing_itself,
                    f"{key} succeeded by the journal, and the ledger knows nothing of it",
                )
        verdict.check(history[-1]["type"] in {"run_finished", "late_result"}, f"{run} is not over: {history[-1]}")
    return verdict.wrong


def _settled(scenario: Scenario, events: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[set[str], set[str]]:
    """Idempotency keys of tasks that are done for good, and executions that had an outcome."""
    for_good = {"attempt_succeeded", "task_skipped"} | (set() if scenario.again is not None else {"task_failed"})
    done: set[str] = set()
    ended: set[str] = set()
    for run, history in events.items():
        for event in history:
            if event["type"] in for_good and event["task"] not in scenario.redone:
                done.add(f"{run}:{event['task']}")
            if event["type"] in {"attempt_succeeded", "attempt_failed"}:
                ended.add(f"{run}:{event['task']}:{event['attempt']}")
    return done, ended


def _same_inputs(
    verdict: Verdict, begins: Sequence[Entry], histories: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """All attempts of a task are asked for the same with the same inputs, unless the recovery chain chose others."""
    substituted = {
        f"{run}:{event['task']}"
        for run, history in histories.items()
        for event in history
        if event["type"] == "recovery_chosen" and event["decision"]["do"] == "substitute"
    }
    given: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for entry in begins:
        given[entry.execution].add((entry.action, entry.digest))
        if entry.key not in substituted:
            given[entry.key].add((entry.action, entry.digest))
    for name, asked in given.items():
        verdict.check(len(asked) == 1, f"{name} was asked for {len(asked)} different things")
