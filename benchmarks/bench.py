"""Measures noa beside its limits, each pair in the same run. `make bench` prints the table; `--write` keeps it in docs.

Every measurement runs in a process of its own and is repeated; medians are shown. A limit is what the same machine
does without noa: bare commits of SQLite, bare asyncio tasks, a bare gRPC client against the same agent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# On the disk that the state would be on; /tmp is memory on many machines.
SCRATCH = ROOT / ".cache" / "bench"


# --- limits


def commit_rate(folder: Path, seconds: float = 1.0) -> float:
    """Single commits a second: SQLite, WAL, synchronous=FULL, one row of an event's size each."""
    base = sqlite3.connect(folder / "limit.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, body TEXT)")
    body, done, start = "x" * 200, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        base.execute("BEGIN IMMEDIATE")
        base.execute("INSERT INTO t (body) VALUES (?)", (body,))
        base.execute("COMMIT")
        done += 1
    rate = done / (time.perf_counter() - start)
    base.close()
    return rate


async def bare_tasks(count: int, width: int) -> float:
    """asyncio tasks a second that do nothing, `width` at a time: as soon as one ends, the next begins."""

    async def nothing() -> None:
        return None

    numbers = iter(range(count))

    async def lane() -> None:
        for _ in numbers:
            await asyncio.create_task(nothing())

    start = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(width)))
    return count / (time.perf_counter() - start)


# --- measurements; each prints one JSON object


async def _timed(runtime: Any, plan: Any) -> float:
    start = time.perf_counter()
    running = await runtime.start(plan)
    state = await running.wait()
    assert state.status == "succeeded", state.failure
    return time.perf_counter() - start


async def measure_chain(folder: Path, count: int = 1000) -> dict:
    from bench_agents import chain, registry

    from noa.runtime import Runtime

    async with Runtime(registry=registry(), home=folder) as runtime:
        plan = runtime.load(chain(count))
        await _timed(runtime, runtime.load(chain(50)))
        before = commit_rate(folder)
        seconds = min([await _timed(runtime, plan) for _ in range(3)])
        after = commit_rate(folder)
    limit = (before + after) / 2
    return {"value": count / seconds, "limit": limit, "unit": "tasks/s"}


async def measure_fan_out(folder: Path, count: int = 20_000, width: int = 64) -> dict:
    from bench_agents import fan_out, registry

    from noa.runtime import Runtime

    async with Runtime(registry=registry(), home=folder) as runtime:
        plan = runtime.load(fan_out(count, width))
        await _timed(runtime, runtime.load(fan_out(200, width)))
        seconds = await _timed(runtime, plan)
        limit = await bare_tasks(count, width)
    return {"value": count / seconds, "limit": limit, "unit": "tasks/s"}


async def measure_flatness(folder: Path) -> dict:
    from bench_agents import fan_out, registry

    from noa.runtime import Runtime

    async with Runtime(registry=registry(), home=folder) as runtime:
        await _timed(runtime, runtime.load(fan_out(500, 64)))
        small_plan = runtime.load(fan_out(1000, 64))
        small = statistics.median([await _timed(runtime, small_plan) for _ in range(7)]) / 1000
        large = await _timed(runtime, runtime.load(fan_out(100_000, 64))) / 100_000
    return {"value": large * 1e6, "limit": small * 1e6, "unit": "µs/task"}


async def measure_memory(folder: Path, count: int = 50_000) -> dict:
    """Live Python memory that a finished run still holds, while its state is at hand; the plan is not counted."""
    import gc
    import tracemalloc

    from bench_agents import fan_out, registry

    from noa.runtime import Runtime

    async with Runtime(registry=registry(), home=folder) as runtime:
        await _timed(runtime, runtime.load(fan_out(1000, 64)))
        plan = runtime.load(fan_out(count, 64))
        gc.collect()
        tracemalloc.start()
        running = await runtime.start(plan)
        state = await running.wait()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert state.counts["succeeded"] == count
    return {"value": held / count, "limit": 3072, "unit": "bytes/task"}


async def measure_many_runs(folder: Path, runs: int = 200) -> dict:
    from bench_agents import chain, registry

    from noa.runtime import Runtime

    async with Runtime(registry=registry(), home=folder) as runtime:
        plan = runtime.load(chain(5))

        async def all_of_them() -> float:
            start = time.perf_counter()
            going = await asyncio.gather(*(runtime.start(plan) for _ in range(runs)))
            await asyncio.gather(*(running.wait() for running in going))
            return runs / (time.perf_counter() - start)

        await all_of_them()
        rates = [await all_of_them() for _ in range(5)]
    return {"value": statistics.median(rates), "limit": 1000, "unit": "runs/s"}


