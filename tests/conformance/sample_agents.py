"""Small agents that tests of the conformance program launch by `python -m noa.sdk`."""

from __future__ import annotations

import os
from typing import Any

from noa.sdk import Agent, action


class Greeter(Agent):
    """Has no echo of its own."""

    name = "greeter"
    version = "1"

    @action(idempotent=True)
    async def greet(self, name: str) -> dict[str, Any]:
        """Say hello."""
        return {"greeting": f"Hello, {name}"}


class Fragile(Agent):
    """Ends its process when its work is asked for with an artifact prefix that is not there; else gives back."""

    name = "fragile"
    version = "1"

    @action
    async def echo(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Give back the inputs, but die of a sample."""
        if "text" in inputs:
            os._exit(7)
        return {"echo": inputs}
