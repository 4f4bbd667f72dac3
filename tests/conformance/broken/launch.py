"""How the reference agent reads the variables of its launch. It imports nothing slow: a refusal is quick."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["Launch"]

PROTOCOL = "1"
VARIABLES = ("NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL")


class Launch:
    """The variables that the engine sets."""

    def read(self) -> tuple[str, str]:
        """Where to listen, and the token; ends the process where the launch is wrong."""
        for name in VARIABLES:
            if not os.environ.get(name):
                self.on_missing(name)
        protocol = os.environ.get("NOA_AGENT_PROTOCOL", PROTOCOL)
        if protocol != PROTOCOL:
            self.on_other_protocol(protocol)
        return os.environ["NOA_AGENT_LISTEN"], os.environ["NOA_AGENT_TOKEN"]

    def on_missing(self, name: str) -> None:
        """A variable is missing or empty."""
        self.refuse(f"{name} is missing or empty: the engine that starts this sets it")

    def on_other_protocol(self, protocol: str) -> None:
        """The engine speaks another version."""
        self.refuse(f"NOA_AGENT_PROTOCOL is {protocol!r}; this agent speaks version {PROTOCOL}")

    def refuse(self, why: str, status: int = 64) -> NoReturn:
        """One line, and the status for a wrong launch."""
        print(f"reference agent: {why}", file=sys.stderr)
        sys.exit(status)
