"""No file descriptor, no process left: the engine says so, nothing is lost, and the run goes on once there is room."""

import asyncio
import errno
import json
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import NOA, Noa

import noa.builtins
from noa.plugin import Registry
from noa.runtime import Runtime

from .conftest import LONG
from .scenarios import stage

ECHO = {"command": [sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"], "capacity": 2, "start_timeout": "5s"}


def definition(folder: Path) -> Path:
    tasks = [{"name": f"t{n}", "agent": "echo", "action": "echo", "inputs": {"n": n}} for n in range(3)]
    workflow = {"name": "w", "version": "1", "agents": {"echo": ECHO}, "stages": [stage("s", "parallel", *tasks)]}
    (folder / "w.json").write_text(json.dumps({"workflow": workflow}))
    return folder / "w.json"


def limited(noa: Noa, files: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`noa` with so many file descriptors."""
    return subprocess.run(
        [NOA, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=90, env={**noa.env, "NOA_HOME": str(noa.home)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip


@pytest.mark.parametrize("files", range(9, 40) if LONG else [12, 16])
def test_too_few_file_descriptors_are_said_in_words_and_the_run_goes_on_with_more(
    files: int, tmp_path: Path, tried: Counter[str]
) -> None:
    noa, file = Noa(tmp_path / "home"), definition(tmp_path)
    done = limited(noa, files, "run", file, "--run-id", "r1")
    said = done.stdout + done.stderr
    tried["engines short of file descriptors"] += 1
    assert "Traceback" not in said, said
    if done.returncode == 1:
        assert re.search(r"too many (open files|files are open)|was not ready", said, re.IGNORECASE), said
    else:  # enough for this work; or gRPC's own code, which gives up the process where it gets no descriptor
        assert done.returncode in {0, -signal.SIGABRT}, said
    finished = noa.events("run_finished")
    if finished and finished[-1]["status"] == "succeeded":
        return
    if not finished and noa.events("run_created"):
        assert noa("resume", "r1").returncode == 0
        return
    begun = [event for event in noa.events() if event["type"] == "run_created"]
    again = noa("retry", "r1") if begun else noa("run", file, "--run-id", "r1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert noa.events("run_finished")[-1]["status"] == "succeeded"


def test_a_running_engine_that_gets_no_more_file_descriptors_finishes_or_says_why(
    tmp_path: Path, tried: Counter[str]
) -> None:
    noa, file = Noa(tmp_path / "home"), definition(tmp_path)
    process = noa.start("run", file, "--run-id", "r1")
    noa.wait_for_events(1, "run_created")
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 3))
    out, err = process.communicate(timeout=90)
    tried["engines short of file descriptors"] += 1
    assert "Traceback" not in out + err
    status = noa.events("run_finished")[-1:]
    if not status:
        assert noa("resume", "r1").returncode == 0
    elif status[0]["status"] == "failed":
        assert noa("retry", "r1").returncode == 0
    assert noa.events("run_finished")[-1]["status"] == "succeeded"


async def test_a_machine_that_has_no_process_left_fails_the_task_in_words_and_another_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: Counter[str]
) -> None:
    # RLIMIT_NPROC does not bind root, so the call that makes processes refuses as the kernel would.
    def refuse(*_: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    registry = Registry()
    registry.register(noa.builtins, "noa")
    async with Runtime(registry=registry, home=tmp_path / "home") as runtime:
        with monkeypatch.context() as patch:
            patch.setattr("subprocess._fork_exec", refuse)
            running = await runtime.start(definition(tmp_path), run_id="r1")
            async with asyncio.timeout(60):
                state = await running.wait()
        assert state.status == "failed"
        assert state.failure is not None
        assert state.failure.code == "AGENT_START_FAILED"
        assert "Resource temporarily unavailable" in state.failure.message
        again = await (await runtime.engine.reopen(running.run_id)).wait()
        assert again.status == "succeeded"
    tried["engines short of processes"] += 1
