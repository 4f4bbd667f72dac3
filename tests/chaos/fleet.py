"""Engines in processes of their own on one store, and what is done to them: killed, stopped, woken."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .ledger import Effect, effects_of, read
from .lives import Store

__all__ = ["Fleet", "Outage", "overlaps", "until", "wait_for"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Outage:
    """A time in which an engine could not do anything.

    Attributes:
        engine: Its process id.
        from_ns: Since when, by the machine's monotonic clock; `until_ns` is None where it was killed.
    """

    engine: int
    from_ns: int
    until_ns: int | None = None


@dataclass(slots=True)
class Fleet:
    """Engines that share a store and finish a number of runs of one definition."""

    store: Store
    stages: list[dict[str, Any]]
    runs: int
    lease_ms: int = 1500
    keys: dict[str, Any] = field(default_factory=dict)
    capacity: int = 4
    engines: list[subprocess.Popen[str]] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store.folder.mkdir(parents=True, exist_ok=True)
        agent = {
            "command": [sys.executable, "-m", "noa.sdk", "tests.chaos.ledger:LedgerAgent"],
            "capacity": self.capacity,
            "env": {"NOA_CHAOS_LEDGER": str(self.store.ledger), "PYTHONPATH": _path()},
        }
        workflow = {"name": "load", "version": "1", "agents": {"ledgers": agent}, "stages": self.stages, **self.keys}
        self._definition.write_text(json.dumps({"workflow": workflow}))

    @property
    def _definition(self) -> Path:
        return self.store.folder / "load.json"

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self.engines:
            if engine.poll() is None:
                engine.kill()
                engine.send_signal(signal.SIGCONT)
            engine.communicate()

    def start(self) -> subprocess.Popen[str]:
        """One engine more; returns once it is ready."""
        arguments = [self.store.folder, self._definition, self.runs, self.lease_ms]
        engine = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.engine", *map(str, arguments)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": _path()},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.engines.append(engine)
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n", engine.communicate()[1]
        return engine

    def kill(self, engine: subprocess.Popen[str]) -> None:
        """End it as by kill -9."""
        self.outages.append(Outage(engine.pid, time.monotonic_ns()))
        engine.kill()
        engine.wait()

    def stop(self, engine: subprocess.Popen[str]) -> None:
        """Stop it; it does nothing until it is woken. Not amid a write: SQLite's lock would stop all the others too."""
        while True:
            self.outages.append(Outage(engine.pid, time.monotonic_ns()))
            engine.send_signal(signal.SIGSTOP)
            wait_for(lambda: psutil.Process(engine.pid).status() == psutil.STATUS_STOPPED, "the engine to stop")
            if self._writable():
                return
            self.wake(engine)

    def _writable(self) -> bool:
        base = sqlite3.connect(self.store.database, isolation_level=None, timeout=2)
        try:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            base.close()
        return True

    def wake(self, engine: subprocess.Popen[str]) -> None:
        """Let it go on."""
        outage = next(o for o in self.outages if o.engine == engine.pid and o.until_ns is None)
        outage.until_ns = time.monotonic_ns()
        engine.send_signal(signal.SIGCONT)

    def kill_an_agent(self, chance: random.Random) -> bool:
        """End some agent as by kill -9; False where there is none."""
        found = [
            child for engine in self.engines if engine.poll() is None for child in psutil.Process(engine.pid).children()
        ]
        if not found:
            return False
        victim = chance.choice(sorted(found, key=lambda child: child.pid))
        self.outages.append(Outage(victim.pid, time.monotonic_ns()))
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def finish(self, timeout_s: float = 90) -> None:
        """Wait until every engine that lives has ended by itself."""
        for engine in self.engines:
            if engine.returncode is None:
                _, err = engine.communicate(timeout=timeout_s)
                assert engine.returncode == 0, err
                assert "Traceback" not in err, err

    def effects(self) -> list[Effect]:
        """What the agents of all engines did."""
        return effects_of(read(self.store.ledger))

    def over(self) -> bool:
        """Whether every run is over."""
        histories = self.store.events()
        return len(histories) == self.runs and all(h[-1]["type"] == "run_finished" for h in histories.values())


def overlaps(fleet: Fleet) -> list[str]:
    """Executions of one task at the same time, other than beside an engine or agent that was out for its lease."""
    wrong: list[str] = []
    going: dict[str, Effect] = {}
    for effect in fleet.effects():
        key = effect.begin.key
        before = going.get(key)
        going[key] = effect
        if before is None or (before.end is not None and before.end.at_ns <= effect.begin.at_ns):
            continue
        if not _out(fleet, before, effect.begin.at_ns):
            wrong.append(f"{key}: {before.begin.execution} in {before.begin.pid} and {effect.begin.pid} at once")
    return wrong


def _out(fleet: Fleet, effect: Effect, at_ns: int) -> bool:
    """Whether who had an effect made was killed, or stopped for its lease, before a moment."""
    for outage in fleet.outages:
        killed = outage.until_ns is None
        for_ns = 0 if killed else fleet.lease_ms * 1_000_000 * 2 // 3  # a lease is renewed when a third is over
        lasted_ns = min(at_ns, outage.until_ns or at_ns) - outage.from_ns
        if outage.engine in {effect.begin.engine, effect.begin.pid} and lasted_ns >= for_ns:
            return True
    return False


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Until it is true."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s:g} s for {what}"
        time.sleep(0.005)


async def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    """The same, for a loop that must go on meanwhile."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
