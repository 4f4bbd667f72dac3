"""2 GiB pass from one agent to another by reference, through an engine that never looks at them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.large_data_agents import PIECE, piece_of

PIECES = 2048
SIZE = PIECES * PIECE
BOUND = 200_000_000
NEEDED = 6 << 30

ENGINE = """
import asyncio, json, sys
from pathlib import Path
from noa.runtime import Runtime

def io_of(name):
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

async def main(home, definition):
    async with Runtime(home=Path(home)) as runtime:
        before = io_of("rchar"), io_of("wchar")
        result = await runtime.run(json.loads(definition))
        read, written = io_of("rchar") - before[0], io_of("wchar") - before[1]
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        print(json.dumps({
            "status": result.status, "failure": str(result.failure), "outputs": result.outputs,
            "read": read, "written": written, "peak": int(peak.split()[1]) * 1024,
        }))

asyncio.run(main(*sys.argv[1:]))
"""


def agent(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "noa.sdk", f"large_data_agents:{name}"]
    return {"command": command, "env": {"PYTHONPATH": str(Path(__file__).parent)}}


def stage(agent: str, action: str, inputs: dict[str, Any], *needs: str) -> dict[str, Any]:
    tasks = [{"agent": agent, "action": action, "inputs": inputs}]
    return {"name": f"to-{action}", "type": "parallel", "depends_on": list(needs), "tasks": tasks}


DEFINITION = {
    "workflow": {
        "name": "large-data",
        "agents": {"maker": agent("Maker"), "reader": agent("Reader")},
        "outputs": {
            "made": "${{ stages['to-make'].make.outputs }}",
            "read": "${{ stages['to-read'].read.outputs }}",
        },
        "stages": [
            stage("maker", "make", {"pieces": PIECES}),
            stage("reader", "read", {"data": "${{ stages['to-make'].make.outputs.data }}"}, "to-make"),
        ],
    }
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_gibibytes_pass_by_reference_with_flat_memory(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    if free < NEEDED:
        pytest.skip(f"needs 6 GiB of free disk below {tmp_path}, there are {free >> 30}")
    home = tmp_path / "home"
    try:
        done = subprocess.run(
            [sys.executable, "-c", ENGINE, str(home), json.dumps(DEFINITION)],
            check=False, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["status"] == "succeeded", found["failure"]
        made, read = found["outputs"]["made"], found["outputs"]["read"]
        reference = made["data"]["$artifact"]
        assert reference["size_bytes"] == read["size_bytes"] == SIZE
        assert reference["sha256"] == read["sha256"]
        stored = Path(reference["uri"].removeprefix("file://"))
        assert stored.is_relative_to(home)
        assert stored.stat().st_size == SIZE
        with stored.open("rb") as file:
            file.seek(SIZE - PIECE)
            assert file.read() == piece_of(PIECES - 1)
        assert made["peak_memory_bytes"] < BOUND
        assert read["peak_memory_bytes"] < BOUND
        assert found["peak"] < BOUND
        # What the engine itself moved: its journal, sockets and logs, and nothing of the artifact.
        assert found["read"] < SIZE / 20
        assert found["written"] < SIZE / 20
    finally:
        shutil.rmtree(home, ignore_errors=True)
