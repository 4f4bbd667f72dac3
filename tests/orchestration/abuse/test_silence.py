"""Agents that say nothing: each is noticed within its time limit, and what comes after them is done."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from noa.model.execution import Succeeded
from noa.model.plan import Timeouts

QUICK = {"health_interval_s": 0.3, "health_silence_s": 3.0}


async def test_agent_whose_every_slot_ignores_cancel_is_replaced(bench: Any, abusive: Any) -> None:
    abusive(env={"TEST_ANNOUNCED": "2", "TEST_REAL": "2"})
    pid = (await bench.execute("abusive", "pid")).outputs["pid"]
    limits = Timeouts(heartbeat_ms=200)
    hung = await asyncio.gather(*(bench.execute("abusive", "ignores-all", timeouts=limits) for _ in range(2)))
    assert {failure.code for failure in hung} == {"HEARTBEAT_TIMEOUT"}
    began = time.monotonic()
    # The old process is full for good and refuses it, until it is replaced; perhaps in the middle of refusing it.
    while (outcome := await bench.execute("abusive", "pid")) and not isinstance(outcome, Succeeded):
        assert outcome.code == "AGENT_LOST"
        assert time.monotonic() - began < 30
    assert outcome.outputs["pid"] != pid
    assert time.monotonic() - began < 60
    lost = next(event for event in bench.events if event.state == "lost")
    assert "all its 2 slots are taken by executions that ignore Cancel" in lost.detail


async def test_agent_with_a_slot_left_is_not_replaced_for_one_that_ignores_cancel(bench: Any, abusive: Any) -> None:
    abusive(env={"TEST_ANNOUNCED": "2", "TEST_REAL": "2"})
    failure = await bench.execute("abusive", "ignores-all", timeouts=Timeouts(heartbeat_ms=200))
    assert failure.code == "HEARTBEAT_TIMEOUT"
    assert isinstance(await bench.execute("abusive", "sleep", inputs={"seconds": 3}), Succeeded)
    assert "lost" not in bench.states("abusive")


async def test_agent_that_hangs_in_health_at_its_start_is_ended_after_its_start_timeout(
    bench: Any, abusive: Any
) -> None:
    abusive("hangs-in-health", start_timeout_s=1.5)
    began = time.monotonic()
    failure = await bench.execute("abusive", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "does not answer (DEADLINE_EXCEEDED)" in failure.message
    assert time.monotonic() - began < 30


async def test_agent_that_hangs_in_health_later_is_lost_with_its_work_and_replaced(bench: Any, abusive: Any) -> None:
    abusive(options=QUICK)
    running = asyncio.create_task(bench.execute("abusive", "hang"))
    await bench.execute("abusive", "mute")
    began = time.monotonic()
    failure = await running
    assert (failure.code, failure.retryable) == ("AGENT_LOST", True)
    assert "did not answer Health" in failure.message
    assert time.monotonic() - began < 30
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)


async def test_agent_that_stops_reading_is_lost_and_replaced_and_what_was_sent_to_it_stays_bounded(
    bench: Any, abusive: Any, witness: Any, memory: Any
) -> None:
    abusive(raw=True, options=QUICK)
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    deaf = asyncio.create_task(bench.execute("abusive", "stop-reading"))
    inputs = {"text": "x" * 200_000}
    more = [bench.execute("abusive", "echo", inputs=inputs) for _ in range(50)]
    began = time.monotonic()
    outcomes = await asyncio.gather(deaf, *more)
    assert time.monotonic() - began < 40
    assert outcomes[0].code == "AGENT_LOST"
    assert all(isinstance(outcome, Succeeded) or outcome.code == "AGENT_LOST" for outcome in outcomes)
    assert isinstance(await bench.execute("abusive", "echo", inputs=inputs), Succeeded)
    assert memory.growth() < 100 * 2**20
    await witness.stop()


async def test_agent_that_is_stopped_for_a_moment_and_continued_loses_nothing(
    bench: Any, abusive: Any, kill: Any
) -> None:
    abusive(options={"health_interval_s": 0.2, "health_silence_s": 30.0})
    pid = (await bench.execute("abusive", "pid")).outputs["pid"]
    running = [asyncio.create_task(bench.execute("abusive", "sleep", inputs={"seconds": 0.1})) for _ in range(5)]
    kill(pid, signal.SIGSTOP)
    stopped = asyncio.create_task(bench.execute("abusive", "echo", inputs={"n": 1}))
    done, _ = await asyncio.wait([stopped], timeout=1.0)
    assert not done
    kill(pid, signal.SIGCONT)
    assert await stopped == Succeeded({"n": 1})
    assert all(isinstance(outcome, Succeeded) for outcome in await asyncio.gather(*running))
    assert (await bench.execute("abusive", "pid")).outputs["pid"] == pid


async def test_agent_that_listens_late_is_waited_for(bench: Any, abusive: Any) -> None:
    abusive("late")
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    assert bench.states("abusive") == ["starting", "serving"]


@pytest.mark.parametrize(
    ("action", "codes"), [("cut", {"AGENT_LOST"}), ("noise", {"AGENT_LOST", "AGENT_PROTOCOL_ERROR"})]
)
async def test_connection_that_is_cut_or_full_of_noise_fails_its_own_work_only(
    bench: Any, abusive: Any, witness: Any, action: str, codes: set[str]
) -> None:
    abusive(raw=True, options=QUICK)
    began = time.monotonic()
    # The agent lives, so after a cut the execution is asked for again under its id, once.
    assert (await bench.execute("abusive", action)).code in codes
    assert time.monotonic() - began < 30
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    await witness.stop()


async def test_agent_that_says_goodbye_to_its_connection_is_connected_to_again(bench: Any, abusive: Any) -> None:
    abusive(raw=True)
    assert isinstance(await bench.execute("abusive", "goodbye"), Succeeded)
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    assert bench.states("abusive") == ["starting", "serving"]
