"""Measures what replicas that follow the load gain, and what watching costs: `python benchmarks/autoscaling.py`.

Each figure is that of the same burst, in the same process, on one replica and on replicas from 1 to MOST. Work that
waits (as on a disk or another service) gains with every replica, work that computes up to the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

from noa.model.execution import Assignment, Succeeded
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.orchestration import AgentEvent, AgentFactory, ResourceLedger, host_resources
from noa.orchestration.kinds import BUILTIN_AGENT_KINDS
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.sdk import Agent, action
from noa.storage.artifacts import FileArtifactStore

MOST = 8
IDLE_S = 2.0


class Worker(Agent):
    """One thing at a time: waits, or computes."""

    name = "worker"
    version = "1"
    capacity = 1

    @action(idempotent=True)
    async def wait(self, seconds: float) -> dict[str, int]:
        """As on something outside."""
        await asyncio.sleep(seconds)
        return {"pid": os.getpid()}

    @action(idempotent=True)
    def compute(self, seconds: float) -> dict[str, int]:
        """So many seconds of processor time."""
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return {"pid": os.getpid()}


class Kinds:
    @hookimpl
    def noa_agent_kinds(self) -> Any:
        return BUILTIN_AGENT_KINDS


class Bench:
    """A factory with one agent, and when what happened to its replicas."""

    def __init__(self, folder: Path, declaration: AgentDeclaration) -> None:
        registry = Registry()
        registry.register(Kinds(), "kinds")
        self.began = time.monotonic()
        self.events: list[tuple[float, AgentEvent]] = []
        self.factory = AgentFactory(
            registry=registry,
            declarations={declaration.name: declaration},
            runtime_dir=folder / "run",
            log_dir=folder / "logs",
            artifacts=FileArtifactStore(folder / "artifacts"),
            resources=ResourceLedger(host_resources()),
            on_event=lambda event: self.events.append((time.monotonic() - self.began, event)),
        )
        self._number = 0

    async def execute(self, what: str, seconds: float) -> None:
        self._number += 1
        number = self._number
        outcome = await self.factory.execute(
            Assignment(
                execution_id=ExecutionId(f"run:s/t{number}:1"),
                idempotency_key=f"key-{number}",
                run_id=RunId("run"),
                workflow="bench",
                stage="s",
                task=TaskPath(f"s/t{number}"),
                attempt=1,
                agent="worker",
                action=what,
                inputs={"seconds": seconds},
            ),
            lambda _seen: None,
        )
        assert isinstance(outcome, Succeeded), outcome

    async def burst(self, count: int, what: str, seconds: float) -> float:
        """Seconds that so many take, all asked for at once."""
        self.began = time.monotonic()
        self.events.clear()
        await asyncio.gather(*(self.execute(what, seconds) for _ in range(count)))
        return time.monotonic() - self.began

    def first(self, state: str, *, replica_from: int = -1) -> float:
        """Seconds from the begin of the burst to the first event of this kind."""
        return next(at for at, event in self.events if event.state == state and event.replica >= replica_from)


def declaration(most: int, **changes: Any) -> AgentDeclaration:
    here = Path(__file__)
    changes.setdefault("options", {"scale_down_after_s": IDLE_S})
    return AgentDeclaration(
        "worker",
        kind="sidecar",
        command=(sys.executable, "-m", "noa.sdk", f"{here.stem}:Worker"),
        cwd=str(here.parent),
        max_replicas=most,
        **changes,
    )


@contextlib.asynccontextmanager
async def bench(agent: AgentDeclaration) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        made = Bench(Path(folder), agent)
        try:
            await made.execute("wait", 0.0)
            yield made
        finally:
            await made.factory.close()


async def measure_burst(count: int, what: str, seconds: float, **changes: Any) -> dict[str, Any]:
    async with bench(declaration(1, **changes)) as one:
        alone_s = await one.burst(count, what, seconds)
    async with bench(declaration(MOST, **changes)) as many:
        scaled_s = await many.burst(count, what, seconds)
        replicas = 1 + len({event.replica for _, event in many.events if event.state == "serving" and event.replica})
        figures = {
            "tasks": count,
            "one_replica_s": alone_s,
            "autoscaled_s": scaled_s,
            "ratio": alone_s / scaled_s,
            "replicas": replicas,
            "decided_after_s": many.first("scaled"),
            "first_more_serves_after_s": many.first("serving"),
            "decisions": [event.detail for _, event in many.events if event.state == "scaled"],
        }
        while not any(event.state == "idle" for _, event in many.events):
            await asyncio.sleep(0.01)
        figures["down_after_idle_s"] = many.first("idle") - scaled_s
        return figures


async def measure_idle(replicas: int, seconds: float, interval_s: float) -> dict[str, float]:
    """What started replicas cost that do nothing: the engine's share (probes and samples), and theirs."""
    options = {"health_interval_s": interval_s, "health_silence_s": interval_s + 3.0, "scale_down_after_s": 3600}
    async with bench(declaration(replicas, min_replicas=replicas, options=options)) as made:
        pool = made.factory._pools["worker"]
        while not all(replica.state == "serving" for replica in pool.replicas):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        agents = [psutil.Process(replica.pid) for replica in pool.replicas]
        engine = psutil.Process()

        def used() -> tuple[float, float]:
            return sum(engine.cpu_times()[:2]), sum(sum(agent.cpu_times()[:2]) for agent in agents)

        before, began = used(), time.monotonic()
        await asyncio.sleep(seconds)
        after, took = used(), time.monotonic() - began
    return {
        "engine_percent": 100 * (after[0] - before[0]) / took,
        "each_agent_percent": 100 * (after[1] - before[1]) / took / replicas,
    }


