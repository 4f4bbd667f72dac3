"""Measures what recovery costs: resuming large runs, storms of retries, chains and compensations that nobody needs.

Each figure stands beside a limit that is measured in the same run. `python benchmarks/reliability.py [NAME ...]`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import noa.builtins
from noa.model.ids import RunId
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.runtime import Runtime
from noa.sdk import ActionFailed, Agent, Context, action

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".cache" / "bench"

CHAIN: list[Any] = [
    {"retry": {"max_attempts": 5, "delay_s": 0.01}},
    {"fallback": [{"agent": "spare"}]},
    {"degrade": {"outputs": {"n": 0}, "on": ["BROKEN"]}},
    {"skip": {"on": ["GONE"]}},
    "fail",
]
"""Five entries, of which none is asked while all goes well."""

COMPENSATION = {"agent": "noop", "action": "noop"}


def fan_out(
    count: int,
    width: int = 64,
    *,
    gate: bool = False,
    action: str = "noop",
    workflow: Mapping[str, Any] = MappingProxyType({}),
    **keys: Any,
) -> dict[str, Any]:
    """`count` tasks, `width` at a time; with `gate` a task after them that ends when it is told to.

    Args:
        workflow: Further keys of the workflow.
        keys: Further keys of each task.
    """
    tasks = [{"name": f"t{i}", "agent": "noop", "action": action, **keys} for i in range(count)]
    stages: list[dict[str, Any]] = [{"name": "s", "type": "parallel", "max_parallel": width, "tasks": tasks}]
    if gate:
        held = [{"agent": "noop", "action": "gate", "inputs": {}}]
        stages.append({"name": "gate", "type": "parallel", "depends_on": ["s"], "tasks": held})
    return {"workflow": {"name": "measured", "version": "1", "stages": stages, **workflow}}


class Gate:
    """When the gate's task began, and whether it may end."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.open = False

    async def reached(self) -> float:
        """When it began."""
        while not self.began:
            await asyncio.sleep(0.001)
        return self.began.pop()


GATE = Gate()


class Noop(Agent):
    """Does nothing, as fast as it can; fails three times first; or waits at the gate."""

    name = "noop"
    version = "1"

    @action(idempotent=True)
    async def noop(self) -> dict:
        return {}

    @action(idempotent=True)
    async def flaky(self, context: Context) -> dict:
        if context.attempt < 4:
            raise ActionFailed("NOT_YET", "not yet", retryable=True)
        return {}

    @action(idempotent=True)
    async def gate(self) -> dict:
        GATE.began.append(time.perf_counter())
        while not GATE.open:
            await asyncio.sleep(0.005)
        return {}


class MeasuredPlugin:
    """The agents."""

    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name=name, factory=Noop) for name in ("noop", "spare")]


def registry() -> Registry:
    """noa's own plugin, and the agents."""
    made = Registry()
    made.register(noa.builtins, "noa")
    made.register(MeasuredPlugin(), "measured")
    return made


async def _timed(runtime: Any, plan: Any) -> float:
    gc.collect()
    start = time.perf_counter()
    running = await runtime.start(plan)
    state = await running.wait()
    assert state.status == "succeeded", state.failure
    return time.perf_counter() - start


async def _leave(runtime: Runtime) -> None:
    """Stop driving, as an engine that ends; then let the agent end too."""
    await runtime.engine.close()
    GATE.open = True


# --- measurements


async def prepare(folder: Path, count: int) -> None:
    """Leave a run with so many finished tasks, of which the next one was going on when its engine ended."""
    async with Runtime(registry=registry(), home=folder) as runtime:
        await runtime.start(runtime.load(fan_out(count, gate=True)), run_id=RunId("large"))
        await GATE.reached()
        await _leave(runtime)


async def measure_resume(folder: Path, count: int) -> dict[str, Any]:
    """Seconds from `resume`, in a process of its own, of a run with so many finished tasks to its next task."""
    subprocess.run([sys.executable, __file__, "--prepare", str(count), str(folder)], check=True)
    size = sum(path.stat().st_size for path in folder.glob("noa.db*"))
    async with Runtime(registry=registry(), home=folder) as runtime:
        start, cpu = time.perf_counter(), time.process_time()
        await runtime.engine.resume(RunId("large"))
        took = await GATE.reached() - start
        cpu = time.process_time() - cpu
        await _leave(runtime)
    return {"seconds": took, "cpu_s": cpu, "per_task_us": took / count * 1e6, "bytes": size / count}


async def measure_storm(folder: Path, count: int) -> dict[str, Any]:
    """Tasks that fail three times before they succeed, against as many that succeed at once."""
    chain = [{"retry": {"max_attempts": 5, "delay_s": 0.001, "jitter": 0}}]
    async with Runtime(registry=registry(), home=folder) as runtime:
        await _timed(runtime, runtime.load(fan_out(200, action="flaky", recovery=chain)))
        calm = await _timed(runtime, runtime.load(fan_out(count)))
        plan = runtime.load(fan_out(count, action="flaky", recovery=chain))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        storm = await _timed(runtime, plan)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    attempt_us = storm / (4 * count) * 1e6
    return {"attempt_us": attempt_us, "calm_us": calm / count * 1e6, "kib": max(0, grown) / count}


