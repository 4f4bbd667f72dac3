"""The same execution_id again, and callers that go away."""

from __future__ import annotations

import time
from typing import Any

from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import case, expect
from noa.testing.conformance.client import Client, brief, outputs_of

__all__: list[str] = []

_WORK_S = 1.0
_REPEAT_S = 0.75


@case(
    "execute.join",
    "The same execution_id while it goes on is accepted(joined=true) and has the same terminal message.",
    advice="Keep a table of executions by id; a second Execute listens to the first one's work and starts none "
    "(Execute: same execution_id, going on).",
    needs="echo.sleep_s",
)
async def joins(bench: Bench) -> None:
    client = await bench.client()
    request = client.echo(sleep_s=0.5)
    one = await client.begin(request)
    two = await client.begin(request)
    _check_joined(two.messages[0], "an Execute with the execution_id of work that goes on")
    first, second = await one.terminal(), await two.terminal()
    outputs_of(first)
    expect(first == second, f"two streams of one execution ended differently: {_both(first, second)}")


@case(
    "execute.repeat",
    "The same execution_id after the end is accepted(joined=true) and the same terminal message; the work is not done "
    "again.",
    advice="Keep terminal messages for 60 s by execution_id and repeat them (Execute: same execution_id, ended).",
    needs="work",
)
async def repeats(bench: Bench) -> None:
    client = await bench.client()
    sleeps = not bench.lacks(client, "echo.sleep_s")
    request = client.echo(sleep_s=_WORK_S) if sleeps else client.work()
    first = await client.execute(request)
    outputs_of(first)
    began_s = time.monotonic()
    stream = client.open(request)
    second = await stream.terminal()
    took_s = time.monotonic() - began_s
    _check_joined(stream.messages[0], "an Execute with the execution_id of work that has ended")
    expect(first == second, f"the repeat ended differently: {_both(first, second)}")
    if sleeps:
        seen = f"work that sleeps {_WORK_S:g} s took {took_s:.2f} s again when it was asked for the second time"
        expect(took_s < _REPEAT_S, seen)


@case(
    "execute.hang-up",
    "A client that hangs up does not end the work; it joins it again and gets the result.",
    advice="Run the work apart from the call; do not derive its cancellation from the call's (Execute: client "
    "hangs up).",
    needs="echo.sleep_s",
)
async def goes_on_without_a_listener(bench: Bench) -> None:
    client = await bench.client()
    request = client.echo(sleep_s=0.5)
    (await client.begin(request)).hang_up()
    again = await client.begin(request)
    _check_joined(again.messages[0], "an Execute after the first caller had hung up")
    outputs_of(await again.terminal())
    await _hang_up_while_it_goes_on(client)


async def _hang_up_while_it_goes_on(client: Client) -> None:
    """Let the caller be away for a while: what goes on must still be there when it asks again."""
    request = client.long()
    (await client.begin(request)).hang_up()
    for _ in range(3):
        await client.health()
    again = await client.begin(request)
    _check_joined(again.messages[0], "an Execute some calls after the first caller had hung up")
    await client.cancel(execution_id=request.execution_id)


def _check_joined(message: Any, what: str) -> None:
    right = message.WhichOneof("event") == "accepted" and message.accepted.joined
    expect(right, f"{what} began with {brief(message)}, not with accepted(joined=true)")


def _both(first: Any, second: Any) -> str:
    if brief(first) != brief(second):
        return f"{brief(first)} and {brief(second)}"
    return "the messages have other outputs or metrics, as if the work had been done twice"
