"""Agents that answer what the contract forbids: each attempt ends with the code that says so, and the agent goes on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from noa.model.execution import Log, Progress, Stage, Succeeded
from noa.model.payload import INLINE_LIMIT_BYTES
from noa.model.plan import Timeouts

LOST = ("AGENT_LOST", True)
BROKEN = ("AGENT_PROTOCOL_ERROR", False)
REFUSED = ("AGENT_UNAUTHENTICATED", False)
STATUSES = {
    "UNAVAILABLE": LOST,
    "CANCELLED": LOST,
    "ABORTED": LOST,
    "DEADLINE_EXCEEDED": LOST,
    "UNAUTHENTICATED": REFUSED,
    "PERMISSION_DENIED": REFUSED,
    "RESOURCE_EXHAUSTED": BROKEN,  # before `accepted` it would mean OVERLOADED
    "UNKNOWN": BROKEN,
    "INVALID_ARGUMENT": BROKEN,
    "NOT_FOUND": BROKEN,
    "ALREADY_EXISTS": BROKEN,
    "FAILED_PRECONDITION": BROKEN,
    "OUT_OF_RANGE": BROKEN,
    "UNIMPLEMENTED": BROKEN,
    "INTERNAL": BROKEN,
    "DATA_LOSS": BROKEN,
}


async def test_every_status_in_the_middle_of_a_stream_has_its_meaning(bench: Any, abusive: Any) -> None:
    abusive()
    found = {}
    for status in STATUSES:
        failure = await bench.execute("abusive", f"status:{status}")
        found[status] = (failure.code, failure.retryable)
        assert status in failure.message
    assert found == STATUSES
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    assert bench.states("abusive") == ["starting", "serving"]


FORBIDDEN = {
    "output:bad-utf-8": "the output is not JSON",
    "output:half": "the output is not JSON",
    "output:text": "it begins with 'hello'",
    "output:nothing": "the output is not JSON",
    "output:infinite": "the output is not JSON",
    "output:surrogate": "the output is not JSON",
    "output:deep": "nested too deeply",
    "content-type": "the output has the content type 'image/png'",
    "no-accepted": "the stream began with `completed`; `accepted` must be its first message",
}


async def test_output_that_cannot_be_read_is_a_protocol_error(bench: Any, abusive: Any) -> None:
    abusive()
    for action, text in FORBIDDEN.items():
        failure = await bench.execute("abusive", action)
        assert (failure.code, failure.retryable) == BROKEN
        assert text in failure.message
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    assert bench.states("abusive") == ["starting", "serving"]


async def test_output_above_the_inline_limit_is_a_protocol_error_that_names_the_rule(bench: Any, abusive: Any) -> None:
    abusive()
    around = len(b'{"x": ""}')
    fits = await bench.execute("abusive", "inline", inputs={"size": INLINE_LIMIT_BYTES - around})
    assert isinstance(fits, Succeeded)
    failure = await bench.execute("abusive", "inline", inputs={"size": INLINE_LIMIT_BYTES - around + 1})
    assert (failure.code, failure.retryable) == BROKEN
    assert "262,145 bytes inline; an inline payload has at most 262,144" in failure.message
    assert "artifact_prefix" in failure.message
    failure = await bench.execute("abusive", "inline", inputs={"size": 5_000_000})
    assert (failure.code, failure.retryable) == ("PAYLOAD_TOO_LARGE", False)
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)


async def test_execution_whose_answer_broke_the_contract_is_cancelled_in_the_agent(
    bench: Any, abusive: Any, eventually: Any
) -> None:
    abusive()
    task = bench.task("abusive", "no-accepted")
    assert (await bench.factory.execute(task, bench.seen.append)).code == "AGENT_PROTOCOL_ERROR"
    until = time.monotonic() + 10
    while (told := (await bench.execute("abusive", "told")).outputs["told"]) == {}:
        assert time.monotonic() < until
    assert told == {task.execution_id: "the answer broke the contract"}


async def test_texts_above_their_limits_are_cut(bench: Any, abusive: Any) -> None:
    abusive()
    failure = await bench.execute("abusive", "long-texts")
    assert failure.code == "LONG"
    texts = [seen.message for seen in bench.seen if isinstance(seen, Log | Progress)]
    assert len(texts) == 2
    for text in [*texts, failure.message]:
        assert text.endswith("x… (1,000,000 characters, cut)")
        assert len(text) < 17_000


async def test_result_after_cancel_is_not_taken(bench: Any, abusive: Any, eventually: Any) -> None:
    abusive()
    task = bench.task("abusive", "late")
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    await asyncio.wait_for(bench.factory.cancel(task.execution_id, reason="enough"), 15)
    failure = await running
    assert (failure.code, failure.message) == ("CANCELLED", "the execution was cancelled: enough")


async def test_result_after_the_timeout_is_not_taken(bench: Any, abusive: Any) -> None:
    abusive()
    await bench.execute("abusive", "echo")
    failure = await bench.execute("abusive", "late", timeouts=Timeouts(execution_ms=200))
    assert (failure.code, failure.retryable) == ("EXECUTION_TIMEOUT", True)


async def test_late_result_does_not_reach_another_execution(bench: Any, abusive: Any, eventually: Any) -> None:
    abusive()
    late = bench.task("abusive", "late")
    first = asyncio.create_task(bench.factory.execute(late, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    others = [asyncio.create_task(bench.execute("abusive", "sleep", inputs={"seconds": 0.5, "n": n})) for n in range(9)]
    await bench.factory.cancel(late.execution_id)
    assert (await first).code == "CANCELLED"
    assert [outcome.outputs["n"] for outcome in await asyncio.gather(*others)] == list(range(9))


@pytest.mark.parametrize(("announced", "real"), [(100, 1), (0, 2), (2**32 - 1, 2)])
async def test_agent_that_announces_more_than_it_takes_loses_no_task(
    bench: Any, abusive: Any, announced: int, real: int
) -> None:
    abusive(env={"TEST_ANNOUNCED": str(announced), "TEST_REAL": str(real)})
    began = time.monotonic()
    tasks = [bench.execute("abusive", "sleep", inputs={"seconds": 0.01, "n": n}) for n in range(30)]
    outcomes = await asyncio.gather(*tasks)
    assert [outcome.outputs["n"] for outcome in outcomes] == list(range(30))
    assert time.monotonic() - began < 60


async def test_agent_that_announces_less_than_it_takes_gets_what_it_announced(bench: Any, abusive: Any) -> None:
    abusive(env={"TEST_ANNOUNCED": "1"})
    outcomes = await asyncio.gather(
        *(bench.execute("abusive", "sleep", inputs={"seconds": 0.05, "n": n}) for n in range(5))
    )
    assert [outcome.outputs["n"] for outcome in outcomes] == list(range(5))


async def test_agent_that_refuses_most_of_what_it_announces_is_not_asked_over_and_over(
    bench: Any, abusive: Any
) -> None:
    abusive(env={"TEST_ANNOUNCED": "0", "TEST_REAL": "2"})
    await bench.execute("abusive", "echo")
    asked = 0
    connection = bench.factory._pools["abusive"].replicas[0].connection
    execute = connection.execute

    async def counting(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await execute(*arguments)

    connection.execute = counting
    began = time.monotonic()
    tasks = [bench.execute("abusive", "sleep", inputs={"seconds": 0.02}) for _ in range(150)]
    assert all(isinstance(outcome, Succeeded) for outcome in await asyncio.gather(*tasks))
    # All are sent at first, and again whenever the agent is believed again; else only what it has room for.
    assert asked <= 600 * (1 + (time.monotonic() - began) / 5)