async def measure_pairs(folder: Path, count: int, pairs: int, **keys: Any) -> dict[str, Any]:
    """Cost of tasks that declare what they do not need, against plain ones: the median of paired ratios."""
    async with Runtime(registry=registry(), home=folder) as runtime:
        plain, more = runtime.load(fan_out(count)), runtime.load(fan_out(count, **keys))
        for plan in (plain, more):
            await _timed(runtime, plan)
        ratios, times = [], []
        for number in range(pairs):
            order = (plain, more) if number % 2 else (more, plain)
            taken = {id(plan): await _timed(runtime, plan) for plan in order}
            ratios.append(taken[id(more)] / taken[id(plain)])
            times.append(taken[id(plain)])
    return {"ratio": statistics.median(ratios), "plain_us": statistics.median(times) / count * 1e6}


async def measure_flatness(folder: Path, small: int, large: int, repeats: int = 5) -> dict[str, Any]:
    """Cost of a task with a compensation in a large run, against that in a small one."""
    async with Runtime(registry=registry(), home=folder) as runtime:
        few = runtime.load(fan_out(small, compensate=COMPENSATION))
        await _timed(runtime, few)
        cost = statistics.median([await _timed(runtime, few) for _ in range(repeats)]) / small
        much = await _timed(runtime, runtime.load(fan_out(large, compensate=COMPENSATION))) / large
    return {"ratio": much / cost, "small_us": cost * 1e6, "large_us": much * 1e6}


# --- the table


def _resume(results: list[Any]) -> list[str]:
    rows = []
    base = results[0]["per_task_us"]
    for count, result in zip((1_000, 10_000, 100_000), results, strict=True):
        rows.append(
            f"| resume, {count:,} tasks are finished | {result['seconds']:.2f} s, of CPU {result['cpu_s']:.2f} s "
            f"({result['bytes']:,.0f} bytes a task) | 5 s | {result['seconds'] / 5:.2f}; "
            f"a task costs {result['per_task_us'] / base:.2f} of the first row's |"
        )
    return rows


Row = tuple[list[tuple[Callable[..., Coroutine[Any, Any, Any]], tuple[Any, ...], dict[str, Any]]], Any]

ROWS: dict[str, Row] = {
    "resume": ([(measure_resume, (n,), {}) for n in (1_000, 10_000, 100_000)], _resume),
    "storm": (
        [(measure_storm, (n,), {}) for n in (1_000, 10_000)],
        lambda r: [
            f"| {n:,} tasks that fail three times: an attempt | {x['attempt_us']:.0f} µs, {x['kib']:.1f} KiB a task "
            f"| {x['calm_us']:.0f} µs, a task that succeeds at once | {x['attempt_us'] / x['calm_us']:.2f} |"
            for n, x in zip((1_000, 10_000), r, strict=True)
        ],
    ),
    "chain": (
        [
            (measure_pairs, (5_000, 11), {"workflow": {"recovery": CHAIN}}),
            (measure_pairs, (5_000, 11), {"recovery": CHAIN}),
        ],
        lambda r: [
            f"| 5,000 tasks, a chain of five {where} | | {x['plain_us']:.0f} µs, without | {x['ratio']:.3f} |"
            for where, x in zip(("for all", "each"), r, strict=True)
        ],
    ),
    "compensate": (
        [(measure_pairs, (5_000, 11), {"compensate": COMPENSATION})],
        lambda r: [f"| 5,000 tasks with a compensation | | {r[0]['plain_us']:.0f} µs, without | {r[0]['ratio']:.3f} |"],
    ),
    "flatness": (
        [(measure_flatness, (n, 50_000), {}) for n in (10, 1_000)],
        lambda r: [
            f"| a task that can be undone, of 50,000 | {x['large_us']:.0f} µs | {x['small_us']:.0f} µs, of {n:,} | "
            f"{x['ratio']:.2f} |"
            for n, x in zip((10, 1_000), r, strict=True)
        ],
    ),
}  # fmt: skip


def _in_a_process(name: str, number: int) -> Any:
    words = [sys.executable, __file__, "--one", f"{name}:{number}"]
    child = subprocess.run(words, check=False, capture_output=True, text=True, cwd=ROOT)
    if child.returncode:
        sys.exit(f"{name} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all by default: {', '.join(ROWS)}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        asyncio.run(prepare(Path(options.prepare[1]), int(options.prepare[0])))
        return
    SCRATCH.mkdir(parents=True, exist_ok=True)
    if options.one:
        name, _, number = options.one.partition(":")
        measure, args, keys = ROWS[name][0][int(number)]
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            print(json.dumps(asyncio.run(measure(Path(folder), *args, **keys))))
        return
    print("| what | noa | limit | ratio |\n|---|---|---|---|", flush=True)
    for name in options.names or ROWS:
        steps, told = ROWS[name]
        for line in told([_in_a_process(name, number) for number in range(len(steps))]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
