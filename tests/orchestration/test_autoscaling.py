"""Replicas come with a queue and go with idleness: the policy by properties, the rest with real processes."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa.model.execution import Succeeded
from noa.model.ids import RunId
from noa.orchestration.room import Room
from noa.orchestration.scaling import Bounds, Load, Past, Verdict, decide, due_s
from noa.plugin import AgentDeclaration
from noa.sdk.echo import EchoAgent

WORKER = (sys.executable, "-m", "noa.sdk", "scaled_worker:Worker")
HERE = str(Path(__file__).parent)

BOUNDS = Bounds(least=1, most=8, idle_s=60.0, wait_s=0.5)


# --- the policy


def looks(steps: list[float]) -> st.SearchStrategy[list[Load]]:
    """What may be seen of an agent, look by look; `replicas` is filled in from the verdict before."""
    load = st.builds(
        lambda at_s, serving, coming, slots, busy, failing, waiting, oldest_s, rate, room: Load(
            at_s=at_s,
            replicas=0,
            serving=serving,
            coming=min(coming, 8 - serving),
            kept=min(8, serving + coming),
            failing=failing,
            slots=slots,
            busy=round(busy * serving * slots),
            mean_busy=busy * serving * slots,
            waiting=waiting,
            oldest_s=oldest_s,
            ended_per_s=rate,
            room=room,
        ),
        st.sampled_from(steps),
        st.integers(0, 8),
        st.sampled_from([0, 0, 1, 4]),
        st.integers(0, 4),
        st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        st.sampled_from([0, 0, 0, 1, 3]),
        st.sampled_from([0, 0, 1, 5, 1000]),
        st.sampled_from([0.0, 0.1, 0.3, 30.0]),
        st.sampled_from([None, 0.01, 1.0, 50.0, 1000.0]),
        st.sampled_from([0, 2, 5, 100]),
    )
    return st.lists(load, min_size=1, max_size=30).map(in_order)


def in_order(seen: list[Load]) -> list[Load]:
    times = itertools.accumulate(load.at_s for load in seen)
    return [replace(load, at_s=at_s) for load, at_s in zip(seen, times, strict=True)]


STEPS = [0.1, 1.0, 7.0, 60.0, 200.0]


def follow(seen: Sequence[Load], bounds: Bounds, first: int = 1) -> list[tuple[Load, int]]:
    """Each look and what was wanted after it."""
    past, replicas, found = Past(), first, []
    for look in seen:
        load = replace(look, replicas=replicas)
        past, verdict = decide(past, load, bounds)
        replicas = verdict.replicas
        found.append((load, replicas))
    return found


@given(looks(STEPS), st.integers(0, 2), st.integers(2, 8))
@settings(deadline=None)
def test_never_past_the_bounds_nor_the_host_nor_down_on_work_that_is_needed(
    seen: list[Load], least: int, most: int
) -> None:
    bounds = replace(BOUNDS, least=least, most=most)
    past, replicas = Past(), max(1, least)
    for look in seen:
        load = replace(look, replicas=replicas)
        past, verdict = decide(past, load, bounds)
        assert least <= verdict.replicas <= most
        if verdict.replicas > load.replicas:
            assert load.waiting, "more are started for a queue only"
            assert load.serving, "and only of an agent that works"
            assert verdict.replicas <= load.room, "and only where there is room"
            if load.failing:
                assert verdict.replicas <= max(load.kept, load.serving + load.coming + 1), "one at a time is tried"
        if verdict.replicas < load.replicas and load.failing:
            assert verdict.replicas >= min(load.replicas, load.kept) or past.needs[0][1] <= verdict.replicas
        assert len(past.needs) <= most + 1
        replicas = verdict.replicas


@given(looks(STEPS))
@settings(deadline=None)
def test_replicas_end_only_after_fewer_did_for_the_whole_idle_time(seen: list[Load]) -> None:
    calm = [replace(load, failing=0, room=100) for load in seen]
    history = follow(calm, replace(BOUNDS, least=0))
    for index, (load, wanted) in enumerate(history):
        if wanted >= min(load.replicas, load.kept):
            continue  # none of those that take work, or will soon, ends
        window = [(one, after) for one, after in history[: index + 1] if one.at_s > load.at_s - BOUNDS.idle_s]
        assert all(after > wanted for _, after in window[:-1]), "the others were wanted all that time"
        assert wanted or not (load.busy or load.waiting), "the last one never ends under work"
        if load.slots and wanted >= 1:
            assert all(not one.slots or one.mean_busy <= one.slots * wanted for one, _ in window)


@given(
    period=st.floats(0.4, 59.0),
    share=st.floats(0.05, 0.95),
    high=st.integers(2, 2000),
    rate=st.none() | st.floats(0.5, 50.0),
)
@settings(deadline=None)
def test_load_that_comes_and_goes_within_the_idle_time_never_ends_a_replica(
    period: float, share: float, high: int, rate: float | None
) -> None:
    past, replicas, serving, at_s, changes = Past(), 1, 1, 0.0, []
    while at_s < 6 * period + 1:
        loaded = (at_s % period) < share * period
        load = Load(
            at_s=at_s,
            replicas=replicas,
            serving=serving,
            kept=replicas,
            busy=serving if loaded else 0,
            mean_busy=float(serving) if loaded else 0.0,
            waiting=high if loaded else 0,
            oldest_s=at_s % period if loaded else 0.0,
            ended_per_s=rate,
        )
        past, verdict = decide(past, load, BOUNDS)
        if verdict.replicas != replicas:
            changes.append((replicas, verdict.replicas))
        replicas = serving = verdict.replicas
        at_s += 0.1
    assert all(after > before for before, after in changes), changes
    assert len(changes) <= 7


def test_burst_starts_as_many_at_once_as_its_work_asks_for() -> None:
    burst = Load(at_s=0.1, replicas=1, serving=1, kept=1, busy=1, mean_busy=1.0, waiting=999, ended_per_s=50.0)
    assert decide(Past(), burst, BOUNDS)[1].replicas == 8
    assert decide(Past(), replace(burst, waiting=60), BOUNDS)[1].replicas == 3
    slow = replace(burst, waiting=3, ended_per_s=None, oldest_s=0.25)
    assert decide(Past(), slow, BOUNDS)[1].replicas == 4
    wide = replace(slow, slots=2, busy=2)
    assert decide(Past(), wide, BOUNDS)[1].replicas == 3


@pytest.mark.parametrize(
    "load",
    [
        Load(at_s=0.1, replicas=1, serving=1, kept=1, busy=1, waiting=20, ended_per_s=50.0),
        Load(at_s=0.1, replicas=1, serving=1, kept=1, busy=1, waiting=20, oldest_s=0.1),
        Load(at_s=0.1, replicas=1, serving=0, coming=1, kept=1, waiting=20, oldest_s=9.0),
    ],
    ids=["the queue is soon over", "too early to say", "not one has started yet"],
)
def test_no_replica_is_started_where_it_would_be_of_no_use(load: Load) -> None:
    assert decide(Past(), load, BOUNDS)[1].replicas == 1


def test_what_is_in_the_way_of_more_is_told() -> None:
    load = Load(at_s=1.0, replicas=2, serving=2, kept=2, busy=2, waiting=50, ended_per_s=1.0)
    assert decide(Past(), load, BOUNDS)[1].cut == "most"
    assert decide(Past(), replace(load, room=3), BOUNDS)[1] == Verdict(3, "room")
    failing = replace(load, replicas=8, coming=0, failing=6)
    assert decide(Past(), failing, BOUNDS)[1] == Verdict(3, "failing")


def test_what_was_not_started_before_the_queue_is_over_is_not_wanted_any_more() -> None:
    load = Load(at_s=1.0, replicas=8, serving=3, coming=1, kept=4, busy=1)
    assert decide(Past(((0.9, 8),), 8), load, BOUNDS)[1].replicas == 4
    assert decide(Past(((0.9, 8),), 8), replace(load, waiting=1), BOUNDS)[1].replicas == 8


def test_last_replica_ends_too_where_none_is_the_least() -> None:
    bounds = replace(BOUNDS, least=0, idle_s=10.0)
    past, verdict = decide(Past(), Load(at_s=0.0, replicas=1, serving=1, kept=1), bounds)
    assert verdict.replicas == 1
    assert due_s(past, bounds) == 10.0
    past, verdict = decide(past, Load(at_s=10.0, replicas=1, serving=1, kept=1), bounds)
    assert verdict.replicas == 0


# --- the room of the host


def replica(memory: int = 0, cpu: float = 0.0, *, going: bool = True) -> Any:
    return SimpleNamespace(
        hopeful=going, connection=object() if going else None, memory_bytes=memory, cpu_percent=cpu, pid=None
    )


MIB = 2**20


def room_for(declaration: AgentDeclaration, own: list[Any], *others: Any, **host: float) -> tuple[int, str]:
    return Room(lambda: [(declaration, own), *others], host).replicas(declaration)


def test_declared_resources_times_replicas_must_fit_beside_those_of_other_agents() -> None:
    one = AgentDeclaration("one", resources={"cpu": 1})
    other = (AgentDeclaration("other", resources={"cpu": 0.5}), [replica(), replica(going=False)])
    assert room_for(one, [replica()], cpu=2.0)[0] == 2
    fits, why = room_for(one, [replica()], other, cpu=2.0)
    assert (fits, why) == (1, "the host has 2 cores, 0.5 cores used by others, each takes 1 cores (declared)")


def test_memory_that_is_not_declared_is_that_of_the_largest_replica() -> None:
    own = psutil.Process().memory_info().rss
    fits, why = room_for(AgentDeclaration("one"), [replica(40 * MIB), replica(10 * MIB)], memory=own + 500 * MIB)
    assert fits in range(10, 14)  # the memory of this process changes a little meanwhile
    assert "each takes 40 MiB (measured)" in why


def test_busy_cores_leave_room_for_no_more() -> None:
    plain = AgentDeclaration("plain")
    assert room_for(plain, [replica(cpu=90.0)], cpu=2.0)[0] > 100
    assert room_for(plain, [replica(cpu=96.0)] * 2, cpu=2.0) == (2, "agents use 1.9 of 2 cores already")


# --- real agents


class Scaled:
    """A worker of capacity 1 that may have several replicas, and gates that its work waits at."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.gates = bench.folder

    def declare(self, **changes: Any) -> None:
        changes.setdefault("command", WORKER)
        changes.setdefault("max_replicas", 3)
        options = {"scale_down_after_s": 0.4, **changes.pop("options", {})}
        self.bench.broken(name="worker", cwd=HERE, options=options, **changes)

    def begin(self, count: int = 1, gate: str = "", run: str = "run") -> list[asyncio.Task[Any]]:
        """So many executions that end when the gate is opened; without a gate, at once."""
        inputs = {"gate": str(self.gates / gate)} if gate else {}
        return [asyncio.create_task(self.bench.execute("worker", "work", run=run, inputs=inputs)) for _ in range(count)]

    def open(self, gate: str) -> None:
        (self.gates / gate).touch()

    def worked_on(self, gate: str) -> int:
        """Who works on the execution at this gate; 0 for nobody yet."""
        path = self.gates / f"{gate}.pid"
        return int(path.read_text() or 0) if path.exists() else 0

    @property
    def replicas(self) -> Any:
        return self.bench.factory._pool("worker").replicas

    @property
    def states(self) -> list[str]:
        return [each.state for each in self.replicas]

    @property
    def decisions(self) -> list[str]:
        return [event.detail for event in self.bench.events if event.state == "scaled"]

    @property
    def scaling(self) -> str:
        return str(self.bench.factory._pool("worker").status().scaling)


