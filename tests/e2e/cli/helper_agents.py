"""A single-file plugin: an agent in the process of `noa`, whose actions tests hold and release by files.

The same class is a sidecar by `python -m noa.sdk helper_agents:Helper`.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import ActionFailed, Agent, Context, action


class Receipt(TypedDict):
    number: int


class Helper(Agent):
    name = "helper"
    version = "1"

    @action(idempotent=True)
    async def greet(self, ctx: Context, name: str = "you") -> dict[str, Any]:
        """Say hello."""
        ctx.log(f"greeting {name}")
        return {"greeting": f"Hello, {name}"}

    @action
    async def count(self, folder: str, mark: str = "done") -> dict[str, Any]:
        """Leave a line, so that a second execution shows."""
        with Path(folder, mark).open("a") as file:
            file.write("x\n")
        return {}

    @action
    async def gated(self, folder: str, gate: str = "open") -> Receipt:
        """Fail as long as the gate's file is not there."""
        if not Path(folder, gate).exists():
            raise ActionFailed("SHUT", f"the gate '{gate}' is shut")
        return {"number": 7}

    @action
    async def hold(self, ctx: Context, folder: str) -> dict[str, Any]:
        """Say that it began, then wait until the file `go` is there."""
        ctx.progress(0.25, message="holding")
        ctx.log("careful", "warning")
        Path(folder, "held").write_text(str(os.getpid()))
        while not Path(folder, "go").exists():
            await asyncio.sleep(0.02)
        return {"held": True}

    @action
    def deaf(self, folder: str) -> dict[str, Any]:
        """As `hold`, in a thread that no cancellation reaches."""
        Path(folder, "held").write_text(str(os.getpid()))
        while not Path(folder, "go").exists():
            time.sleep(0.02)
        return {}

    @action
    async def fail(self) -> dict[str, Any]:
        """Fail."""
        raise ActionFailed("BROKEN", "the widget is bent; straighten it")


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    return [AgentDeclaration(name="helper", factory=Helper, description="Helps tests.")]
