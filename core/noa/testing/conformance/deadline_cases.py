"""Deadlines: met, missed, and past before the work began."""

from __future__ import annotations

import time
from typing import Any

from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import Client, brief, outputs_of

__all__: list[str] = []

_ENDS_S = 5.0
_ADVICE = "End the work at the deadline by the agent's own timer and answer as data: failed(DEADLINE_EXCEEDED, "


@case(
    "execute.deadline-met",
    "Work that ends before its deadline is completed.",
    advice="Read `deadline` as seconds and nanoseconds since 1970 in UTC (Execute: deadline passes).",
    needs="work",
)
async def meets_a_deadline(bench: Bench) -> None:
    client = await bench.client()
    outputs_of(await client.execute(_until(client.work(), 60_000)))


@case(
    "execute.deadline-missed",
    "At its deadline work is ended with failed(DEADLINE_EXCEEDED, retryable).",
    advice=f"{_ADVICE}retryable) (Execute: deadline passes).",
    needs="echo.sleep_s",
)
async def misses_a_deadline(bench: Bench) -> None:
    client = await bench.client()
    began_s = time.monotonic()
    await _check_missed(client, _until(client.long(), 300), "work that sleeps past its deadline")
    took_s = time.monotonic() - began_s
    expect(took_s > 0.2, f"work whose deadline was 0.3 s away was ended after {took_s:.2f} s")


@case(
    "execute.deadline-past",
    "Work whose deadline has passed already is failed(DEADLINE_EXCEEDED, retryable) and not done.",
    advice=f"{_ADVICE}retryable), also where the deadline lies in the past when the request arrives (Execute: deadline "
    "passes).",
    needs="work",
)
async def begins_nothing_past_its_deadline(bench: Bench) -> None:
    client = await bench.client()
    request = client.work() if bench.lacks(client, "echo.sleep_s") else client.long()
    await _check_missed(client, _until(request, -1000), "work whose deadline had passed")


def _until(request: Any, left_ms: int) -> Any:
    request.deadline.FromMilliseconds(time.time_ns() // 1_000_000 + left_ms)
    return request


async def _check_missed(client: Client, request: Any, what: str) -> None:
    try:
        terminal = await client.open(request).terminal(_ENDS_S)
    except Violation as error:
        raise Violation(f"{what}: {error}") from error
    failure = terminal.failed.failure
    right = failure.code == "DEADLINE_EXCEEDED" and failure.retryable
    expect(right, f"{what} ended with {brief(terminal)}, not with failed(DEADLINE_EXCEEDED, retryable)")