@pytest.fixture
def scaled(bench: Any) -> Scaled:
    return Scaled(bench)


async def done_well(works: list[asyncio.Task[Any]]) -> list[int]:
    """Who did it; each must have succeeded."""
    outcomes = await asyncio.gather(*works)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Succeeded)] == []
    return [outcome.outputs["pid"] for outcome in outcomes]


async def test_burst_adds_replicas_and_idleness_ends_them(scaled: Scaled, eventually: Any) -> None:
    scaled.declare()
    [first] = await done_well(scaled.begin())
    works = scaled.begin(10, "gate")
    await eventually(lambda: scaled.states == ["serving"] * 3)
    assert scaled.decisions[0].startswith("1 -> 3: 9 wait, oldest 0.")
    await eventually(lambda: scaled.scaling.endswith("; no more than 3: that is max_replicas"))
    scaled.open("gate")
    assert len(set(await done_well(works))) == 3
    await eventually(lambda: scaled.states == ["serving", "idle", "idle"])
    assert scaled.decisions[-1].endswith("-> 1: no more were needed for 0.4 s")
    assert scaled.scaling == f"scaled {scaled.decisions[-1]}"
    assert await done_well(scaled.begin()) == [first], "the first replica went on all the time"


async def test_replica_that_is_not_needed_any_more_ends_its_work_first(scaled: Scaled, eventually: Any) -> None:
    scaled.declare()
    works = {gate: scaled.begin(1, gate)[0] for gate in ("a", "b", "c")}
    await eventually(lambda: all(map(scaled.worked_on, works)))
    [last] = [gate for gate in works if scaled.worked_on(gate) == scaled.replicas[2].pid]
    for gate in set(works) - {last}:
        scaled.open(gate)
    await eventually(lambda: scaled.states[2] == "draining")
    assert not works[last].done()
    scaled.open(last)
    await done_well(list(works.values()))
    await eventually(lambda: scaled.states == ["serving", "idle", "idle"])


