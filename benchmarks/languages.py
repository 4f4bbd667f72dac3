"""What an agent costs by language: throughput and latency through the engine beside a bare client of the same process,
memory at rest, and how soon work goes on after the agent was killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_agents import chain, fan_out, registry

__all__ = ["LANGUAGES", "WIDTHS", "at_rest", "calls", "free_port", "launch", "raw_calls", "recovers", "table"]

_PROGRAMS = Path(sys.executable).parent
LANGUAGES: dict[str, tuple[str, ...]] = {
    "Rust": (str(_PROGRAMS / "noa-rust-agent"),),
    "Go": (str(_PROGRAMS / "noa-go-agent"),),
    "Python": (sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"),
}
WIDTHS = {1: 500, 16: 3000, 64: 4000, 256: 4000}
"""Calls in flight: how many calls are measured."""

TOKEN = "benchmark-token"


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(command: Sequence[str], address: str) -> subprocess.Popen[bytes]:
    """An agent as the engine would start it; it ends when its stdin does."""
    variables = {"NOA_AGENT_LISTEN": address, "NOA_AGENT_TOKEN": TOKEN, "NOA_AGENT_PROTOCOL": "1"}
    os.environ["BENCH_TOKEN"] = TOKEN
    return subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **variables}
    )


async def raw_calls(target: str, count: int, width: int) -> tuple[float, list[float]]:
    """A bare grpc.aio client: calls a second, and what each took in seconds."""
    import grpc

    from noa.agent.v1 import agent_service_pb2 as pb
    from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc
    from noa.agent.v1 import payload_pb2

    metadata = (("authorization", f"Bearer {TOKEN}"),)
    took: list[float] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = pb_grpc.AgentServiceStub(channel)

        async def one(number: int) -> None:
            begin = time.perf_counter()
            request = pb.ExecuteRequest(
                execution_id=f"raw:{os.getpid()}:{time.time_ns()}:{number}",
                idempotency_key="k",
                run_id="raw",
                task="s/t",
                attempt=1,
                action="echo",
                input=payload_pb2.Payload(inline=b"{}"),
            )
            last = None
            async for response in stub.Execute(request, metadata=metadata, wait_for_ready=True):
                last = response
            assert last is not None
            assert last.WhichOneof("event") == "completed"
            took.append(time.perf_counter() - begin)

        await one(-1)
        took.clear()
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                await one(number)

        start = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(width)))
        return count / (time.perf_counter() - start), took


class Watch:
    """When each task was begun and done, as the journal has it on disk."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.took: list[float] = []
        self.told: list[Callable[[], None]] = []

    def __call__(self, _run: Any, _seq: int, event: Any) -> None:
        kind = type(event).__name__
        if kind == "TaskScheduled":
            self.begun[event.task] = time.perf_counter()
        elif kind == "AttemptSucceeded":
            self.took.append(time.perf_counter() - self.begun[event.task])
            for tell in self.told:
                tell()


async def calls(folder: Path, language: str, width: int) -> dict[str, float]:
    """Through the engine and bare, in turn, the same process."""
    from noa.runtime import Runtime

    address, count, watch = f"127.0.0.1:{free_port()}", WIDTHS[width], Watch()
    agent = launch(LANGUAGES[language], address)
    try:
        async with Runtime(registry=registry(echo_address=address), home=folder, on_event=watch) as runtime:
            make = chain if width == 1 else (lambda n, **k: fan_out(n, width, **k))
            await runtime.run(chain(20, agent="echo", action_name="echo"))
            plan = runtime.load(make(count, agent="echo", action_name="echo"))
            before, raw_took = await raw_calls(address, count, width)
            watch.took.clear()
            start = time.perf_counter()
            result = await runtime.run(plan)
            seconds = time.perf_counter() - start
            assert result.succeeded, result.failure
            after, _ = await raw_calls(address, count, width)
    finally:
        agent.communicate()
    return {
        "rate": count / seconds,
        "raw": (before + after) / 2,
        "p50_ms": _quantile(watch.took, 50),
        "p99_ms": _quantile(watch.took, 99),
        "raw_p50_ms": _quantile(raw_took, 50),
        "raw_p99_ms": _quantile(raw_took, 99),
    }


def _quantile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100)[percent - 1] * 1000


async def at_rest(folder: Path, language: str) -> float:
    """Resident memory in MiB of an agent that has answered one call."""
    import psutil

    address = f"127.0.0.1:{free_port()}"
    agent = launch(LANGUAGES[language], address)
    try:
        await raw_calls(address, 1, 1)
        return float(psutil.Process(agent.pid).memory_info().rss / 2**20)
    finally:
        agent.communicate()


async def recovers(folder: Path, language: str) -> float:
    """Milliseconds from the kill -9 of a sidecar to the next task that is done through its successor."""
    from noa.runtime import Runtime

    watch, moments = Watch(), []
    definition = chain(200, agent="echo", action_name="echo")
    definition["workflow"]["defaults"] = {"recovery": [{"retry": {"delay_s": 0, "max_attempts": 20}}]}
    async with Runtime(registry=registry(echo_command=LANGUAGES[language]), home=folder, on_event=watch) as runtime:
        running = await runtime.start(definition)
        while not watch.took:
            await asyncio.sleep(0.001)
        (pid,) = [r.pid for agent in await runtime.factory.status() if agent.name == "echo" for r in agent.replicas]
        assert pid is not None

        def seen() -> None:
            if len(moments) == 1:
                moments.append(time.perf_counter())
            elif not moments and len(watch.took) >= 100:
                os.kill(pid, signal.SIGKILL)
                moments.append(time.perf_counter())

        watch.told.append(seen)
        await running.wait()
    return (moments[1] - moments[0]) * 1000


def table(one: Callable[..., Any], say: Callable[[str], None]) -> list[str]:
    """The rows of both tables; `one(name)` measures in a process of its own.

    Args:
        say: Told each line as it comes.
    """
    lines: list[str] = []

    def add(line: str) -> None:
        lines.append(line)
        say(line)

    add("| agent | in flight | tasks/s | bare calls/s | ratio | p50 ms | p99 ms | bare p50 ms | bare p99 ms |")
    add("|---|---|---|---|---|---|---|---|---|")
    for language in LANGUAGES:
        for width in WIDTHS:
            found = one(f"calls:{language}:{width}")
            rates = f"{found['rate']:,.0f} | {found['raw']:,.0f} | {found['rate'] / found['raw']:.2f}"
            ours = f"{found['p50_ms']:.1f} | {found['p99_ms']:.1f}"
            bare = f"{found['raw_p50_ms']:.1f} | {found['raw_p99_ms']:.1f}"
            add(f"| {language} | {width} | {rates} | {ours} | {bare} |")
    add("")
    add("| agent | resident at rest, MiB | kill -9 to the next task done, ms |")
    add("|---|---|---|")
    for language in LANGUAGES:
        add(f"| {language} | {one(f'rest:{language}'):.0f} | {one(f'recovers:{language}'):,.0f} |")
    return lines
