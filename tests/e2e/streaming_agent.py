"""An agent that gives its output in pieces: `python -m noa.sdk streaming_agent:Talker`, in this folder."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from noa.sdk import Agent, Context, action


class Talker(Agent):
    name = "talker"
    version = "1"

    @action(idempotent=True)
    async def talk(self, ctx: Context, pieces: int, gate: str) -> dict[str, Any]:
        """Say the pieces; after the first and the fifth wait until the gate (a file, and one with `-2`) is there."""
        for number in range(1, pieces + 1):
            ctx.output(f"piece {number}\n")
            if number == 1:
                ctx.warning("it has begun")
                await there(gate)
            elif number == 5:
                await there(f"{gate}-2")
            await asyncio.sleep(0.02)
        ctx.output("the end, without a newline")
        return {"pieces": pieces}


async def there(path: str) -> None:
    while not await asyncio.to_thread(Path(path).exists):
        await asyncio.sleep(0.02)