async def test_agent_of_no_replicas_ends_when_idle_and_comes_back(scaled: Scaled, eventually: Any) -> None:
    scaled.declare(min_replicas=0, max_replicas=1)
    [first] = await done_well(scaled.begin())
    await eventually(lambda: scaled.states == ["idle"])
    assert not psutil.pid_exists(first)
    assert scaled.decisions == ["1 -> 0: no more were needed for 0.4 s"]
    [second] = await done_well(scaled.begin())
    assert second != first


async def test_task_that_comes_while_the_last_replica_ends_is_done(scaled: Scaled, eventually: Any) -> None:
    scaled.declare(min_replicas=0, max_replicas=1, options={"scale_down_after_s": 0.05})
    for _ in range(3):
        await done_well(scaled.begin())
        await eventually(lambda: scaled.states != ["serving"])


async def test_agent_whose_minimum_is_its_maximum_is_not_scaled(bench: Any) -> None:
    bench.factory.add({"pair": AgentDeclaration("pair", factory=EchoAgent, min_replicas=2, max_replicas=2)})
    assert bench.factory._pool("pair")._scaler is None
    bench.factory.add({"far": AgentDeclaration("far", kind="remote", addresses=("localhost:1", "localhost:2"))})
    assert bench.factory._pool("far")._scaler is None


