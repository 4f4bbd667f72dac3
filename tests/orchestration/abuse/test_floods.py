"""Agents that flood the engine: it stays small, its log files stay small, and others hardly notice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from noa.model.execution import Observation, OutputChunk, Succeeded
from noa.storage import ObservationStore

GROWTH_LIMIT_BYTES = 100 * 2**20


@pytest.mark.parametrize("kind", ["progress", "logs", "heartbeats", "chunks"])
async def test_flood_of_messages_neither_fills_the_engine_nor_stops_others(
    bench: Any, abusive: Any, witness: Any, memory: Any, counted: Any, kind: str
) -> None:
    abusive(raw=True)
    seen, observe = counted
    task = bench.task("abusive", f"flood-{kind}", inputs={"seconds": 1.5})
    began = time.monotonic()
    outcome = await bench.factory.execute(task, observe)
    took_s = time.monotonic() - began
    # The agent sends what the engine takes, hundreds of thousands a second if it could: the rest waits in the agent, so
    # that its result is not far behind.
    assert isinstance(outcome, Succeeded)
    assert outcome.outputs["sent"]
    assert took_s < 20
    if kind == "progress":
        assert seen["Progress"] <= 20 * took_s + 3
    assert memory.growth() < GROWTH_LIMIT_BYTES
    await witness.stop()


async def test_flood_of_100_mb_on_stderr_neither_fills_memory_nor_disk_nor_stops_others(
    bench: Any, abusive: Any, witness: Any, memory: Any
) -> None:
    abusive()
    began = time.monotonic()
    outcome = await bench.execute("abusive", "stderr", inputs={"bytes": 100_000_000})
    assert outcome == Succeeded({})
    assert time.monotonic() - began < 60
    files = [path.stat().st_size for path in (bench.folder / "logs").glob("abusive-0.log*")]
    assert len(files) == 2
    assert max(files) <= 10 * 2**20
    assert memory.growth() < GROWTH_LIMIT_BYTES
    await witness.stop()


async def test_flood_of_large_chunks_waits_in_the_agent_and_is_not_held_by_who_keeps_them(
    bench: Any, abusive: Any, witness: Any, memory: Any, tmp_path: Path
) -> None:
    abusive(raw=True)
    store = ObservationStore(tmp_path / "observations.db")
    task = bench.task("abusive", "flood-large-chunks", inputs={"seconds": 2})
    size = 0

    def observe(observation: Observation) -> None:
        nonlocal size
        size += len(observation.text) if isinstance(observation, OutputChunk) else 0
        store.add(task.run_id, task.task, 1, observation, 0)

    began = time.monotonic()
    outcome = await bench.factory.execute(task, observe)
    took_s = time.monotonic() - began
    assert isinstance(outcome, Succeeded)
    assert size == outcome.outputs["sent"] * 200_000
    assert size <= 16 * 2**20 * (took_s + 2)
    assert memory.growth() < GROWTH_LIMIT_BYTES
    store.close()
    await witness.stop()


async def test_eight_floods_at_once_stop_nobody(
    bench: Any, abusive: Any, witness: Any, memory: Any, counted: Any
) -> None:
    abusive(raw=True)
    kinds = ["progress", "logs", "heartbeats", "chunks"] * 2
    tasks = [bench.task("abusive", f"flood-{kind}", inputs={"seconds": 1}) for kind in kinds]
    outcomes = await asyncio.gather(*(bench.factory.execute(task, counted[1]) for task in tasks))
    assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
    assert memory.growth() < GROWTH_LIMIT_BYTES
    await witness.stop()