async def measure_sidecar(folder: Path, width: int) -> dict:
    """One Rust agent process; the engine and the bare client call it in turn, over the same loopback address."""
    from bench_agents import chain, fan_out, registry
    from languages import LANGUAGES, free_port, launch, raw_calls

    from noa.runtime import Runtime

    address = f"127.0.0.1:{free_port()}"
    agent = launch(LANGUAGES["Rust"], address)
    count = 1000 if width == 1 else 6000
    try:
        async with Runtime(registry=registry(echo_address=address), home=folder) as runtime:
            make = chain if width == 1 else (lambda n, **k: fan_out(n, width, **k))
            await _timed(runtime, runtime.load(chain(20, agent="echo", action_name="echo")))
            plan = runtime.load(make(count, agent="echo", action_name="echo"))
            before, _ = await raw_calls(address, count, width)
            seconds = await _timed(runtime, plan)
            after, _ = await raw_calls(address, count, width)
    finally:
        agent.communicate()
    raw = (before + after) / 2
    result = {"value": count / seconds, "limit": raw, "unit": "tasks/s"}
    if width == 1:
        # What a chain could reach at most that is as durable as the engine's: one call and one commit a task.
        result["call_plus_commit"] = 1 / (1 / raw + 1 / commit_rate(folder))
    return result


_FIRST_TASK = """
import sys, time
start = float(sys.argv[2])
sys.path.insert(0, sys.argv[3])
import asyncio
from bench_agents import chain, registry
from noa.runtime import Runtime
from noa.model.events import AttemptSucceeded

def seen(run, seq, event):
    if isinstance(event, AttemptSucceeded):
        print((time.time() - start) * 1000, flush=True)

async def main():
    async with Runtime(registry=registry(), home=__import__("pathlib").Path(sys.argv[1]), on_event=seen) as runtime:
        await runtime.run(chain(1))
asyncio.run(main())
"""


async def measure_first_task(folder: Path) -> dict:
    took = []
    for number in range(7):
        command = [sys.executable, "-c", _FIRST_TASK, str(folder / str(number)), str(time.time()), str(HERE)]
        took.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    bare = []
    for _ in range(7):
        start = time.time()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append((time.time() - start) * 1000)
    return {"value": statistics.median(took), "limit": 400, "unit": "ms", "bare_python_ms": statistics.median(bare)}


_PLUGIN = """
import asyncio
from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import Agent, action

class Slow(Agent):
    name = "slow"
    version = "1"
    @action(idempotent=True)
    async def step(self) -> dict:
        await asyncio.sleep(0.02)
        return {}

@hookimpl
def noa_agents():
    return [AgentDeclaration(name="slow", factory=Slow)]
"""