async def test_host_that_is_full_gets_no_more_and_the_status_says_why(scaled: Scaled, eventually: Any) -> None:
    scaled.bench.factory._room._host = {"cpu": 2.0, "memory": 64 * 2**30}
    scaled.declare(max_replicas=8, resources={"cpu": 1})
    works = scaled.begin(8, "gate")
    await eventually(lambda: scaled.states[:2] == ["serving", "serving"])
    why = "no more than 2: the host has 2 cores, each takes 1 cores (declared)"
    await eventually(lambda: scaled.scaling.startswith("scaled 1 -> 2: ") and scaled.scaling.endswith(why))
    assert scaled.states[2:] == ["idle"] * 6
    scaled.open("gate")
    await done_well(works)


async def test_hold_of_a_run_is_not_scaled_away(scaled: Scaled, eventually: Any) -> None:
    scaled.declare()
    pool = scaled.bench.factory._pool("worker")
    await pool.hold(RunId("run"), 2, keep=None, exactly=False, wait=True)
    works = scaled.begin(5, "gate")
    await eventually(lambda: scaled.worked_on("gate"))
    assert pool._scaler._timer is not None
    works += scaled.begin(5, "gate", run="other")
    await eventually(lambda: scaled.states == ["serving"] * 3)
    assert scaled.decisions[0].startswith("2 -> 3: 5 wait"), "the run that holds some has what it wants"
    scaled.open("gate")
    await done_well(works)
    await eventually(lambda: scaled.states == ["serving", "serving", "idle"])
    assert [text[:6] for text in scaled.decisions] == ["2 -> 3", "3 -> 2"]
    await pool.let_go(RunId("run"))
    await eventually(lambda: scaled.states[1:] == ["idle", "idle"])


