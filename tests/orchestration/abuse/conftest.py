"""What the tests of abuse share: agents that abuse the engine, one that does not, and a look at what is left."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.model.execution import Observation, Succeeded

HERE = Path(__file__).parent
HARMLESS = (sys.executable, str(HERE / "abusive_agent.py"))
MARK = "NOA_AGENT_TEST_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Living processes whose environment has this mark: agents of this test, and what they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def zombies() -> set[int]:
    """Children of this process that ended and were not reaped."""
    found = set()
    for child in psutil.Process().children():
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
async def mark(bench: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Marks every agent of a test; in the end none of them, and nothing that they started, may be left."""
    value = secrets.token_hex(8)
    monkeypatch.setenv(MARK, value)  # the engine passes on what begins with NOA_AGENT_
    before = zombies()
    yield value
    await bench.factory.close(grace_s=1.0)
    until = time.monotonic() + 10
    while left := marked(value):  # killed before `close` returns, but gone in the system's own time
        assert time.monotonic() < until, f"left behind: {[process.cmdline() for process in left]}"
        await asyncio.sleep(0.02)
    assert zombies() <= before
    assert not list(bench.folder.glob("run/*")), "a socket is left"


@pytest.fixture
def living(mark: str) -> Callable[[], list[psutil.Process]]:
    """The living processes of this test's agents, and what they started."""
    return lambda: marked(mark)


@pytest.fixture
def abusive(bench: Any) -> Any:
    """Declares an agent of abusive_agent.py, or of raw_agent.py (`raw=True`); its name."""

    def declare(behaviour: str = "ok", *, name: str = "abusive", raw: bool = False, **changes: Any) -> str:
        program = HERE / ("raw_agent.py" if raw else "abusive_agent.py")
        changes.setdefault("command", (sys.executable, str(program), behaviour))
        return str(bench.broken(name=name, **changes))

    return declare


class Witness:
    """Another task through another agent, over and over, while an agent is abusive.

    Attributes:
        latencies: Seconds that each took.
    """

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.latencies: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.bench.broken(name="witness", command=HARMLESS)
        await self.once()
        self.latencies.clear()
        self._task = asyncio.create_task(self._run())

    async def once(self) -> None:
        began = time.perf_counter()
        task = self.bench.task("witness", "echo", inputs={"n": len(self.latencies)})
        outcome = await self.bench.factory.execute(task, lambda _: None)
        assert isinstance(outcome, Succeeded), outcome
        assert outcome.outputs == {"n": len(self.latencies)}
        self.latencies.append(time.perf_counter() - began)

    async def _run(self) -> None:
        while True:
            await self.once()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """No task was lost, and each ended soon (s)."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self.latencies
        assert max(self.latencies) < 5.0
        assert statistics.median(self.latencies) < 0.5


@pytest.fixture
async def witness(bench: Any, mark: str) -> Witness:
    made = Witness(bench)
    await made.start()
    return made


class Memory:
    """Watches the resident memory of this process, the engine's, from a thread of its own."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._first = self._most = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self._most = max(self._most, self._process.memory_info().rss)

    def growth(self) -> int:
        """Bytes that it grew by at the most; ends the watch."""
        self._over.set()
        self._thread.join()
        return max(self._most, self._process.memory_info().rss) - self._first


@pytest.fixture
def memory(witness: Witness) -> Iterator[Memory]:
    made = Memory()
    yield made
    made.growth()


@pytest.fixture
def counted() -> tuple[Counter[str], Any]:
    """An observer that keeps nothing but how much of each kind it saw."""
    seen: Counter[str] = Counter()

    def observe(observation: Observation) -> None:
        seen[type(observation).__name__] += 1

    return seen, observe


@pytest.fixture
def kill() -> Any:
    """Sends a signal to a process."""
    return os.kill
