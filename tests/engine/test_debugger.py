"""The debugger over a real engine and store: it stops, steps, looks, goes back in time, and attaches to anything."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.shells import Setup

from noa.definitions import ExpressionError
from noa.errors import RunStateError, UsageError
from noa.model.execution import Succeeded
from noa.model.failure import Failure
from noa.model.plan import Plan
from noa.modes.debugger import Debugger, RefusedError
from noa.plugin import Registry

Compile = Callable[..., Plan]


@pytest.fixture
async def setup(tmp_path: Path, registry: Registry) -> AsyncIterator[Setup]:
    made = Setup(tmp_path, registry)
    made.agents.answers = {name: (lambda a, name=name: Succeeded({"of": name, "n": 3})) for name in "xyz"}
    yield made
    await made.close()


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "a", "action": name, "inputs": {"v": name}, **keys}


@pytest.fixture
def plan(compile_stages: Compile) -> Plan:
    return compile_stages(
        {"name": "one", "type": "sequential", "tasks": [task("x"), task("y")]},
        {"name": "two", "type": "parallel", "depends_on": ["one"], "tasks": [task("z"), task("x")]},
    )


async def begin(setup: Setup, plan: Plan, mode: str = "debug") -> Debugger:
    engine = await setup.engine()
    running = await engine.start(plan, {"who": "me"}, mode=mode)
    return await Debugger.attach(engine._journal, running.run_id, plan, actor="ann")


async def test_steps_through_a_run_and_looks_around(setup: Setup, plan: Plan) -> None:
    bug = await begin(setup, plan)
    stop = await bug.wait_stop(timeout_s=10)
    assert (stop.subject, stop.hold and stop.hold.kind) == ("one/x", "step")
    assert bug.inputs(bug.task("one/x")) == {"v": "x"}
    assert bug.evaluate("task.inputs.v + inputs.who", "one/x") == "xme"
    stop = await bug.step()
    assert stop.subject == "one/y"
    assert bug.evaluate("stages.one.x.outputs.n + 1") == 4
    with pytest.raises(ExpressionError, match="Did you mean 'stages'"):
        bug.evaluate("stage.one")
    stop = await bug.next_stage()
    assert stop.subject == "two/z"
    assert {s.subject for s in bug.stops()} == {"two/z", "two/x"}, "the whole stage stops"
    stop = await bug.step("two/x")
    assert stop.subject == "two/z"
    assert bug.task("two/x").status == "succeeded"
    assert (await bug.go_on()).subject == ""
    assert bug.state.status == "succeeded"


async def test_breakpoints_stop_and_what_makes_no_sense_is_refused(setup: Setup, plan: Plan) -> None:
    bug = await begin(setup, plan)
    await bug.wait_stop(timeout_s=10)
    first = await bug.break_at("two/z", when="stages.one.x.outputs.n == 3")
    with pytest.raises(RefusedError, match="Did you mean 'two/z'"):
        await bug.break_at("two/zz")
    stop = await bug.go_on()
    assert (stop.subject, stop.hold and stop.hold.show) == ("two/z", {"breakpoint": first})
    await bug.clear(first)
    assert (await bug.go_on()).subject == ""


async def test_fails_are_stopped_at_and_mended_by_hand(setup: Setup, plan: Plan) -> None:
    setup.agents.answers["y"] = lambda _a: Failure("BROKEN", "no")
    bug = await begin(setup, plan)
    await bug.wait_stop(timeout_s=10)
    await bug.break_at(on_failure=True)
    stop = await bug.go_on()
    assert (stop.subject, stop.hold and stop.hold.kind) == ("one/y", "failure")
    await bug.ask("answer", task="one/y", choice="override", outputs={"n": 9})
    stop = await bug.wait_stop(timeout_s=10)
    assert stop.subject == "two/z", "who stopped goes on step by step"
    assert bug.evaluate("stages.one.y.outputs.n") == 9


async def test_goes_back_in_time_and_only_looks_there(setup: Setup, plan: Plan) -> None:
    bug = await begin(setup, plan)
    await bug.wait_stop(timeout_s=10)
    before = bug.seq
    await bug.step()
    assert bug.evaluate("stages.one.x.status") == "succeeded"
    bug.go_to(before)
    assert bug.evaluate("stages.one.x.status") == "held"
    with pytest.raises(RunStateError, match="as it was after event"):
        await bug.ask("step")
    with pytest.raises(UsageError, match="events 1 to"):
        bug.go_to(bug.seq + 1)
    bug.go_to(bug.seq)
    assert (await bug.go_on()).subject == ""
    with pytest.raises(RunStateError, match="only be looked at"):
        await bug.ask("pause")
    bug.go_to(1)
    assert not bug.view.finished


async def test_attaches_to_a_run_of_another_engine_that_goes_on(setup: Setup, plan: Plan) -> None:
    del setup.agents.answers["x"]
    bug = await begin(setup, plan, mode="auto")
    other = await setup.engine()
    far = await Debugger.attach(other._journal, bug.run_id, plan, actor="bob")
    await setup.agents.until_asked(1)
    await far.ask("mode", mode="debug")
    setup.agents.waiting[setup.agents.asked[0].execution_id].set_result(Succeeded({"n": 3}))
    stop = await far.wait_stop(timeout_s=10)
    assert stop.subject == "one/y"
    await far.ask("edit", task="one/y", inputs={"v": "edited"})
    await far.step()
    assert setup.agents.asked[1].inputs == {"v": "edited"}


async def test_signal_that_nobody_takes_is_recorded_and_counts_on_resume(setup: Setup, plan: Plan) -> None:
    engine = await setup.engine()
    running = await engine.start(plan, mode="debug")
    await engine.close()
    other = await setup.engine()
    bug = await Debugger.attach(other._journal, running.run_id, plan, actor="ann")
    with pytest.raises(TimeoutError, match="noa resume"):
        await bug.ask("mode", mode="auto", timeout_s=0.2)
    state = await asyncio.wait_for((await other.resume(running.run_id)).wait(), 10)
    assert state.status == "succeeded"
