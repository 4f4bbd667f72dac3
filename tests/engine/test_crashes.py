"""A crash after any event, then resume: the same end, no finished task again. Random graphs under random schedules."""

import random
from collections.abc import Callable

import pytest

from noa.engine.state import RunState
from noa.model.events import AttemptSucceeded
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.plan import Plan
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation

ALL_FEATURES = [
    {
        "name": "init",
        "type": "parallel",
        "max_parallel": 2,
        "tasks": [
            {"agent": "a", "action": "one"},
            {"agent": "a", "action": "two", "recovery": [{"retry": {"max_attempts": 3}}]},
            {"agent": "a", "action": "three", "optional": True, "timeout": {"total": "5m"}},
        ],
    },
    {
        "name": "choose",
        "type": "conditional",
        "depends_on": ["init"],
        "branches": [{"when": "stages.init.one.outputs.n > 100", "tasks": [{"agent": "a", "action": "big"}]}],
        "else": [{"agent": "a", "action": "small"}],
    },
    {
        "name": "each",
        "type": "loop",
        "depends_on": ["choose"],
        "for_each": "${{ inputs.items }}",
        "max_parallel": 2,
        "tasks": [
            {"agent": "a", "action": "map", "inputs": {"v": "${{ item }}"}},
            {"agent": "a", "action": "check", "when": "index != 1", "inputs": {"v": "${{ tasks.map.outputs.v }}"}},
        ],
    },
    {
        "name": "end",
        "type": "sequential",
        "depends_on": ["each"],
        "tasks": [{"agent": "a", "action": "sum", "inputs": {"all": "${{ stages.each.map.outputs }}"}}],
    },
]
OUTPUTS = {"total": "${{ stages.end.sum.outputs.total }}", "n": "${{ stages.init.one.outputs.n }}"}


def work(asked: Asked) -> Outcome:
    match asked.action:
        case "one":
            return Succeeded({"n": 7})
        case "two" if asked.attempt < 3:
            return Failure("FLAKY", "again", retryable=True)
        case "three":
            return Failure("GONE", "for good")
        case "map":
            return Succeeded({"v": asked.inputs["v"] * 10})
        case "sum":
            return Succeeded({"total": sum(each["v"] for each in asked.inputs["all"])})
    return Succeeded({})


@pytest.mark.parametrize("seed", range(3))
def test_crash_after_every_event_gives_the_same_end_and_repeats_no_finished_task(
    registry: Registry, compile_stages: Callable[..., Plan], seed: int
) -> None:
    plan = compile_stages(*ALL_FEATURES, outputs=OUTPUTS)
    inputs = {"items": [1, 2, 3, 4]}
    whole = Simulation(plan, work, registry=registry, seed=seed, inputs=inputs).run()
    assert whole.state.status == "succeeded"
    assert whole.state.outputs == {"total": 100, "n": 7}
    for cut in range(1, len(whole.journal)):
        history = whole.journal[:cut]
        again = Simulation(plan, work, registry=registry, seed=seed + cut, inputs=inputs, history=history).run()
        assert again.state.outputs == whole.state.outputs, f"cut after event {cut}: {history[-1]}"
        assert again.state.status == "succeeded"
        finished = {event.task for event in history if isinstance(event, AttemptSucceeded)}
        assert not finished & {asked.task for asked in again.executed}


def _random_workflow(chance: random.Random) -> list[dict]:
    stages: list[dict] = []
    for number in range(chance.randint(1, 6)):
        kind = chance.choice(["sequential", "parallel", "loop"])
        count = chance.randint(1, 6)
        tasks = []
        for index in range(count):
            task: dict = {"name": f"t{index}", "agent": "a", "action": f"act{chance.randint(0, 9)}", "inputs": {}}
            if kind == "parallel" and index and chance.random() < 0.4:
                task["needs"] = [f"t{chance.randrange(index)}"]
            if chance.random() < 0.3:
                task["recovery"] = [{"retry": {"max_attempts": chance.randint(1, 3)}}]
            if chance.random() < 0.2:
                task["optional"] = True
            if chance.random() < 0.1:
                task["timeout"] = {"total": "1s"}
            if chance.random() < 0.1:
                task["when"] = chance.choice(["true", "false"])
            tasks.append(task)
        stage: dict = {"name": f"s{number}", "type": kind, "tasks": tasks, "fail_fast": chance.random() < 0.5}
        if kind == "loop":
            stage["for_each"] = list(range(chance.randint(0, 5)))
        if chance.random() < 0.4:
            stage["max_parallel"] = chance.randint(1, 3)
        if number and chance.random() < 0.8:
            stage["depends_on"] = sorted({f"s{chance.randrange(number)}" for _ in range(chance.randint(1, 2))})
            stage["run_on"] = chance.choice(["success", "success", "failure", "always"])
        if chance.random() < 0.1:
            stage["timeout"] = "2s"
        stages.append(stage)
    return stages


def _check(state: RunState) -> None:
    running = sum(1 for _ in state.iter_running())
    assert running == state.counts.get("running", 0) + state.counts.get("cancelling", 0)
    assert state.plan.max_parallel is None or running <= state.plan.max_parallel
    for stage in state.stages.values():
        limit = stage.plan.max_parallel
        assert limit is None or stage.active <= limit
        assert stage.active >= 0
    for task in state.iter_running():
        for edge in task.plan.edges:
            assert task.block.tasks[edge.index].terminal
    assert state.finished or state.pending, "nothing will ever move this run"


@pytest.mark.parametrize("part", range(8))
def test_random_graphs_under_random_schedules_always_end(
    registry: Registry, compile_stages: Callable[..., Plan], part: int
) -> None:
    for number in range(60):
        seed = part * 1000 + number
        chance = random.Random(seed)
        plan = compile_stages(*_random_workflow(chance), **({"max_parallel": 4} if chance.random() < 0.3 else {}))

        def flaky(asked: Asked, chance: random.Random = chance) -> Outcome:
            if chance.random() < 0.15:
                return Failure("CHANCE", "bad luck", retryable=chance.random() < 0.7)
            return Succeeded({"n": asked.attempt} if chance.random() < 0.5 else {})

        cancel_after = chance.randint(1, 40) if chance.random() < 0.2 else None
        history: list = []
        for life in range(4):
            stop = len(history) + chance.randint(1, 25) if life < 3 else None
            run = Simulation(
                plan,
                flaky,
                registry=registry,
                seed=seed + life,
                history=history,
                check=_check,
                cancel_after=cancel_after,
            ).run(stop_after=stop)
            history = run.journal
            if run.state.finished:
                break
        assert run.state.finished, f"seed {seed}"
        assert all(task.terminal for task in run.state.tasks.values()), f"seed {seed}"
        succeeded = [event.task for event in history if isinstance(event, AttemptSucceeded)]
        assert len(succeeded) == len(set(succeeded)), f"seed {seed}: a task finished twice"
