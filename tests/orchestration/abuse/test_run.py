"""Whole runs over agents that are abused or abuse: no task is lost, and what the run says is what the agent did."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from noa.runtime import Runtime

COMMAND = [sys.executable, str(Path(__file__).with_name("abusive_agent.py"))]
TASKS = 40
KILLS = 3


def workflow(agent: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    agents = {"abusive": {"command": COMMAND, **agent}}
    return {"workflow": {"name": "w", "version": "1.0", "agents": agents, "stages": [{"name": "s", **stage}]}}


async def test_run_whose_agent_is_killed_over_and_over_loses_no_task(tmp_path: Path, living: Any) -> None:
    loop = {
        "type": "loop",
        "for_each": list(range(TASKS)),
        "max_parallel": 8,
        "max_iterations": TASKS,
        "recovery": [{"retry": {"max_attempts": 10, "delay_s": 0.05, "max_delay_s": 0.2}}],
        "tasks": [{"agent": "abusive", "action": "sleep", "inputs": {"seconds": 0.2, "n": "${{ item }}"}}],
    }
    async with Runtime(home=tmp_path / "home") as runtime:
        running = asyncio.create_task(runtime.run(workflow({}, loop)))
        killed: set[int] = set()
        while len(killed) < KILLS and not running.done():
            for process in living():
                if process.pid not in killed and works(process):
                    process.send_signal(signal.SIGKILL)
                    killed.add(process.pid)
            await asyncio.sleep(0.02)
        result = await running
    assert result.status == "succeeded", result.failure
    assert len(killed) == KILLS
    assert len(result.tasks) == TASKS
    assert set(result.tasks.values()) == {"succeeded"}


def works(process: psutil.Process) -> bool:
    """Whether an agent has a connection of the engine, beside the socket that it listens on."""
    try:
        return len(process.net_connections("unix")) > 1
    except psutil.Error:
        return False


async def test_run_says_that_its_agent_took_too_much_memory(tmp_path: Path) -> None:
    stage = {
        "type": "sequential",
        "tasks": [{"agent": "abusive", "action": "leak", "inputs": {"mebibytes": 400}}],
    }
    began = time.monotonic()
    async with Runtime(home=tmp_path / "home") as runtime:
        result = await runtime.run(workflow({"resources": {"memory": "200MiB"}}, stage))
    assert result.status == "failed"
    assert time.monotonic() - began < 30
    assert result.failure is not None
    assert "above its limit of 200 MiB (resources.memory)" in str(result.failure)
    assert "AGENT_LOST" in str(result.failure)
