"""Many executions at once, and the capacity that the agent announces."""

from __future__ import annotations

import asyncio

from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import NotApplicable, Violation, case, expect
from noa.testing.conformance.client import Client, Stream, outputs_of
from noa.testing.conformance.ending_cases import check_overloaded

__all__: list[str] = []

_MANY = 500
_MANY_S = 30.0
_MOST = 1000
_ROOM_S = 5.0


@case(
    "execute.many",
    "500 executions at once (or `capacity`, where that is smaller) each end with their own right answer.",
    advice="Do not bound streams of a connection or threads below this, or announce the bound as capacity (Health: can "
    "work).",
    needs="echo.sleep_s",
)
async def does_many_at_once(bench: Bench) -> None:
    client = await bench.client()
    count = min(_MANY, client.capacity or _MANY)

    async def one(number: int) -> bool:
        terminal = await client.open(client.echo(number=number, sleep_s=0.3)).terminal(_MANY_S)
        outputs = outputs_of(terminal)
        return isinstance(outputs, dict) and outputs.get("echo") == {"number": number, "sleep_s": 0.3}

    right = await asyncio.gather(*map(one, range(count)))
    expect(
        all(right), f"of {count} executions at once {right.count(False)} had another one's answer, or none of theirs"
    )


@case(
    "execute.capacity",
    "One execution more than `capacity` is failed(OVERLOADED, retryable, retry_after).",
    advice="Count what goes on and refuse as data what is more than the announced capacity (Execute: more than "
    "capacity executions).",
    needs="echo.sleep_s",
)
async def keeps_its_capacity(bench: Bench) -> None:
    client = await bench.client()
    await _fill(client)
    terminal = await client.execute(client.echo())
    check_overloaded(terminal, f"one execution more than the capacity of {client.capacity}")


@case(
    "execute.overloaded-again",
    "The same execution_id after OVERLOADED runs when there is room.",
    advice="Keep no result of a refused execution (Execute: same execution_id after OVERLOADED).",
    needs="echo.sleep_s",
)
async def forgets_a_refusal(bench: Bench) -> None:
    client = await bench.client()
    request = client.echo()
    filling = await _fill(client)
    refused = await client.execute(request)
    if refused.WhichOneof("event") != "failed":
        raise NotApplicable("nothing was refused, as execute.capacity says")
    await client.cancel(run_id=client.run_id)
    await asyncio.gather(*(stream.terminal() for stream in filling))
    end_s = asyncio.get_running_loop().time() + _ROOM_S
    while True:
        terminal = await client.execute(request)
        if terminal.WhichOneof("event") == "completed":
            return
        if asyncio.get_running_loop().time() > end_s:
            raise Violation(
                f"{_ROOM_S:g} s after there was room again, the execution_id that had been refused still ended with "
                f"{terminal.failed.failure.code}"
            )
        await asyncio.sleep(0.1)


async def _fill(client: Client) -> list[Stream]:
    """As many executions as the agent takes.

    Raises:
        NotApplicable: It announces no capacity, or a large one.
    """
    if not client.capacity:
        raise NotApplicable("the agent announces no capacity")
    if client.capacity > _MOST:
        raise NotApplicable(f"the agent's capacity of {client.capacity} is more than is tried")
    return list(await asyncio.gather(*(client.begin(client.long()) for _ in range(client.capacity))))
