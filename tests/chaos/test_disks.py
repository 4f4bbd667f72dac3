"""Disks that are full, read-only, or give out amid a write: said in words, and the run goes on afterwards."""

import json
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Noa

from noa.runtime import Runtime
from noa.storage.connection import BUSY_TIMEOUT_S

from .conftest import LONG
from .fleet import wait_for
from .ledger import Ledger, read
from .lives import runtime_of
from .scenarios import stage, task

PLUGIN = """
import asyncio
from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import ActionFailed, Agent, action

class Steps(Agent):
    name = "steps"
    version = "1"

    @action(idempotent=True)
    async def step(self, number: int) -> dict:
        return {"text": "x" * 1000}

    @action(idempotent=True)
    async def undo(self, number: int) -> dict:
        await asyncio.sleep(0.01)
        return {"text": "x" * 2000}

    @action(idempotent=True)
    async def fail(self) -> dict:
        raise ActionFailed("BROKEN", "told to fail")

@hookimpl
def noa_agents():
    return [AgentDeclaration(name="steps", factory=Steps)]
"""
STEPS = 150


def mount(folder: Path, size: str) -> None:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB of its own."""
    folder = tmp_path / "disk"
    mount(folder, "16m")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte; the file that takes them."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            pass
    return filler


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


@pytest.fixture
def saga(tmp_path: Path) -> tuple[Any, ...]:
    """Arguments of `noa run`: many steps, the last one fails, and all are undone one after the other."""
    (tmp_path / "steps.py").write_text(PLUGIN)
    tasks: list[dict[str, Any]] = [
        {"name": f"t{n}", "agent": "steps", "action": "step", "inputs": {"number": n},
         "compensate": {"agent": "steps", "action": "undo", "inputs": {"number": n}}}
        for n in range(STEPS)
    ]  # fmt: skip
    tasks.append({"name": "breaks", "agent": "steps", "action": "fail", "inputs": {}})
    workflow = {"name": "w", "version": "1", "on_failure": "rollback", "stages": [stage("s", "sequential", *tasks)]}
    (tmp_path / "w.json").write_text(json.dumps({"workflow": workflow}))
    return (tmp_path / "w.json", "--run-id", "r1", "--plugin", tmp_path / "steps.py")


def undone(noa: Noa) -> list[str]:
    """Tasks that were undone, in order."""
    return [event["task"] for event in noa.events("attempt_succeeded") if event["task"].endswith("~compensate")]


def check_rolled_back(noa: Noa, before: list[str], plugin: tuple[Any, ...]) -> None:
    """Going on undoes what is left, and nothing again."""
    done = noa("resume", "r1", *plugin)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    after = undone(noa)
    assert noa.events("run_finished")[-1]["status"] == "rolled_back"
    assert after[: len(before)] == before
    assert sorted(after) == sorted(f"s/t{n}~compensate" for n in range(STEPS))


def test_a_disk_that_is_full_during_a_rollback_stops_it_and_it_goes_on_once_there_is_room(
    disk: Path, saga: tuple[Any, ...], tried: Counter[str]
) -> None:
    noa = Noa(disk / "home")
    process = noa.start("run", *saga)
    wait_for(lambda: len(undone(noa)) >= 5, "the rollback")
    filler = fill(disk)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "disk is full" in out + err
    assert "noa resume r1" in out + err
    assert "Traceback" not in out + err
    filler.unlink()
    before = undone(noa)
    assert 5 <= len(before) < STEPS
    tried["disks full or broken"] += 1
    check_rolled_back(noa, before, saga[-2:])


def test_a_run_that_may_write_no_more_bytes_stops_with_its_reason_and_goes_on(
    tmp_path: Path, saga: tuple[Any, ...], tried: Counter[str]
) -> None:
    noa = Noa(tmp_path / "home")
    process = noa.start("run", *saga)
    wait_for(lambda: len(undone(noa)) >= 5, "the rollback")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    out, err = process.communicate(timeout=90)
    assert process.returncode == 1, out + err
    assert "noa resume r1" in out + err
    assert "Traceback" not in out + err
    before = undone(noa)
    assert 5 <= len(before) < STEPS
    tried["disks full or broken"] += 1
    check_rolled_back(noa, before, saga[-2:])


@pytest.mark.parametrize("store", ["new", "used"])
def test_a_disk_that_is_full_at_the_first_write_says_so_and_creates_no_run(
    disk: Path, saga: tuple[Any, ...], store: str, tried: Counter[str]
) -> None:
    noa = Noa(disk / "home")
    if store == "used":
        assert noa("run", *saga).returncode == 1
    known = {event["run_id"] for event in noa.events("run_created")}
    filler = fill(disk)
    done = noa("run", *(argument if argument != "r1" else "r2" for argument in saga))
    assert done.returncode in {1, 2}
    assert "disk is full" in done.stderr or "No space left" in done.stderr, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    filler.unlink()
    assert {event["run_id"] for event in noa.events("run_created")} == known
    tried["disks full or broken"] += 1
    again = noa("run", *(argument if argument != "r1" else "r2" for argument in saga))
    assert again.returncode == 1, again.stderr
    assert noa.events("run_finished")[-1]["status"] == "rolled_back"


async def test_a_disk_that_has_no_room_for_an_artifact_fails_the_task_and_another_attempt_succeeds(
    disk: Path, tmp_path: Path, tried: Counter[str]
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    filler = fill(disk)
    stages = [stage("s", "sequential", task("large", inputs={"size": 1_000_000}))]
    definition = {"workflow": {"name": "w", "version": "1", "stages": stages}}
    runtime: Runtime = runtime_of(tmp_path, ledger, artifacts=f"file://{disk}/artifacts")
    async with runtime:
        running = await runtime.start(definition, run_id="r1")
        state = await running.wait()
        assert state.status == "failed"
        assert state.failure is not None
        assert "No space left" in state.failure.message
        filler.unlink()
        again = await (await runtime.engine.reopen(running.run_id)).wait()
        assert again.status == "succeeded"
    tried["disks full or broken"] += 1
    assert [entry.what for entry in read(ledger.path)] == ["begin", "done"] * 2
    ledger.close()


def test_a_read_only_disk_is_named_and_a_run_goes_on_once_it_can_be_written(
    disk: Path, saga: tuple[Any, ...], tried: Counter[str]
) -> None:
    noa = Noa(disk / "home")
    process = noa.start("run", *saga)
    wait_for(lambda: len(undone(noa)) >= 5, "the rollback")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = undone(noa)
    remount(disk, "ro")
    try:
        for command in (("run", saga[0], *saga[-2:]), ("resume", "r1", *saga[-2:])):
            done = noa(*command)
            assert done.returncode in {1, 2}, done.stdout + done.stderr
            assert "Traceback" not in done.stdout + done.stderr
            assert "read-only" in done.stderr.lower() or "cannot be written" in done.stderr, done.stderr
    finally:
        remount(disk, "rw")
    tried["disks full or broken"] += 1
    check_rolled_back(noa, before, saga[-2:])


@pytest.mark.parametrize("locked_s", [2, 14] if LONG else [2])
def test_a_run_waits_for_a_store_that_another_program_keeps_locked_and_can_be_resumed_where_that_takes_too_long(
    locked_s: float, tmp_path: Path, saga: tuple[Any, ...], tried: Counter[str]
) -> None:
    noa = Noa(tmp_path / "home")
    process = noa.start("run", *saga)
    wait_for(lambda: len(undone(noa)) >= 5, "the rollback")
    other = sqlite3.connect(noa.home / "noa.db", isolation_level=None, timeout=30)
    other.execute("BEGIN EXCLUSIVE")
    before = undone(noa)
    time.sleep(locked_s)  # how long it is locked is what is tested
    assert undone(noa) == before
    other.execute("COMMIT")
    other.close()
    out, err = process.communicate(timeout=90)
    tried["stores locked by another program"] += 1
    assert process.returncode == 1
    assert "Traceback" not in out + err
    if locked_s > BUSY_TIMEOUT_S:
        assert "kept the store locked" in out + err
        check_rolled_back(noa, before, saga[-2:])
    else:
        assert noa.events("run_finished")[-1]["status"] == "rolled_back"
        assert len(undone(noa)) == STEPS
