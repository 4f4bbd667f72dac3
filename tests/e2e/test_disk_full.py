"""The disk fills up while a run goes on: nothing recorded is lost, and the run goes on once there is room."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Noa

PLUGIN = """
import asyncio
from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import Agent, action

class Steps(Agent):
    name = "steps"
    version = "1"

    @action(idempotent=True)
    async def step(self, number: int) -> dict:
        await asyncio.sleep(0.01)
        return {"text": "x" * 1000}

@hookimpl
def noa_agents():
    return [AgentDeclaration(name="steps", factory=Steps)]
"""
STEPS = 300


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(4096))
        except OSError:
            pass
    return filler


def test_full_disk_stops_a_run_with_its_reason_and_it_goes_on_once_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    noa = Noa(small_disk / "home")
    (tmp_path / "steps.py").write_text(PLUGIN)
    tasks = [{"name": f"t{n}", "agent": "steps", "action": "step", "inputs": {"number": n}} for n in range(STEPS)]
    stage = {"name": "s", "type": "sequential", "tasks": tasks}
    (tmp_path / "w.json").write_text(json.dumps({"workflow": {"name": "w", "version": "1", "stages": [stage]}}))
    plugin = ("--plugin", tmp_path / "steps.py")

    process = noa.start("run", tmp_path / "w.json", "--run-id", "r1", *plugin)
    noa.wait_for_events(20, "attempt_succeeded")
    filler = fill(small_disk)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "disk" in (out + err)
    assert "resume" in (out + err)
    assert "Traceback" not in out + err

    filler.unlink()
    before = [event["task"] for event in noa.events("attempt_succeeded")]
    assert 20 <= len(before) < STEPS
    done = noa("resume", "r1", *plugin)
    assert done.returncode == 0, done.stdout + done.stderr
    after = [event["task"] for event in noa.events("attempt_succeeded")]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == STEPS