def look_us() -> float:
    """Microseconds of one decision of the policy."""
    from noa.orchestration.scaling import Bounds, Load, Past, decide

    bounds, past, times = Bounds(1, MOST, 60.0, 0.5), Past(), []
    for at in range(20_000):
        load = Load(at_s=at / 10, replicas=4, serving=4, kept=4, busy=3, mean_busy=3.2, waiting=at % 3, ended_per_s=9.0)
        began = time.perf_counter()
        past, _ = decide(past, load, bounds)
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def show(title: str, figures: dict[str, Any]) -> None:
    print(
        f"{title}: {figures['one_replica_s']:.1f} s on one replica, {figures['autoscaled_s']:.1f} s on 1 to {MOST}: "
        f"{figures['ratio']:.1f} times as fast, with {figures['replicas']} replicas. Decided after "
        f"{figures['decided_after_s']:.2f} s, the first of them served after "
        f"{figures['first_more_serves_after_s']:.2f} s; "
        f"down {figures['down_after_idle_s']:.1f} s after the last task (scale_down_after_s: {IDLE_S:g})"
    )
    for text in figures["decisions"]:
        print(f"    scaled {text}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000)
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cores = host_resources()["cpu"]
    found: dict[str, Any] = {
        "cores": cores,
        "waits": await measure_burst(options.tasks, "wait", 0.02),
        "computes": await measure_burst(options.tasks, "compute", 0.02, resources={"cpu": 1}),
        "look_us": look_us(),
    }
    for interval_s in (2.0, 0.5):
        found[f"idle_{interval_s:g}"] = await measure_idle(4, options.idle_s, interval_s)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    show(f"{options.tasks:,} tasks that wait for 20 ms", found["waits"])
    show(f"{options.tasks:,} tasks that compute for 20 ms on {cores:g} cores (resources: cpu 1)", found["computes"])
    print(f"one decision: {found['look_us']:.1f} µs")
    for interval_s in (2.0, 0.5):
        idle = found[f"idle_{interval_s:g}"]
        print(
            f"4 idle replicas, asked for their Health every {interval_s:g} s, for {options.idle_s:g} s: "
            f"{idle['engine_percent']:.2f} % of a core in the engine (samples included), "
            f"{idle['each_agent_percent']:.2f} % in each agent"
        )


if __name__ == "__main__":
    asyncio.run(main())
