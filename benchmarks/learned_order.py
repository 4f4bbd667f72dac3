"""Measures what learned order gains where the optimum is known: `python benchmarks/learned_order.py`.

The graph fills CAPACITY slots without a gap: one chain of tasks is as long as the whole optimal schedule, and other
tasks, skewed in length, fill the other slots exactly. No schedule is shorter than max(critical path, work / capacity),
which here is reached. In the order of arrival each task of the chain stands in line behind all that came before it.

Many graphs are compared with the engine's own core in virtual time; one is run for real, by tasks that wait.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa import builtins
from noa.definitions import Evaluator, load_plan
from noa.engine.commands import Execute
from noa.engine.core import Core
from noa.engine.decide import Decider
from noa.engine.state import RunState
from noa.model.events import AttemptSucceeded, RunCreated, TaskScheduled
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.modes.learning import RunNotes, TaskNotes, WorkflowRecord, expectations, revised
from noa.modes.makespan import Load, estimate
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.runtime import RunResult, Runtime
from noa.sdk import Agent, action

CAPACITY = 8
TASKS = 500


class Waiter(Agent):
    """Waits, as for something outside."""

    name = "waiter"
    version = "1"
    capacity = 64

    @action(idempotent=True)
    async def wait(self, seconds: float) -> dict[str, Any]:
        """So long."""
        await asyncio.sleep(seconds)
        return {}


class WaiterPlugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration("waiter", factory=Waiter)]


def registry() -> Registry:
    made = Registry()
    made.register(builtins, "noa")
    made.register(WaiterPlugin(), "learned-order")
    return made


@dataclass(frozen=True)
class Graph:
    """A graph of which the shortest makespan is `optimum_ms`. `needs` names tasks by name."""

    optimum_ms: int
    durations_ms: Mapping[str, int]
    needs: Mapping[str, list[str]]

    def definition(self, capacity: int) -> dict[str, Any]:
        tasks = [
            {
                "name": name,
                "agent": "waiter",
                "action": "wait",
                "inputs": {"seconds": duration_ms / 1000},
                **({"needs": self.needs[name]} if self.needs.get(name) else {}),
            }
            for name, duration_ms in self.durations_ms.items()
        ]
        stage = {"name": "s", "type": "parallel", "tasks": tasks}
        return {"workflow": {"name": "skewed", "version": "1", "max_parallel": capacity, "stages": [stage]}}


def skewed(count: int, capacity: int, optimum_ms: int, seed: int, *, chain_last: bool = False) -> Graph:
    """A graph that fills `capacity` slots for exactly `optimum_ms`.

    One slot is filled by a chain. Each other slot is cut into tasks whose lengths are skewed: a few are long, most are
    short. A third of those wait for a task that ends before they begin in that schedule, so it stays possible.

    Args:
        chain_last: Whether the chain stands at the end of the file; else tasks stand in any order.
    """
    chance = random.Random(seed)
    chain = max(2, count // 25)
    lengths = [chain] + [(count - chain) // (capacity - 1)] * (capacity - 1)
    lengths[-1] += count - sum(lengths)
    spans: list[tuple[int, int, int]] = []  # begin, end, lane
    for lane, many in enumerate(lengths):
        weights = [1.0 if lane == 0 else chance.paretovariate(1.1) for _ in range(many)]
        begin, seen = 0, 0.0
        for weight in weights:
            seen += weight
            end = round(optimum_ms * seen / sum(weights))
            spans.append((begin, end, lane))
            begin = end
    names = [f"c{i}" if span[2] == 0 else f"t{i}" for i, span in enumerate(spans)]
    needs: dict[str, list[str]] = {names[i]: [names[i - 1]] for i in range(1, chain)}
    for i in range(chain, len(spans)):
        before = [names[j] for j in range(chain, len(spans)) if spans[j][1] <= spans[i][0]]
        if before and chance.random() < 1 / 3:
            needs[names[i]] = [chance.choice(before)]
    order = list(range(len(spans)))
    chance.shuffle(order)
    if chain_last:
        order.sort(key=lambda i: spans[i][2] == 0)
    durations = {names[i]: spans[i][1] - spans[i][0] for i in order}
    return Graph(optimum_ms, durations, needs)


def virtual_ms(plan: Plan, found: Registry, durations_ms: Mapping[str, int], expected_ms: Mapping[str, int]) -> int:
    """The makespan in the engine's own core, whose attempts take as long as they should and not a moment more."""
    core = Core(RunState(plan), Decider(found, Evaluator()))
    going: list[tuple[int, int, Execute]] = []
    created = RunCreated(
        at_ms=1, run_id="r", workflow=plan.name, version="1", definitions={}, expected_ms=dict(expected_ms)
    )
    now_ms, started = 1, 0
    _, effects = core.advance(created)
    while True:
        for effect in effects:
            if isinstance(effect, Execute):
                started += 1
                ends_ms = now_ms + durations_ms[effect.task.rpartition("/")[2]]
                heapq.heappush(going, (ends_ms, started, effect))
        if not going:
            break
        now_ms, _, done = heapq.heappop(going)
        _, effects = core.advance(AttemptSucceeded(at_ms=now_ms, task=done.task, attempt=done.attempt))
    assert core.state.status == "succeeded", core.state.failure
    return now_ms - 1


