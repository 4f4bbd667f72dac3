"""The reference agent, and its broken copies: `python reference_agent.py [--fault NAME]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.conformance.broken.launch import Launch


def main() -> int:
    """Run until told to end; the exit status."""
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the agent itself listens to it
    options = argparse.ArgumentParser(description="An agent that keeps the contract, or breaks one rule of it.")
    options.add_argument("--fault", help="the rule to break; a name in faults.py")
    options.add_argument("--load-s", type=float, help="how long it prepares before it serves")
    options.add_argument("--capacity", type=int, help="executions at once; 0 means no limit")
    given = options.parse_args()
    if given.fault is None:
        Launch().read()  # before anything slow is imported

    from tests.conformance.broken.faults import assemble

    agent = assemble(given.fault)
    agent.load_s = agent.load_s if given.load_s is None else given.load_s
    agent.capacity = agent.capacity if given.capacity is None else given.capacity
    return asyncio.run(agent.serve())


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads of work that was abandoned are not waited for
