"""An engine that lost a run without knowing it: what it may still do."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from noa.errors import OwnershipError

from .fleet import until
from .ledger import Ledger
from .lives import runtime_of
from .scenarios import stage, task


def one_task(**inputs: Any) -> dict[str, Any]:
    return {"workflow": {"name": "w", "version": "1", "stages": [stage("s", "parallel", task("t", inputs=inputs))]}}


async def test_what_still_queues_in_an_engine_whose_lease_was_taken_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    monkeypatch.setattr("noa.engine.engine.SIGNAL_POLL_S", 60)  # as if it had been stopped: it does not look
    mine, theirs = Ledger(tmp_path / "mine"), Ledger(tmp_path / "theirs")
    async with runtime_of(tmp_path, mine, capacity=1) as first, runtime_of(tmp_path, theirs) as second:
        first.engine._lease_ms = 1
        before = await first.start(one_task(sleep_ms=300), run_id="before")
        await until(lambda: len(mine.entries()) == 1)
        queued = await first.start(one_task(), run_id="queued")
        await until(lambda: queued.live.seq >= 3)  # its task is scheduled, and waits for the agent
        assert (await second.resume("queued")).succeeded
        assert (await before.wait()).status == "succeeded"
        with pytest.raises(OwnershipError):
            await queued.wait()
    tried["engines that lost a run without knowing it"] += 1
    begun = [entry.execution for entry in mine.entries() if entry.what == "begin"]
    mine.close()
    theirs.close()
    assert begun == ["before:s/t:1"], "the engine that had lost the run began its task"


async def test_an_engine_whose_lease_was_taken_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    monkeypatch.setattr("noa.engine.engine.SIGNAL_POLL_S", 60)
    stages = [stage("s", "parallel", task("t0", inputs={"sleep_ms": 300}), task("t1", inputs={"sleep_ms": 300}))]
    definition = {"workflow": {"name": "w", "version": "1", "stages": stages}}
    mine, theirs = Ledger(tmp_path / "mine"), Ledger(tmp_path / "theirs")
    async with runtime_of(tmp_path, mine, capacity=1) as first, runtime_of(tmp_path, theirs) as second:
        first.engine._lease_ms = 1
        running = await first.start(definition, run_id="r1")
        await until(lambda: len(mine.entries()) == 1)
        result = await second.resume("r1")
        assert result.succeeded
        length = len(await second.journal.read(result.run_id))
        with pytest.raises(OwnershipError):
            await running.wait()
        history = await second.journal.read(result.run_id)
    tried["engines that lost a run without knowing it"] += 1
    mine.close()
    theirs.close()
    assert len(history) == length
