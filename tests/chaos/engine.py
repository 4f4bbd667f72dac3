"""An engine in a process of its own: begins runs, takes over abandoned ones, and ends when the store has none left.

    python -m tests.chaos.engine FOLDER DEFINITION RUNS LEASE_MS

Exit status 0 once so many runs are over. Several may share a folder. It prints "ready" before it begins a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from pathlib import Path

from noa.errors import ConflictError, JournalError, OwnershipError
from noa.runtime import Runtime

__all__ = ["main"]

OVER = frozenset({"succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"})


async def main(folder: Path, definition: Path, runs: int, lease_ms: int) -> None:
    """Have all runs over."""
    async with Runtime(home=folder) as runtime:
        runtime.engine._lease_ms = lease_ms
        adopting = asyncio.create_task(
            runtime.engine.keep_adopting(lambda running: print(f"adopted {running.run_id}", flush=True), every_s=0.1)
        )
        print("ready", flush=True)
        for number in range(runs):
            with contextlib.suppress(ConflictError, OwnershipError):
                await runtime.start(definition, run_id=f"run-{number}")
        while True:
            with contextlib.suppress(JournalError):
                found = await runtime.journal.runs(limit=None)
                if sum(record.status in OVER for record in found if not record.parent) >= runs:
                    break
            await asyncio.sleep(0.05)
        adopting.cancel()
        await asyncio.gather(adopting, return_exceptions=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
