"""Engines and agents in processes of their own are killed and stopped under load: nothing lost, nothing at once."""

import json
import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .conftest import LONG
from .fleet import Fleet, overlaps, wait_for
from .lives import Store
from .scenarios import stage


def task(name: str, **inputs: Any) -> dict[str, Any]:
    recovery = [{"retry": {"max_attempts": 20, "delay_s": 0.05, "on": ["AGENT_LOST", "OVERLOADED", "FLAKY"]}}]
    return {"name": name, "agent": "ledgers", "action": "work", "inputs": inputs, "recovery": recovery}


LOAD = [
    stage("wide", "parallel", *(task(f"t{n}", value=n, sleep_ms=30 + n * 10) for n in range(8))),
    stage("each", "loop", task("item", value="${{ item }}", sleep_ms=20), for_each=list(range(6)), max_parallel=3),
    stage("end", "sequential", task("flaky", fail_first=1, value="${{ stages.wide.t3.outputs.value }}"),
          task("last", value="${{ tasks.flaky.outputs.value }}"), depends_on=["wide", "each"]),
]  # fmt: skip
KEYS = {"outputs": {"v": "${{ stages.end.last.outputs.value }}", "all": "${{ stages.each.item.outputs }}"}}


def check(fleet: Fleet) -> None:
    """Every run ended well with its outputs, each task had its effect, no two engines made one at once."""
    histories = fleet.store.events()
    assert len(histories) == fleet.runs
    done = {effect.begin.key for effect in fleet.effects() if effect.end and effect.end.what == "done"}
    for run, history in histories.items():
        assert history[-1]["type"] == "run_finished", run
        assert history[-1]["status"] == "succeeded", history[-1]
        assert history[-1]["outputs"] == {"v": 3, "all": [{"value": n} for n in range(6)]}
        succeeded = [event["task"] for event in history if event["type"] == "attempt_succeeded"]
        assert len(succeeded) == len(set(succeeded)) == 16
        assert {f"{run}:{name}" for name in succeeded} <= done
    assert overlaps(fleet) == []


@pytest.mark.parametrize("seed", range(20 if LONG else 2))
def test_engines_and_agents_that_are_killed_and_stopped_under_load_lose_nothing(
    seed: int, tmp_path: Path, tried: Counter[str]
) -> None:
    chance = random.Random(seed)
    with Fleet(Store(tmp_path), LOAD, runs=12 if LONG else 4, keys=KEYS) as fleet:
        engines = [fleet.start(), fleet.start()]
        stopped: list[subprocess.Popen[str]] = []
        for what in _plan(chance):
            if not _moved(fleet, len(fleet.effects()) + chance.randint(1, 8)):
                break  # everything is over
            awake = [engine for engine in engines if engine not in stopped and engine.poll() is None]
            if not awake:
                break
            if what == "kill agent":
                tried["agents killed under load"] += fleet.kill_an_agent(chance)
            elif what == "kill engine":
                engine = chance.choice(awake)
                fleet.kill(engine)
                engines[engines.index(engine)] = fleet.start()
                tried["engines killed under load"] += 1
            elif stopped:
                fleet.wake(stopped.pop())
            else:
                stopped.append(chance.choice(awake))
                fleet.stop(stopped[0])
                tried["engines stopped under load"] += 1
        if stopped:
            wait_for(fleet.over, "the engine that is awake to finish everything")
            fleet.wake(stopped[0])
        fleet.finish()
        check(fleet)


def _plan(chance: random.Random) -> list[str]:
    """What is done, one after the other: everything at least once."""
    plan: list[str] = []
    for _ in range(3 if LONG else 1):
        plan += chance.sample(["kill engine", "stop or wake engine", "kill agent", "kill engine"], 4)
    return plan


def _moved(fleet: Fleet, effects: int) -> bool:
    """Wait for so many effects; False where no more will come."""
    over = False

    def moved() -> bool:
        nonlocal over
        over = fleet.over()
        return over or len(fleet.effects()) >= effects

    wait_for(moved, f"{effects} effects: {json.dumps(fleet.store.events())[-2000:]}")
    return not over


def test_an_engine_that_wakes_after_its_lease_writes_nothing_and_starts_nothing(
    tmp_path: Path, tried: Counter[str]
) -> None:
    stages = [stage("s", "parallel", *(task(f"t{n}", value=n, sleep_ms=200) for n in range(6)))]
    with Fleet(Store(tmp_path), stages, runs=1, capacity=1) as fleet:
        first = fleet.start()
        wait_for(lambda: len(fleet.effects()) >= 1, "the first task to begin")
        fleet.stop(first)
        fleet.start()
        wait_for(
            lambda: any(h[-1]["type"] == "run_finished" for h in fleet.store.events().values()), "the other engine"
        )
        before = fleet.store.events()
        begun = len(fleet.effects())
        fleet.wake(first)
        fleet.finish()
        tried["engines stopped for longer than their lease"] += 1
        assert fleet.store.events() == before, "the engine that woke up wrote"
        assert overlaps(fleet) == []
        assert not fleet.effects()[begun:], "the engine that woke up began what still waited in it"
