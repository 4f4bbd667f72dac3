"""The same calls through the agents of the other languages, where they are built."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.model.execution import Stage

BIN = Path(sys.executable).parent
BUILT = {"rust": BIN / "noa-rust-agent", "go": BIN / "noa-go-agent"}


@pytest.mark.parametrize("language", BUILT)
async def test_agent_of_another_language_echoes_cancels_and_ends(bench: Any, eventually: Any, language: str) -> None:
    program = BUILT[language]
    if not program.exists():
        pytest.skip(f"{program} is not built (make test builds it)")
    bench.broken(name=language, command=(str(program),))
    outcome = await bench.execute(language, "echo", inputs={"a": ["ü", 1]})
    assert outcome.outputs == {"echo": {"a": ["ü", 1]}}
    bench.seen.clear()
    task = bench.task(language, "echo", inputs={"sleep_s": 60})
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    await bench.factory.cancel(task.execution_id, grace_s=2)
    assert (await running).code == "CANCELLED"
    pid = next(s for s in await bench.factory.status() if s.name == language).replicas[0].pid
    await bench.factory.close()
    assert not psutil.pid_exists(pid)
