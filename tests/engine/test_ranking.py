"""What has the most work behind it goes first, once it is known how long tasks take."""

from collections.abc import Callable
from typing import Any

from noa.engine.ranking import upward_ranks
from noa.engine.state import RunState
from noa.model.events import Block, RunCreated, StageStarted
from noa.model.plan import Plan

Compile = Callable[..., Plan]


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "a", "action": name, "inputs": {}, **keys}


def graph(compile_stages: Compile) -> Plan:
    return compile_stages(
        {"name": "s", "type": "parallel", "tasks": [task("short"), task("long"), task("after", needs=["short"])]},
        {"name": "t", "type": "sequential", "depends_on": ["s"], "tasks": [task("end")]},
        {"name": "u", "type": "parallel", "tasks": [task("read", inputs={"v": "${{ stages.s.long.outputs.v }}"})]},
    )


def test_rank_is_the_longest_way_to_the_end(compile_stages: Compile) -> None:
    expected = {"s/short": 10, "s/long": 100, "s/after": 200, "t/end": 5, "u/read": 50}
    assert upward_ranks(graph(compile_stages), expected) == {
        ("s", "short"): 215,
        ("s", "long"): 150,
        ("s", "after"): 205,
        ("t", "end"): 5,
        ("u", "read"): 50,
    }


def test_unknown_tasks_count_as_the_usual_one_and_nothing_known_ranks_nothing(compile_stages: Compile) -> None:
    plan = graph(compile_stages)
    assert upward_ranks(plan, {}) == {}
    assert upward_ranks(plan, {"s/long": 7})[("t", "end")] == 7


def test_ready_tasks_begin_by_priority_then_rank_then_order(compile_stages: Compile) -> None:
    tasks = [task("a"), task("b"), task("c"), task("d", priority=1)]
    plan = compile_stages({"name": "s", "type": "parallel", "max_parallel": 1, "tasks": tasks})
    for expected, first in (({}, ["d", "a", "b", "c"]), ({"s/a": 1, "s/b": 1, "s/c": 9}, ["d", "c", "a", "b"])):
        state = RunState(plan)
        state.apply(RunCreated(at_ms=1, run_id="r", workflow="w", version="", definitions={}, expected_ms=expected))
        state.apply(StageStarted(at_ms=1, stage="s", blocks=[Block("main")]))
        order = [state.tasks[p].plan.name for p in state.pending if p.startswith("s/")]  # type: ignore[index]
        while state.stages["s"].ready:
            done = next(t for t in state.tasks.values() if t.status == "starting")
            state._over(done, "skipped")
            order += [t.plan.name for t in state.tasks.values() if t.status == "starting"]
        assert order == first
