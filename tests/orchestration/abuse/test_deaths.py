"""Agents that die, drain, swell or leave things behind: their work is told so, and another takes their place."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.model.execution import Log, Stage, Succeeded

QUICK = {"health_interval_s": 0.3, "health_silence_s": 3.0}
PATIENT = {"health_interval_s": 0.3, "health_silence_s": 30.0}
MIB = 2**20


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_agent_that_dies_of_every_task_is_given_up_after_five_deaths(bench: Any, abusive: Any) -> None:
    abusive()
    began = time.monotonic()
    failures = [await bench.execute("abusive", "die") for _ in range(6)]
    assert [failure.code for failure in failures] == ["AGENT_LOST"] * 5 + ["AGENT_START_FAILED"]
    assert all("killed by SIGKILL" in failure.message for failure in failures)
    assert "agent 'abusive' failed 5 times within 60 s" in failures[-1].message
    assert bench.states("abusive").count("starting") == 5
    assert time.monotonic() - began < 45


async def test_agent_that_dies_soon_after_each_start_is_given_up(bench: Any, abusive: Any) -> None:
    abusive("dies-at-once")
    codes: list[str] = []
    while not codes or codes[-1] != "AGENT_START_FAILED":
        codes.append((await bench.execute("abusive", "hang")).code)
    assert codes[:-1] == ["AGENT_LOST"] * (len(codes) - 1)
    assert bench.states("abusive").count("starting") == 5
    assert bench.states("abusive")[-1] == "failed"


@pytest.mark.parametrize("action", ["leak", "child-leak"])
async def test_agent_above_its_memory_limit_is_killed_and_its_work_says_why(
    bench: Any, abusive: Any, action: str
) -> None:
    abusive(resources={"memory": 200.0 * MIB})
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    began = time.monotonic()
    failure = await bench.execute("abusive", action, inputs={"mebibytes": 400})
    assert time.monotonic() - began < 40
    assert (failure.code, failure.retryable) == ("AGENT_LOST", True)
    assert "was killed because its memory of " in failure.message
    assert " MiB is above its limit of 200 MiB (resources.memory)" in failure.message
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)


async def test_agent_above_its_memory_limit_before_it_serves_is_a_start_failure(bench: Any, abusive: Any) -> None:
    abusive("hangs-in-health", resources={"memory": 1.0 * MIB})
    failure = await bench.execute("abusive", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "MiB is above its limit of 1 MiB (resources.memory) before it was ready" in failure.message


@pytest.mark.parametrize("end", ["killed", "closed"])
async def test_children_of_an_agent_end_with_it_also_those_that_left_its_group(
    bench: Any, abusive: Any, eventually: Any, end: str
) -> None:
    abusive()
    pids = (await bench.execute("abusive", "children")).outputs
    assert alive(pids["child"])
    assert alive(pids["daemon"])
    if end == "killed":
        assert (await bench.execute("abusive", "die")).code == "AGENT_LOST"
    else:
        await bench.factory.close(grace_s=1.0)
    await eventually(lambda: not alive(pids["child"]) and not alive(pids["daemon"]))


async def test_agent_whose_socket_is_removed_works_on_and_is_replaced_once_its_connection_is_gone(
    bench: Any, abusive: Any
) -> None:
    abusive(raw=True, options=QUICK)
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    (socket,) = (bench.folder / "run").glob("abusive-*.sock")
    socket.unlink()
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)
    assert (await bench.execute("abusive", "cut")).code == "AGENT_LOST"
    began = time.monotonic()
    while not isinstance(await bench.execute("abusive", "echo"), Succeeded):
        assert time.monotonic() - began < 20
    assert bench.states("abusive").count("serving") >= 2


async def test_agent_whose_program_is_replaced_works_on_and_the_next_start_takes_the_new_one(
    bench: Any, tmp_path: Path
) -> None:
    program = tmp_path / "agent"

    def install(version: str) -> None:
        text = (
            f"#!{sys.executable}\n"
            "from noa.sdk import Agent, action, serve\n\n\n"
            "class Versioned(Agent):\n"
            f"    name = 'versioned'\n    version = '{version}'\n\n"
            "    @action\n"
            "    def version_of(self) -> dict:\n"
            f"        return {{'version': '{version}'}}\n\n\n"
            "serve(Versioned())\n"
        )
        new = tmp_path / "new"
        new.write_text(text)
        new.chmod(0o755)
        new.replace(program)

    install("1")
    bench.broken(name="versioned", command=(str(program),))
    assert (await bench.execute("versioned", "version_of")).outputs == {"version": "1"}
    install("2")
    assert (await bench.execute("versioned", "version_of")).outputs == {"version": "1"}
    os.kill(bench.factory._pools["versioned"].replicas[0].pid, signal.SIGKILL)
    began = time.monotonic()
    while getattr(await bench.execute("versioned", "version_of"), "outputs", None) != {"version": "2"}:
        assert time.monotonic() - began < 30


async def test_program_that_is_being_written_is_tried_again(bench: Any, tmp_path: Path) -> None:
    program = tmp_path / "agent"
    program.write_bytes(Path(sys.executable).resolve().read_bytes())
    program.chmod(0o755)
    bench.broken(name="written", command=(str(program), "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"))
    with program.open("r+b"):
        failure = await bench.execute("written", "echo")
    assert (failure.code, failure.retryable) == ("AGENT_START_FAILED", True)
    assert "it is being written" in failure.message


async def test_agent_that_drains_on_its_own_account_gets_nothing_new_ends_its_work_and_is_replaced(
    bench: Any, abusive: Any, eventually: Any
) -> None:
    abusive(options=PATIENT)
    pid = (await bench.execute("abusive", "pid")).outputs["pid"]
    running = asyncio.create_task(bench.execute("abusive", "sleep", inputs={"seconds": 3}))
    await eventually(lambda: bench.seen.count(Stage("running")) == 2)
    await bench.execute("abusive", "health:DRAINING")
    await eventually(lambda: "draining" in bench.states("abusive"))
    # A new process takes new work while the old one ends what it has.
    assert (await bench.execute("abusive", "pid")).outputs["pid"] != pid
    assert await running == Succeeded({"seconds": 3})
    await eventually(lambda: not alive(pid))
    assert "lost" not in bench.states("abusive")


async def test_agent_that_says_that_it_cannot_work_any_more_is_replaced(bench: Any, abusive: Any) -> None:
    abusive(options=PATIENT)
    running = asyncio.create_task(bench.execute("abusive", "hang"))
    await bench.execute("abusive", "health:NOT_SERVING")
    failure = await running
    assert (failure.code, failure.retryable) == ("AGENT_LOST", True)
    assert "Health says NOT_SERVING: as asked" in failure.message
    assert isinstance(await bench.execute("abusive", "echo"), Succeeded)


async def test_agent_that_is_told_to_end_from_outside_is_replaced(bench: Any, eventually: Any) -> None:
    bench.broken(name="polite", command=(sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"), options=PATIENT)
    work = bench.task("polite", "echo", inputs={"logs": 1, "sleep_s": 60})
    running = asyncio.create_task(bench.factory.execute(work, bench.seen.append))
    await eventually(lambda: any(isinstance(seen, Log) for seen in bench.seen))
    os.kill(bench.factory._pools["polite"].replicas[0].pid, signal.SIGTERM)
    # The old process refuses it, the new one takes it; what the old one does goes on.
    assert isinstance(await bench.execute("polite", "echo"), Succeeded)
    assert "draining" in bench.states("polite")
    assert not running.done()
    await bench.factory.cancel(work.execution_id)
    assert (await running).code == "CANCELLED"
