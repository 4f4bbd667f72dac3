"""The reference agent, and its broken copies: `python reference_agent.py [--fault NAME]`.

The launch is checked before anything else is imported, so that a wrong one is refused at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

PROTOCOL = "1"
VARIABLES = ("NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL")


def refuse(why: str) -> NoReturn:
    """One line, and the status for a wrong launch."""
    print(f"reference agent: {why}", file=sys.stderr)
    sys.exit(64)


def check_launch() -> tuple[str, str]:
    """Where to listen, and the token."""
    for name in VARIABLES:
        if not os.environ.get(name):
            refuse(f"{name} is missing or empty: the engine that starts this sets it")
    listen, token, protocol = (os.environ[name] for name in VARIABLES)
    if protocol != PROTOCOL:
        refuse(f"NOA_AGENT_PROTOCOL is {protocol!r}; this agent speaks version {PROTOCOL}")
    return listen, token


def main() -> int:
    """Run until told to end."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the agent itself listens to it
    options = argparse.ArgumentParser(description="An agent that keeps the contract, or breaks one rule of it.")
    options.add_argument("--fault", help="the rule to break; a name in faults.py")
    options.add_argument("--load-s", type=float, default=0.0, help="how long it prepares before it serves")
    options.add_argument("--capacity", type=int, default=64, help="executions at once; 0 means no limit")
    given = options.parse_args()
    listen, token = check_launch()
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from tests.conformance.broken.agent import ReferenceAgent

    agent = ReferenceAgent(listen, token)
    agent.load_s, agent.capacity = given.load_s, given.capacity
    return asyncio.run(agent.serve())


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads of work that was abandoned are not waited for
