"""An agent that says who it is: `python -m noa.sdk remote_worker:Worker --listen 127.0.0.1:PORT`, in this folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from noa.sdk import Agent, Context, action


class Worker(Agent):
    name = "worker"
    version = "1"

    @action(idempotent=True)
    async def work(self, ctx: Context, number: int, gate: str = "", seconds: float = 0.01) -> dict[str, Any]:
        """Work for a while; where there is a gate (a file), go on until it exists."""
        await asyncio.sleep(seconds)
        while gate and not await asyncio.to_thread(Path(gate).exists):
            await asyncio.sleep(0.01)
        return {"number": number, "pid": os.getpid()}
