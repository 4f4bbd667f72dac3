"""The time of day jumps: limits count on, because they rest on a clock that cannot."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from noa.model.execution import Stage, Succeeded
from noa.model.plan import Timeouts
from noa.runtime import run
from noa.sdk import ActionFailed, Agent, action

HOUR_S = 3600
ECHO = (sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent")


class DayClock:
    """The time of day of this process: real, but for jumps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset_s = 0
        self._real = time.time_ns
        monkeypatch.setattr(time, "time_ns", self.time_ns)
        monkeypatch.setattr(time, "time", lambda: self.time_ns() / 1e9)

    def time_ns(self) -> int:
        return self._real() + self.offset_s * 1_000_000_000


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> DayClock:
    return DayClock(monkeypatch)


async def jumping(day: DayClock) -> None:
    """An hour on, two back, one on, every 20 ms."""
    for day.offset_s in itertools.cycle([HOUR_S, -HOUR_S, 0]):
        await asyncio.sleep(0.02)


async def test_limits_of_attempts_and_restarts_do_not_care_for_the_time_of_day(
    bench: Any, abusive: Any, day: DayClock
) -> None:
    jumps = asyncio.create_task(jumping(day))
    abusive(env={"TEST_ANNOUNCED": "1"})
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    for limits, code in [
        (Timeouts(heartbeat_ms=500), "HEARTBEAT_TIMEOUT"),
        (Timeouts(execution_ms=500), "EXECUTION_TIMEOUT"),
    ]:
        began = time.monotonic()
        outcome = await bench.execute("abusive", "late", timeouts=limits)
        assert outcome.code == code
        assert 0.4 < time.monotonic() - began < 15
    busy = bench.task("abusive", "late")
    running = asyncio.create_task(bench.factory.execute(busy, bench.seen.append))
    bench.seen.clear()
    while Stage("running") not in bench.seen:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    assert (await bench.execute("abusive", "echo", timeouts=Timeouts(queue_ms=500))).code == "QUEUE_TIMEOUT"
    assert 0.4 < time.monotonic() - began < 15
    await bench.factory.cancel(busy.execution_id)
    assert (await running).code == "CANCELLED"
    for _ in range(3):
        assert (await bench.execute("abusive", "die")).code == "AGENT_LOST"
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    jumps.cancel()


async def test_agent_whose_clock_is_ahead_ends_the_work_too_soon_and_the_failure_says_why(
    bench: Any, day: DayClock
) -> None:
    bench.broken(name="ahead", command=ECHO)
    assert isinstance(await bench.execute("ahead", "echo"), Succeeded)
    day.offset_s = -HOUR_S  # of the engine; the agent's stays
    failure = await bench.execute("ahead", "echo", inputs={"sleep_s": 1}, timeouts=Timeouts(execution_ms=600_000))
    assert (failure.code, failure.retryable) == ("DEADLINE_EXCEEDED", True)
    assert "s of 600 s: the clock of its machine and that of this one disagree" in failure.message


async def test_agent_whose_clock_is_behind_is_ended_by_the_engine(bench: Any, day: DayClock) -> None:
    bench.broken(name="behind", command=ECHO)
    assert isinstance(await bench.execute("behind", "echo"), Succeeded)
    day.offset_s = HOUR_S
    began = time.monotonic()
    failure = await bench.execute("behind", "echo", inputs={"sleep_s": 60}, timeouts=Timeouts(execution_ms=500))
    assert (failure.code, failure.retryable) == ("EXECUTION_TIMEOUT", True)
    assert 0.4 < time.monotonic() - began < 15


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_run_goes_on_through_a_jump_of_the_time_of_day(tmp_path: Path, day: DayClock, jump_s: int) -> None:
    class Jumps(Agent):
        name = "jumps"
        tries = 0

        @action
        async def jump(self) -> dict[str, int]:
            type(self).tries += 1
            day.offset_s += jump_s
            if self.tries < 3:
                raise ActionFailed("JUMPED", "the clock jumped", retryable=True)
            return {"tries": self.tries}

    task = {
        "agent": "jumps",
        "action": "jump",
        "timeout": {"total": "1m", "execution": "30s", "queue": "30s"},
        "recovery": [{"retry": {"max_attempts": 5, "delay_s": 0.2, "max_delay_s": 0.4}}],
    }
    stage = {"name": "s", "type": "sequential", "timeout": "2m", "tasks": [task]}
    definition = {"workflow": {"name": "w", "version": "1.0", "timeout": "3m", "stages": [stage]}}
    began = time.monotonic()
    result = await run(definition, agents=[Jumps], home=tmp_path)
    assert result.status == "succeeded", result
    assert 0.2 < time.monotonic() - began < 20
