"""An engine that starts an agent, prints the agent's pid, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from conftest import Bench


async def main() -> None:
    bench = Bench(Path(sys.argv[1]))
    bench.broken()
    outcome = await bench.execute("broken", "pid")
    print(outcome.outputs["pid"], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