def taught(plan: Plan, durations_ms: Mapping[str, int]) -> tuple[WorkflowRecord, dict[str, int]]:
    """What one run teaches, and what the next one is given."""
    notes = {
        f"s/{name}": TaskNotes(durations_ms=[duration_ms], count=1, sum_ms=duration_ms, attempts=1)
        for name, duration_ms in durations_ms.items()
    }
    record = revised(WorkflowRecord(), [RunNotes("1", notes)])
    return record, expectations(record, plan)


def compare(
    found: Registry, count: int, capacity: int, optimum_ms: int, seed: int, *, chain_last: bool
) -> dict[str, Any]:
    """Makespans of one graph in virtual time, as ratios to the lower bound; what was learned is off by up to 20 %."""
    graph = skewed(count, capacity, optimum_ms, seed, chain_last=chain_last)
    plan = load_plan(graph.definition(capacity), registry=found)
    chance = random.Random(seed + 1)
    _, exact = taught(plan, graph.durations_ms)
    _, noisy = taught(plan, {n: round(d * chance.uniform(0.8, 1.2)) for n, d in graph.durations_ms.items()})
    item_ms = {f"s/{name}": duration_ms for name, duration_ms in graph.durations_ms.items()}
    guess = estimate(plan, Load(item_ms), exact)
    assert guess.bound_ms == graph.optimum_ms, (guess, graph.optimum_ms)
    arrival = virtual_ms(plan, found, graph.durations_ms, {})
    learned = virtual_ms(plan, found, graph.durations_ms, exact)
    assert (guess.arrival_ms, guess.learned_ms) == (arrival, learned), "the estimate is not what the engine does"
    return {
        "arrival": arrival / optimum_ms,
        "learned": learned / optimum_ms,
        "learned_noisy": virtual_ms(plan, found, graph.durations_ms, noisy) / optimum_ms,
    }


async def real(found: Registry, graph: Graph, capacity: int) -> dict[str, Any]:
    """Two runs of one store: the first in the order of arrival, the second in what the first taught."""
    with tempfile.TemporaryDirectory() as folder:
        async with Runtime(home=Path(folder), registry=found, learn=True) as runtime:
            plan = runtime.load(graph.definition(capacity))
            results: list[RunResult] = [await runtime.run(plan) for _ in range(2)]
            pasts = [[event for _, event in await runtime.journal.read(RunId(result.run_id))] for result in results]
    assert all(result.succeeded for result in results)
    created = [event for past in pasts for event in past if isinstance(event, RunCreated)]
    assert [bool(event.expected_ms) for event in created] == [False, True]
    first = [next(event.task for event in past if isinstance(event, TaskScheduled)) for past in pasts]
    arrival, learned = (result.duration_ms / graph.optimum_ms for result in results)
    return {"arrival": arrival, "learned": learned, "first": [path.rpartition("/")[2] for path in first]}


def measure(*, graphs: int, real_ms: int) -> dict[str, Any]:
    """All figures; makespans as ratios to the lower bound."""
    found = registry()
    rows = [compare(found, TASKS, CAPACITY, 60_000, seed, chain_last=False) for seed in range(graphs)]
    last = [compare(found, TASKS, CAPACITY, 60_000, seed, chain_last=True) for seed in range(max(1, graphs // 4))]
    figures: dict[str, Any] = {
        "tasks": TASKS,
        "capacity": CAPACITY,
        "graphs": graphs,
        "any order in the file": {name: spread([row[name] for row in rows]) for name in rows[0]},
        "chain last in the file": {name: spread([row[name] for row in last]) for name in last[0]},
    }
    if real_ms:
        graph = skewed(TASKS, CAPACITY, real_ms, 1, chain_last=True)
        figures["real run, chain last"] = {"bound_ms": real_ms, **asyncio.run(real(found, graph, CAPACITY))}
    return figures


def spread(ratios: list[float]) -> dict[str, float]:
    found = sorted(ratios)
    return {"least": found[0], "median": found[len(found) // 2], "most": found[-1]}


def shown(figures: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        f"{figures['tasks']} tasks, {figures['capacity']} at once; makespan / lower bound",
        "",
        "| graph | order of arrival | learned order | learned, off by up to 20 % | gain |",
        "|---|---|---|---|---|",
    ]
    for name in ("any order in the file", "chain last in the file"):
        row = figures[name]
        cells = [
            f"{row[k]['median']:.3f} (at most {row[k]['most']:.3f})" for k in ("arrival", "learned", "learned_noisy")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['arrival']['median'] / row['learned']['median']:.2f}x |")
    if row := figures.get("real run, chain last"):
        lines.append(
            f"| real run, chain last, bound {row['bound_ms'] / 1000:g} s | {row['arrival']:.3f} "
            f"| {row['learned']:.3f} | | {row['arrival'] / row['learned']:.2f}x |"
        )
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Print the figures; 1 where learned order misses the lower bound by more than 10 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=40, help="how many graphs are compared in virtual time")
    parser.add_argument("--real-ms", type=int, default=10_000, help="lower bound of the real run; 0 leaves it out")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(args)
    figures = measure(graphs=given.graphs, real_ms=given.real_ms)
    print(json.dumps(figures, indent=2) if given.json else shown(figures))
    return 0 if figures["any order in the file"]["learned"]["most"] <= 1.10 else 1


if __name__ == "__main__":
    sys.exit(main())
