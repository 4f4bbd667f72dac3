"""Several addresses are one pool: an address that dies under load costs no task, and is used again when it is back."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noa.model.events import AttemptFailed, AttemptSucceeded, Event
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.runtime import Runtime

TOKEN = "a-token-of-some-length-0123456789"
FREE, TASKS = 120, 420
"""Tasks from FREE on wait for the first gate, those from GATED on for the second: the test opens them."""
GATED = 270

WIDTH = 24
pytestmark = pytest.mark.timeout(180)


class Remote:
    """An agent that somebody runs with the Python SDK, always on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._token = folder / "token"
        self._token.write_text(TOKEN)
        self._token.chmod(0o600)
        self.begin()

    def begin(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "noa.sdk", "remote_worker:Worker", "--listen", self.address,
             "--token-file", str(self._token)],
            cwd=Path(__file__).parent, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait_listening(self) -> None:
        host, _, port = self.address.partition(":")
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                socket.create_connection((host, int(port))).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError(f"nothing listened on {self.address} within 60 s")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def remotes(tmp_path: Path) -> Iterator[list[Remote]]:
    running = [Remote(tmp_path) for _ in range(3)]
    for remote in running:
        remote.wait_listening()
    yield running
    for remote in running:
        remote.end()


class Watch:
    """What a run's events say, as they come."""

    def __init__(self) -> None:
        self.by_pid: Counter[int] = Counter()
        self.failures: list[Failure] = []

    def __call__(self, run: RunId, seq: int, event: Event) -> None:
        if isinstance(event, AttemptSucceeded):
            self.by_pid[event.outputs["pid"]] += 1
        elif isinstance(event, AttemptFailed):
            self.failures.append(event.failure)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def runtime(tmp_path: Path, watch: Watch) -> AsyncIterator[Runtime]:
    async with Runtime(home=tmp_path / "home", on_event=watch) as made:
        yield made


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait for what other processes do: look again until it is so, at most a minute."""

    async def wait(condition: Callable[[], Any]) -> None:
        limit = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < limit, "it did not become true within 60 s"
            await asyncio.sleep(0.01)

    return wait


def definition(remotes: list[Remote], gate: Path) -> dict[str, Any]:
    gated = f"${{{{ index < {FREE} ? '' : index < {GATED} ? '{gate}-1' : '{gate}-2' }}}}"
    return {
        "workflow": {
            "name": "remote-pool",
            "agents": {
                "far": {
                    "address": [remote.address for remote in remotes],
                    "token": "${{ secrets.far_token }}",
                }
            },
            "outputs": {"numbers": "${{ stages.load.work.outputs.map(one, one.number) }}"},
            "recovery": [{"retry": {"max_attempts": 5, "delay_s": 0.01}}],
            "stages": [
                {
                    "name": "load",
                    "type": "loop",
                    "for_each": list(range(TASKS)),
                    "max_parallel": WIDTH,
                    "tasks": [{"agent": "far", "action": "work", "inputs": {"number": "${{ item }}", "gate": gated}}],
                }
            ],
        }
    }


def state_of(runtime: Runtime, index: int) -> tuple[str, int]:
    replica = runtime.factory._pools["far"].replicas[index]
    return replica.state, replica.in_flight


async def test_killed_address_costs_no_task_and_is_used_again_when_it_is_back(
    runtime: Runtime, remotes: list[Remote], watch: Watch, until: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOA_SECRET_far_token", TOKEN)
    running = await runtime.start(definition(remotes, tmp_path / "gate"))
    old = [remote.process.pid for remote in remotes]
    victim, others = old[1], {old[0], old[2]}

    await until(lambda: all(watch.by_pid[pid] >= 10 for pid in old) and state_of(runtime, 1)[1] > 0)
    remotes[1].end()
    await until(lambda: state_of(runtime, 1)[0] != "serving")
    before = Counter(watch.by_pid)
    (tmp_path / "gate-1").touch()
    await until(lambda: all(watch.by_pid[pid] >= before[pid] + 40 for pid in others))
    assert watch.by_pid[victim] <= before[victim] + WIDTH, "nothing new is done there while it is dead"

    remotes[1].begin()
    await until(lambda: state_of(runtime, 1)[0] == "serving")
    (tmp_path / "gate-2").touch()
    state = await running.wait()

    assert state.status == "succeeded"
    assert sum(watch.by_pid.values()) == TASKS, "each task once"
    assert watch.by_pid[remotes[1].process.pid] >= 15, "it came back and is used again"
    assert {failure.code for failure in watch.failures} <= {"AGENT_LOST"}
    assert len(watch.failures) <= WIDTH, "only what it worked on failed: nothing was sent to the dead"
    assert state.outputs == {"numbers": list(range(TASKS))}


async def test_address_that_drains_gets_nothing_new_and_loses_nothing(
    runtime: Runtime, remotes: list[Remote], watch: Watch, until: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOA_SECRET_far_token", TOKEN)
    running = await runtime.start(definition(remotes, tmp_path / "gate"))
    leaver = remotes[2].process.pid
    await until(lambda: all(watch.by_pid[remote.process.pid] >= 10 for remote in remotes))
    await until(lambda: state_of(runtime, 2)[1] > 0)
    remotes[2].process.send_signal(signal.SIGTERM)
    await until(lambda: state_of(runtime, 2)[0] != "serving")
    before = watch.by_pid[leaver]
    (tmp_path / "gate-1").touch()
    (tmp_path / "gate-2").touch()
    state = await running.wait()
    assert state.status == "succeeded"
    assert state.outputs == {"numbers": list(range(TASKS))}
    assert watch.by_pid[leaver] <= before + WIDTH, "only what it had already"
    # Where it ends before the engine has heard of it, a call on its way may be cut off, and is made again elsewhere.
    assert {failure.code for failure in watch.failures} <= {"AGENT_LOST"}
    assert len(watch.failures) <= 3
