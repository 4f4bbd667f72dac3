"""The agent `factory`: a workflow starts, scales and ends replicas of other agents, most of them real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.errors import NoaError
from noa.model.execution import Stage, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.plugin import (
    AgentConnection,
    AgentContext,
    AgentDeclaration,
    AgentHealth,
    AgentKind,
    AgentPools,
    Assignment,
    Observe,
    Outcome,
    Registry,
    hookimpl,
)
from noa.runtime import Runtime
from noa.sdk import Agent, action

ECHO = (sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent")


class Gated(Agent):
    """Works until the gate opens; as many objects as there are replicas."""

    name = "gated"
    capacity = 1
    gate = asyncio.Event()

    @action
    async def work(self) -> dict[str, int]:
        await self.gate.wait()
        return {"object": id(self)}


@pytest.fixture
def steered(bench: Any) -> Any:
    """A bench with the agent `factory`, and `echo` as processes: `worker`, at most three."""
    bench.factory.add({"factory": AgentDeclaration("factory", kind="pools")})
    bench.broken(name="worker", command=ECHO, max_replicas=3)
    return bench


async def steer(bench: Any, what: str, run: str = "run", **inputs: Any) -> Any:
    """What an action of `factory` gives; its failure is returned."""
    outcome = await bench.execute("factory", what, run=run, inputs=inputs)
    return outcome.outputs if isinstance(outcome, Succeeded) else outcome


def pids(answer: Any) -> list[int]:
    assert not isinstance(answer, Failure), answer
    return [each["pid"] for each in answer["replicas"]]


def alive(processes: list[int]) -> list[int]:
    return [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


async def replicas_of(bench: Any, agent: str) -> list[str]:
    """State of each replica."""
    status = await bench.factory.status()
    return [replica.state for one in status if one.name == agent for replica in one.replicas]


async def test_spawn_starts_replicas_and_tells_who_they_are(steered: Any) -> None:
    answer = await steer(steered, "spawn", agent="worker", replicas=2)
    assert answer["agent"] == "worker"
    assert [each["replica"] for each in answer["replicas"]] == [0, 1]
    assert {each["state"] for each in answer["replicas"]} == {"serving"}
    assert {(each["language"], each["version"], each["capacity"]) for each in answer["replicas"]} == {
        ("python", "1", 0)
    }
    assert len(set(pids(answer))) == 2
    assert alive(pids(answer)) == pids(answer)


async def test_same_spawn_again_changes_nothing(steered: Any) -> None:
    first = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    assert pids(await steer(steered, "spawn", agent="worker", replicas=2)) == first
    assert pids(await steer(steered, "spawn", agent="worker", replicas=1)) == first
    assert steered.states("worker").count("starting") == 2


async def test_scale_goes_up_and_down_and_the_first_replicas_stay(steered: Any) -> None:
    first = pids(await steer(steered, "spawn", agent="worker"))
    three = pids(await steer(steered, "scale", agent="worker", replicas=3))
    assert three[:1] == first
    assert pids(await steer(steered, "scale", agent="worker", replicas=1)) == first
    assert alive(three) == first
    assert await replicas_of(steered, "worker") == ["serving", "idle", "idle"]


async def test_retire_ends_what_the_run_spawned_and_a_repeat_finds_nothing(steered: Any) -> None:
    started = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    assert (await steer(steered, "retire", agent="worker"))["replicas"] == []
    assert alive(started) == []
    assert (await steer(steered, "retire", agent="worker"))["replicas"] == []


async def test_more_than_max_replicas_is_refused_and_nothing_is_started(steered: Any) -> None:
    failure = await steer(steered, "spawn", agent="worker", replicas=4)
    assert failure.code == "REPLICA_LIMIT"
    assert "agent 'worker' may have 1 to 3 replicas, 4 were asked for" in failure.message
    assert "max_replicas" in failure.message
    assert steered.states("worker") == []
    assert (await steer(steered, "scale", agent="worker", replicas=9)).code == "REPLICA_LIMIT"
    assert (await steer(steered, "scale", agent="worker", replicas=0)).code == "INVALID_INPUT"


@pytest.mark.parametrize("what", ["spawn", "scale", "retire", "status"])
async def test_agent_that_is_not_declared_is_named_with_the_nearest(steered: Any, what: str) -> None:
    inputs: dict[str, Any] = {"replicas": 1} if what == "scale" else {}
    failure = await steer(steered, what, agent="wroker", **inputs)
    assert failure.code == "UNKNOWN_AGENT"
    assert "Did you mean 'worker'?" in failure.message


@pytest.mark.parametrize("what", ["spawn", "retire"])
async def test_agent_that_runs_elsewhere_and_the_factory_itself_are_not_steerable(steered: Any, what: str) -> None:
    steered.factory.add({"far": AgentDeclaration("far", kind="remote", addresses=("localhost:1",))})
    failure = await steer(steered, what, agent="far")
    assert (failure.code, "runs elsewhere (localhost:1)" in failure.message) == ("AGENT_NOT_STEERABLE", True)
    failure = await steer(steered, what, agent="factory")
    assert (failure.code, "cannot steer itself" in failure.message) == ("AGENT_NOT_STEERABLE", True)


async def test_agent_of_this_process_is_spawned_without_a_pid(steered: Any) -> None:
    answer = await steer(steered, "spawn", agent="echo")
    assert [(each["state"], each["pid"], each["language"]) for each in answer["replicas"]] == [
        ("serving", None, "python")
    ]
    assert (await steer(steered, "retire", agent="echo"))["replicas"] == []
    assert isinstance(await steered.execute("echo", "echo"), Succeeded)


async def test_start_that_fails_says_what_the_agent_said_and_holds_nothing(steered: Any) -> None:
    steered.broken("exit", max_replicas=2)
    failure = await steer(steered, "spawn", agent="broken", replicas=2)
    assert failure.code == "AGENT_START_FAILED"
    assert failure.retryable
    assert "cannot open the model" in failure.message
    status = await steer(steered, "status", agent="broken")
    assert status["agents"][0]["held"] == {}


async def test_start_that_fails_fails_every_spawn_that_waits_for_it(steered: Any) -> None:
    steered.broken("exit")
    spawning = [steer(steered, "spawn", agent="broken") for _ in range(3)]
    codes = {each.code for each in await asyncio.gather(*spawning)}
    assert codes == {"AGENT_START_FAILED"}


async def test_spawn_that_waits_while_the_pools_close_is_told(steered: Any, eventually: Any) -> None:
    steered.broken("starting")
    pools = steered.factory._steering
    spawning = asyncio.create_task(pools.spawn("broken", 1, run=RunId("run")))
    await eventually(lambda: "starting" in steered.states())
    await steered.factory.close()
    with pytest.raises(NoaError, match="agent 'broken' is closed"):
        await asyncio.wait_for(spawning, 60)


async def test_command_that_is_not_found_is_not_worth_a_retry(steered: Any) -> None:
    steered.broken(command=("no-such-program-anywhere",))
    failure = await steer(steered, "spawn", agent="broken")
    assert (failure.code, failure.retryable) == ("AGENT_START_FAILED", False)


async def test_replicas_that_another_run_holds_are_not_ended(steered: Any) -> None:
    three = pids(await steer(steered, "spawn", run="a", agent="worker", replicas=3))
    assert pids(await steer(steered, "spawn", run="b", agent="worker", replicas=2)) == three
    await steer(steered, "retire", run="a", agent="worker")
    assert alive(three) == three[:2]
    await steered.factory.release(RunId("b"), ["factory"])
    assert alive(three) == []


async def test_what_a_run_holds_ends_with_it_unless_it_is_kept(steered: Any) -> None:
    kept = pids(await steer(steered, "spawn", run="a", agent="worker", replicas=1, keep=True))
    gone = pids(await steer(steered, "spawn", run="b", agent="worker", replicas=2))
    for run in ("a", "b"):
        await steered.factory.release(RunId(run), ["factory"])
    assert alive(gone) == kept
    assert (await steer(steered, "status", agent="worker"))["agents"][0]["held"] == {"": 1}
    await steer(steered, "retire", run="c", agent="worker")
    assert alive(kept) == kept
    await steer(steered, "retire", run="c", agent="worker", kept=True)
    assert alive(kept) == []


async def test_replica_ends_its_work_before_it_ends(steered: Any, eventually: Any) -> None:
    Gated.gate = asyncio.Event()
    steered.factory.add({"gated": AgentDeclaration("gated", factory=Gated, max_replicas=2)})
    await steer(steered, "spawn", agent="gated", replicas=2)
    steered.seen.clear()
    works = [asyncio.create_task(steered.execute("gated", "work")) for _ in range(2)]
    await eventually(lambda: steered.seen.count(Stage("running")) == 2)
    scaling = asyncio.create_task(steer(steered, "scale", agent="gated", replicas=1))
    await eventually(lambda: "draining" in steered.states("gated"))
    assert await replicas_of(steered, "gated") == ["serving", "draining"]
    assert not scaling.done()
    Gated.gate.set()
    assert len((await scaling)["replicas"]) == 1
    assert len({outcome.outputs["object"] for outcome in await asyncio.gather(*works)}) == 2
    assert await replicas_of(steered, "gated") == ["serving", "idle"]


async def test_draining_replica_that_is_wanted_again_goes_on(steered: Any, eventually: Any) -> None:
    Gated.gate = asyncio.Event()
    steered.factory.add({"gated": AgentDeclaration("gated", factory=Gated)})
    await steer(steered, "spawn", agent="gated")
    steered.seen.clear()
    work = asyncio.create_task(steered.execute("gated", "work"))
    await eventually(lambda: Stage("running") in steered.seen)
    retiring = asyncio.create_task(steer(steered, "retire", agent="gated"))
    await eventually(lambda: "draining" in steered.states("gated"))
    second = asyncio.create_task(steered.execute("gated", "work", run="other"))
    await retiring
    assert await replicas_of(steered, "gated") == ["serving"]
    Gated.gate.set()
    assert (await work).outputs == (await second).outputs
    assert steered.states("gated") == ["starting", "serving", "draining", "serving"]


async def test_retire_that_does_not_wait_returns_at_once_and_ends_later(steered: Any, eventually: Any) -> None:
    started = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    answer = await steer(steered, "retire", agent="worker", wait=False)
    assert {each["state"] for each in answer["replicas"]} == {"draining"}
    await eventually(lambda: not alive(started))
    again = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    assert not set(again) & set(started)


async def test_spawn_right_after_a_retire_starts_anew(steered: Any) -> None:
    first = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    await steer(steered, "retire", agent="worker", wait=False)
    second = pids(await steer(steered, "spawn", agent="worker", replicas=2))
    assert not set(first) & set(second)
    assert alive(first) == []
    assert alive(second) == second


async def test_queue_of_the_run_that_holds_adds_no_replica_and_that_of_another_does(
    steered: Any, eventually: Any
) -> None:
    Gated.gate = asyncio.Event()
    steered.factory.add({"gated": AgentDeclaration("gated", factory=Gated, max_replicas=3)})
    await steer(steered, "spawn", agent="gated")
    own = [steered.task("gated", "work") for _ in range(3)]
    works = [asyncio.create_task(steered.factory.execute(task, steered.seen.append)) for task in own]
    await eventually(lambda: all(steered.factory.waiting(task.execution_id) for task in own))
    assert await replicas_of(steered, "gated") == ["serving", "idle", "idle"]
    works.append(asyncio.create_task(steered.execute("gated", "work", run="other")))
    await eventually(lambda: steered.states("gated").count("serving") == 2)
    await steer(steered, "retire", agent="gated", wait=False)
    assert "serving" in await replicas_of(steered, "gated"), "the other run needs one"
    Gated.gate.set()
    assert {type(outcome) for outcome in await asyncio.gather(*works)} == {Succeeded}


async def test_replicas_that_tasks_of_another_run_needed_stay(steered: Any) -> None:
    await steered.execute("worker", "echo", run="other")
    needed = pids(await steer(steered, "spawn", agent="worker", replicas=1))
    await steer(steered, "retire", agent="worker")
    assert alive(needed) == needed
    await steered.factory.release(RunId("other"), ["worker"])
    await steer(steered, "retire", agent="worker")
    assert alive(needed) == needed, "an agent that was needed stays for the next run"


async def test_run_may_retire_what_its_own_tasks_needed(steered: Any) -> None:
    """As after a resume: spawn was done by an engine that is gone, and the workers started on need."""
    await steered.execute("worker", "echo")
    running = pids((await steer(steered, "status", agent="worker"))["agents"][0])[:1]
    await steer(steered, "retire", agent="worker")
    assert alive(running) == []
    assert isinstance(await steered.execute("worker", "echo"), Succeeded), "it starts on need again"


async def test_spawned_replica_that_dies_is_replaced(steered: Any, eventually: Any) -> None:
    [first] = pids(await steer(steered, "spawn", agent="worker"))
    psutil.Process(first).kill()
    await eventually(lambda: steered.states("worker").count("serving") == 2)
    [second] = pids(await steer(steered, "spawn", agent="worker"))
    assert second != first
    await steer(steered, "retire", agent="worker")
    assert alive([first, second]) == []


async def test_agent_that_dies_while_it_drains_is_not_started_again(steered: Any, eventually: Any) -> None:
    steered.broken()
    await steer(steered, "spawn", agent="broken")
    hanging = asyncio.create_task(steered.execute("broken", "hang"))
    await eventually(lambda: any(r.in_flight for r in steered.factory._pools["broken"].replicas))
    retiring = asyncio.create_task(steer(steered, "retire", agent="broken"))
    await eventually(lambda: "draining" in steered.states())
    [replica] = steered.factory._pools["broken"].replicas
    psutil.Process(replica.pid).kill()
    assert (await hanging).code == "AGENT_LOST"
    assert (await retiring)["replicas"] == []
    assert steered.states().count("starting") == 1


async def test_retire_ends_a_start_that_is_under_way(steered: Any, eventually: Any) -> None:
    steered.broken("starting")
    assert (await steer(steered, "spawn", agent="broken", wait=False))["replicas"][0]["state"] == "starting"
    [replica] = steered.factory._pools["broken"].replicas
    await eventually((steered.folder / "logs/broken-0.log").exists)
    assert (await steer(steered, "retire", agent="broken"))["replicas"] == []
    assert replica.state == "idle"


async def test_spawn_that_waits_ends_when_what_it_waits_for_is_retired(steered: Any, eventually: Any) -> None:
    steered.broken("starting")
    spawning = asyncio.create_task(steer(steered, "spawn", agent="broken"))
    await eventually(lambda: "starting" in steered.states())
    await steer(steered, "retire", agent="broken")
    assert (await spawning)["replicas"] == []


async def test_min_replicas_is_the_least_that_a_spawn_starts(steered: Any) -> None:
    steered.factory.add({"pair": AgentDeclaration("pair", factory=Gated, min_replicas=2, max_replicas=3)})
    assert len((await steer(steered, "spawn", agent="pair"))["replicas"]) == 2
    assert len((await steer(steered, "scale", agent="pair", replicas=1))["replicas"]) == 2
    assert (await steer(steered, "retire", agent="pair"))["replicas"] == []


async def test_spawn_that_is_cancelled_leaves_its_hold_to_the_end_of_the_run(steered: Any, eventually: Any) -> None:
    steered.broken("starting")
    task = steered.task("factory", "spawn", inputs={"agent": "broken"})
    spawning = asyncio.create_task(steered.factory.execute(task, steered.seen.append))
    await eventually(lambda: "starting" in steered.states())
    await steered.factory.cancel(task.execution_id)
    assert (await spawning).code == "CANCELLED"
    await steered.factory.release(RunId("run"), ["factory"])
    assert await replicas_of(steered, "broken") == ["idle"]


async def test_status_has_figures_of_work_queue_and_process(steered: Any, eventually: Any) -> None:
    steered.broken(name="single", env={"TEST_CAPACITY": "1"}, max_replicas=2)
    await steer(steered, "spawn", agent="single", replicas=1)
    works = [asyncio.create_task(steered.execute("single", "slow")) for _ in range(2)]
    pool = steered.factory._pools["single"]
    await eventually(lambda: pool.status().waiting == 1 and pool.replicas[0].memory_bytes)
    [one] = (await steer(steered, "status", agent="single"))["agents"]
    assert (one["state"], one["in_flight"], one["capacity"], one["waiting"]) == ("serving", 1, 1, 1)
    assert one["memory_bytes"] > 1_000_000
    assert (one["max_replicas"], one["held"], one["kind"]) == (2, {"run": 1}, "sidecar")
    every = (await steer(steered, "status"))["agents"]
    assert [each["agent"] for each in every] == ["echo", "factory", "single", "worker"]
    for work in works:
        work.cancel()
    await asyncio.gather(*works, return_exceptions=True)


class Doubler(AgentConnection):
    """A stranger's steering agent: it doubles whatever is asked of it."""

    def __init__(self, pools: AgentPools) -> None:
        self.pools = pools

    async def start(self) -> AgentHealth:
        return AgentHealth("serving", "doubler", "python", "1")

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        status = await self.pools.spawn(assignment.inputs["agent"], 2, run=assignment.run_id)
        return Succeeded({"serving": sum(one.state == "serving" for one in status.replicas)})

    async def health(self) -> AgentHealth:
        return await self.start()

    async def cancel(self, **target: Any) -> int:
        return 0

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Nothing is left."""


class DoublerKind(AgentKind):
    name = "doubler"

    def check(self, declaration: AgentDeclaration) -> str | None:
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        assert context.pools is not None
        return Doubler(context.pools)


class DoublerPlugin:
    @hookimpl
    def noa_agent_kinds(self) -> Any:
        return [DoublerKind]

    @hookimpl
    def noa_agents(self) -> Any:
        return [AgentDeclaration("doubler", kind="doubler")]


def definition(*stages: dict[str, Any]) -> dict[str, Any]:
    return {
        "workflow": {
            "name": "steering",
            "agents": {"echoer": {"command": list(ECHO), "replicas": {"min": 1, "max": 2}}},
            "stages": list(stages),
        }
    }


def stage(name: str, *tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": "sequential", "tasks": list(tasks), **keys}


SPAWN = {"agent": "factory", "action": "spawn", "inputs": {"agent": "echoer", "replicas": 2}}


async def test_what_a_workflow_spawned_is_gone_when_it_is_over(tmp_path: Path) -> None:
    work = {"agent": "echoer", "action": "echo", "inputs": {"a": 1}}
    async with Runtime(home=tmp_path) as runtime:
        result = await runtime.run(definition(stage("deploy", SPAWN), stage("work", work, depends_on=["deploy"])))
        assert result.succeeded, result.failure
        started = pids(result.task_outputs("deploy/spawn"))
        assert len(started) == 2
        assert alive(started) == []


async def test_what_a_workflow_that_fails_spawned_is_gone_too(tmp_path: Path) -> None:
    work = {"agent": "echoer", "action": "echo", "inputs": {"fail": {"code": "ON_PURPOSE"}}}
    async with Runtime(home=tmp_path) as runtime:
        result = await runtime.run(definition(stage("deploy", SPAWN), stage("work", work, depends_on=["deploy"])))
        assert result.failure is not None
        assert result.failure.code == "ON_PURPOSE"
        assert alive(pids(result.task_outputs("deploy/spawn"))) == []


async def test_kind_of_a_plugin_can_steer_through_its_context(tmp_path: Path) -> None:
    registry = Registry.load()
    registry.register(DoublerPlugin(), "doubler")
    double = {"agent": "doubler", "action": "any", "inputs": {"agent": "echoer"}}
    async with Runtime(home=tmp_path, registry=registry) as runtime:
        result = await runtime.run(definition(stage("deploy", double)))
        assert result.task_outputs("deploy/any") == {"serving": 2}
        [worker] = [one for one in await runtime.factory.status() if one.name == "echoer"]
        assert [replica.state for replica in worker.replicas] == ["idle", "idle"]