async def measure_resume(folder: Path) -> dict:
    """From `noa resume` after a kill -9 to the next task done, as a user sees it: processes started included."""
    from bench_agents import chain

    (folder / "slow_plugin.py").write_text(_PLUGIN)
    (folder / "w.json").write_text(json.dumps(chain(100, agent="slow", action_name="step")))
    noa = str(Path(sys.executable).parent / "noa")
    took, repeated = [], 0
    for number in range(5):
        home = folder / f"home{number}"
        common = ["--home", str(home), "--plugin", str(folder / "slow_plugin.py")]
        first = subprocess.Popen(
            [noa, "run", str(folder / "w.json"), "--run-id", "r1", *common],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_tasks(home, 10)
        first.send_signal(signal.SIGKILL)
        first.wait()
        done = _tasks_done(home)
        start = time.time()
        second = subprocess.Popen([noa, "resume", "r1", *common], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_tasks(home, len(done) + 1)
        after = _tasks_done(home)
        took.append((after[len(done)][1] / 1000 - start) * 1000)
        second.wait()
        names = [name for name, _ in _tasks_done(home)]
        repeated += len(names) - len(set(names))
    return {"value": statistics.median(took), "limit": 500, "unit": "ms", "finished_twice": repeated}


def _tasks_done(home: Path) -> list[tuple[str, int]]:
    if not (home / "noa.db").exists():
        return []
    base = sqlite3.connect(home / "noa.db", timeout=5)
    try:
        rows = base.execute("SELECT body FROM history WHERE type = 'attempt_succeeded' ORDER BY seq").fetchall()
    except sqlite3.OperationalError:  # the tables are being made
        return []
    finally:
        base.close()
    found = [json.loads(body) for (body,) in rows]
    return [(event["task"], event["at_ms"]) for event in found]


def _wait_for_tasks(home: Path, count: int) -> None:
    deadline = time.time() + 30
    while len(_tasks_done(home)) < count:
        assert time.time() < deadline, "no progress"
        time.sleep(0.002)


async def measure_resident(folder: Path) -> dict:
    import psutil
    from bench_agents import chain, registry

    from noa.runtime import Runtime

    program = str(Path(sys.executable).parent / "noa-rust-agent")
    async with Runtime(registry=registry(echo_command=(program,)), home=folder) as runtime:
        await _timed(runtime, runtime.load(chain(100, agent="echo", action_name="echo")))
        resident = psutil.Process().memory_info().rss / 2**20
    return {"value": resident, "limit": 120, "unit": "MiB"}


MEASUREMENTS: dict[str, tuple[str, str, float, Callable[[Path], Any]]] = {
    # name: what, kind of comparison, what is wanted of value / limit, how
    "chain": ("chain of 1,000 no-op tasks, durable, against single commits", "at least", 0.70, measure_chain),
    "fan-out": ("20,000 no-op tasks, 64 at a time, against bare asyncio", "at least", 8_000 / 90_000, measure_fan_out),
    "flatness": ("cost of a task at 100,000 against 1,000", "at most", 1.3, measure_flatness),
    "memory": ("engine memory for a finished task", "at most", 1.0, measure_memory),
    "many-runs": ("200 runs of 5 tasks at once", "at least", 1.0, measure_many_runs),
    "sidecar-1": (
        "through a Rust agent, 1 in flight, against bare grpc.aio",
        "at least",
        0.70,
        lambda f: measure_sidecar(f, 1),
    ),
    "sidecar-64": (
        "through a Rust agent, 64 in flight, against bare grpc.aio",
        "at least",
        0.70,
        lambda f: measure_sidecar(f, 64),
    ),
    "first-task": ("process start to first task done", "at most", 1.0, measure_first_task),
    "resume": ("`noa resume` after kill -9 to the next task done", "at most", 1.0, measure_resume),
    "resident": ("resident memory with one sidecar", "at most", 1.0, measure_resident),
}


def measure(name: str) -> Any:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        return asyncio.run(_work(name, Path(folder)))


def _work(name: str, folder: Path) -> Coroutine[Any, Any, Any]:
    if name in MEASUREMENTS:
        return MEASUREMENTS[name][3](folder)
    import languages

    kind, language, *width = name.split(":")
    if kind == "calls":
        return languages.calls(folder, language, int(width[0]))
    return {"rest": languages.at_rest, "recovers": languages.recovers}[kind](folder, language)


def _in_a_process(name: str) -> Any:
    child = subprocess.run(
        [sys.executable, __file__, "--one", name], check=False, capture_output=True, text=True, cwd=ROOT
    )
    if child.returncode:
        sys.exit(f"{name} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def median_of(name: str, repeats: int) -> dict:
    results = [_in_a_process(name) for _ in range(repeats)]
    results.sort(key=lambda r: r["value"] / r["limit"])
    return results[len(results) // 2]


def row(name: str, result: dict) -> tuple[str, bool]:
    what, direction, wanted, _ = MEASUREMENTS[name]
    ratio = result["value"] / result["limit"]
    met = ratio >= wanted if direction == "at least" else ratio <= wanted
    extra = "".join(f", {k} {v:,.0f}" for k, v in result.items() if k not in {"value", "limit", "unit"})
    line = (
        f"| {what} | {result['value']:,.0f} {result['unit']} | {result['limit']:,.0f}{extra} | "
        f"{ratio:.2f} | {direction} {wanted:.2f} | {'yes' if met else '**no**'} |"
    )
    return line, met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which; all by default: {', '.join([*MEASUREMENTS, 'languages'])}"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median counts")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    table = ["| what | noa | limit | ratio | wanted | met |", "|---|---|---|---|---|---|"]
    print("\n".join(table), flush=True)
    for name in [n for n in options.names if n != "languages"] or ([] if options.names else MEASUREMENTS):
        line, _ = row(name, median_of(name, options.repeats))
        table.append(line)
        print(line, flush=True)
    by_language: list[str] = []
    if not options.names or "languages" in options.names:
        import languages

        print(flush=True)
        by_language = languages.table(_in_a_process, lambda line: print(line, flush=True))
    if options.write:
        if len(table) > 2:
            write("table", table)
        if by_language:
            write("languages", by_language)


def write(name: str, table: list[str]) -> None:
    page = ROOT / "docs" / "benchmarks.md"
    text = page.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    assert begin in text, f"{page} has no place for {name}"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    machine = f"{os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}"
    made = textwrap.dedent(f"Measured on {machine}, {time.strftime('%Y-%m-%d')}; medians.")
    page.write_text(f"{head}{begin}\n{made}\n\n" + "\n".join(table) + f"\n{end}{tail}")


if __name__ == "__main__":
    main()