async def test_replicas_that_do_not_start_are_tried_one_at_a_time_and_the_first_does_the_work(
    scaled: Scaled, eventually: Any
) -> None:
    scaled.declare(max_replicas=4, env={"ONLY_ONE": str(scaled.gates / "lock")}, options={"scale_down_after_s": 60})
    works = scaled.begin(20, "gate")
    await eventually(lambda: any("-> 2: " in text for text in scaled.decisions))
    assert "no more than 2: replica 1 does not start: agent 'worker' exited with status 9" in scaled.scaling
    await eventually(lambda: scaled.states[2:] == ["idle", "idle"])
    others = [event.replica for event in scaled.bench.events if event.state == "starting" and event.replica > 1]
    assert sorted(others) == [2, 3], "one at a time is tried again"
    scaled.open("gate")
    assert set(await done_well(works)) == {scaled.replicas[0].pid}


async def test_replica_that_is_never_ready_delays_nobody(scaled: Scaled, eventually: Any) -> None:
    scaled.declare(max_replicas=2, env={"ONLY_ONE": str(scaled.gates / "lock"), "HANG": "1"})
    works = scaled.begin(20, "gate")
    await eventually(lambda: scaled.states == ["serving", "starting"])
    scaled.open("gate")
    assert set(await done_well(works)) == {scaled.replicas[0].pid}
    assert scaled.states == ["serving", "starting"]


async def test_replica_that_is_killed_while_more_come_is_replaced(scaled: Scaled, eventually: Any) -> None:
    scaled.declare()
    works = scaled.begin(10, "gate")
    await eventually(lambda: any(each.state == "serving" and each.in_flight for each in scaled.replicas[1:]))
    killed = next(each for each in scaled.replicas[1:] if each.state == "serving" and each.in_flight)
    before = killed.pid
    assert before is not None
    psutil.Process(before).kill()
    await eventually(lambda: killed.state == "serving" and killed.pid != before)
    scaled.open("gate")
    outcomes = await asyncio.gather(*works)
    assert [each.code for each in outcomes if not isinstance(each, Succeeded)] == ["AGENT_LOST"]


async def test_factory_that_closes_while_it_scales_leaves_no_process(scaled: Scaled, eventually: Any) -> None:
    scaled.declare(max_replicas=4)
    works = scaled.begin(20, "gate")
    await eventually(lambda: scaled.decisions)
    await scaled.bench.factory.close(grace_s=1.0)
    assert {outcome.code for outcome in await asyncio.gather(*works)} == {"CANCELLED"}
    assert set(scaled.states) == {"closed"}
    left = psutil.Process().children(recursive=True)
    assert [child for child in left if child.is_running() and "scaled_worker:Worker" in child.cmdline()] == []
    assert scaled.bench.factory._pools["worker"]._scaler._timer is None, "and nothing looks any more"


async def test_nothing_looks_at_an_agent_that_has_no_replica_to_end(scaled: Scaled, eventually: Any) -> None:
    scaled.declare()
    await done_well(scaled.begin())
    scaler = scaled.bench.factory._pool("worker")._scaler
    await eventually(lambda: scaler._timer is None)
    assert scaled.states == ["serving", "idle", "idle"]
