"""The agent of the order that the debuggers' tests step through. `slow` says that it began, and waits for a file."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import ActionFailed, Agent, Context, action


class Shop(Agent):
    name = "shop"

    @action
    async def price(self, ctx: Context, item: str) -> dict[str, Any]:
        ctx.log(f"looking up {item}")
        print("what an agent prints is no protocol")
        return {"cents": 250 * len(item), "tags": ["new", {"in": "stock"}]}

    @action
    async def pay(self, cents: int) -> dict[str, Any]:
        if cents > 1000:
            raise ActionFailed("TOO_MUCH", f"{cents} is over the limit of 1000")
        return {"paid": cents}

    @action
    async def note(self, text: str) -> dict[str, Any]:
        return {"text": text}

    @action
    async def slow(self, folder: str) -> dict[str, Any]:
        Path(folder, "began").write_text("x")
        while not Path(folder, "go").exists():
            await asyncio.sleep(0.02)
        return {}


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    return [AgentDeclaration(name="shop", factory=Shop)]
