"""Agents that somebody else runs: addresses, tokens, TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from noa.model.execution import Stage
from noa.orchestration.kinds import RemoteKind
from noa.plugin import AgentDeclaration

BROKEN = Path(__file__).with_name("broken_agents.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Remote:
    """An agent that the test runs itself, as a stranger would."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        env = {**os.environ, "NOA_AGENT_LISTEN": self.address, "NOA_AGENT_TOKEN": "secret"}
        self.process = subprocess.Popen(
            [sys.executable, str(BROKEN), "ok"], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
async def remotes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Remote]]:
    monkeypatch.setenv("TOKEN_OF_TEST", "secret")
    running = [Remote(free_port()) for _ in range(2)]
    yield running
    for remote in running:
        remote.end()


def declare(bench: Any, *addresses: str, **options: Any) -> None:
    options = {"token_env": "TOKEN_OF_TEST", "connect_timeout_s": 5, **options}
    bench.factory.add({"far": AgentDeclaration("far", kind="remote", addresses=addresses, options=options)})


async def test_addresses_are_one_pool_and_the_least_loaded_is_taken(
    bench: Any, remotes: list[Remote], eventually: Any
) -> None:
    declare(bench, *(remote.address for remote in remotes))
    pids = set()

    async def ask() -> None:
        pids.add((await bench.execute("far", "pid")).outputs["pid"])

    await ask()
    await eventually(lambda: bench.states("far").count("serving") == 2)
    hanging = asyncio.create_task(bench.execute("far", "hang"))
    await eventually(lambda: bench.seen.count(Stage("running")) == 2)
    await ask()
    assert len(pids) >= 1
    status = next(s for s in await bench.factory.status() if s.name == "far")
    assert sorted(replica.in_flight for replica in status.replicas) == [0, 1]
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging


async def test_dead_address_is_skipped_and_taken_again_when_it_returns(
    bench: Any, remotes: list[Remote], eventually: Any
) -> None:
    options = {"health_interval_s": 0.1, "health_silence_s": 0.3, "connect_timeout_s": 0.5}
    declare(bench, *(remote.address for remote in remotes), **options)
    await bench.execute("far", "pid")
    await eventually(lambda: bench.states("far").count("serving") == 2)
    first, second = remotes
    first.end()
    await eventually(lambda: "lost" in bench.states("far"))
    for _ in range(3):
        assert (await bench.execute("far", "pid")).outputs == {"pid": second.process.pid}
    remotes[0] = Remote(int(first.address.rpartition(":")[2]))
    await eventually(lambda: bench.states("far").count("serving") == 3)


async def test_address_where_nothing_answers_is_a_start_failure_that_names_it(bench: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    declare(bench, address, token_env="", connect_timeout_s=0.3)
    failure = await bench.execute("far", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert f"nothing listens there (connection refused). Address: {address}" in failure.message


async def test_start_timeout_shorter_than_the_connect_timeout_ends_the_wait_for_an_answer(bench: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    declaration = AgentDeclaration("near", kind="remote", addresses=(address,), start_timeout_s=0.3)
    bench.factory.add({"near": declaration})
    began = time.monotonic()
    failure = await bench.execute("near", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert time.monotonic() - began < 5, "the default of connect_timeout_s is 10 s"


async def test_missing_token_is_a_start_failure_that_names_the_variable(bench: Any) -> None:
    declare(bench, "127.0.0.1:1", token_env="NOT_SET_ANYWHERE")
    assert "NOT_SET_ANYWHERE, which is not set" in (await bench.execute("far", "echo")).message


def test_declarations_are_checked() -> None:
    kind = RemoteKind()
    assert "has no addresses" in (kind.check(AgentDeclaration("a", kind="remote")) or "")
    assert "'nowhere' has no port: host:port is expected" in (
        kind.check(AgentDeclaration("a", addresses=("nowhere",))) or ""
    )
    options = {"cert_file": "x"}
    assert "needs both" in (kind.check(AgentDeclaration("a", addresses=("h:1",), options=options)) or "")
    assert kind.check(AgentDeclaration("a", addresses=("h:1",))) is None


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        ("http://h:1", "is a URL"),
        ("dns:///h:1", "is a URL"),
        ("https://h", "is a URL"),
        ("h:1/path", "has a path"),
        ("h", "has no port"),
        ("h:", "has no port"),
        ("[::1]", "has no port"),
        (":1", "has no host"),
        ("h:x", "has port 'x', which is not a number from 1 to 65535"),
        ("h:\u00b2", "is not a number"),
        ("h:0", "is not a number"),
        ("h:65536", "is not a number"),
        ("::1", "needs brackets"),
    ],
)
def test_address_that_is_not_host_and_port_is_refused_with_what_is_wrong(address: str, wrong: str) -> None:
    refusal = RemoteKind().check(AgentDeclaration("a", kind="remote", addresses=("fine:1", address))) or ""
    assert refusal.startswith(f"agent 'a': address '{address}' ")
    assert wrong in refusal
    assert "host:port is expected" in refusal


@pytest.mark.parametrize("address", ["h:1", "127.0.0.1:65535", "[::1]:50051", "agents.example.org:443", "unix:/run/a"])
def test_address_of_host_and_port_is_taken(address: str) -> None:
    assert RemoteKind().check(AgentDeclaration("a", kind="remote", addresses=(address,))) is None
