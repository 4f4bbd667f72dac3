"""Undoing a run: in which order, what is undone, what is left where that fails, and that a crash changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.driven import Driven

from noa.engine.commands import CancelAttempt, Execute
from noa.model.events import RollbackStarted, RunReopened, TaskScheduled
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry

Compile = Callable[..., Plan]


def task(name: str, **keys: Any) -> dict[str, Any]:
    undo = {"agent": "a", "action": f"un-{name}", "recovery": []}
    made = {"name": name, "agent": "a", "action": name, "inputs": {}, "compensate": undo, **keys}
    return {key: value for key, value in made.items() if value is not None}


def saga(compile_stages: Compile, *stages: dict[str, Any], **keys: Any) -> Plan:
    return compile_stages(*stages, **{"on_failure": "rollback", **keys})


def order(compile_stages: Compile) -> Plan:
    """Two parallel reservations, a step without compensation, then a charge, then a shipment."""
    return saga(
        compile_stages,
        {"name": "goods", "type": "parallel", "tasks": [task("desk"), task("lamp")]},
        {
            "name": "pay",
            "type": "sequential",
            "depends_on": ["goods"],
            "tasks": [task("check", compensate=None), task("charge"), task("ship")],
        },
    )


def path(name: str) -> TaskPath:
    return TaskPath(name)


def do(run: Driven, *names: str) -> None:
    for name in names:
        run.succeed(path(name), of=name)


def running(run: Driven) -> list[str]:
    return sorted(task.path for task in run.state.iter_running())


def undo_all(run: Driven) -> list[list[str]]:
    """Undo step by step; which compensations went on at once."""
    steps = []
    while not run.state.finished:
        now = running(run)
        steps.append(now)
        for name in now:
            run.succeed(path(name))
    return steps


def test_tasks_are_undone_after_all_that_depended_on_them_and_independent_ones_at_once(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(order(compile_stages), registry)
    do(run, "goods/desk", "goods/lamp", "pay/check", "pay/charge")
    run.fail(Failure("NO_CARRIER", "nobody goes there"), path("pay/ship"))
    assert undo_all(run) == [["pay/charge~compensate"], ["goods/desk~compensate", "goods/lamp~compensate"]]
    assert run.state.status == "rolled_back"
    assert run.state.failure is not None
    assert run.state.failure.code == "NO_CARRIER"


@pytest.mark.parametrize("failing", ["goods/desk", "goods/lamp", "pay/check", "pay/charge", "pay/ship"])
def test_exactly_what_was_done_is_undone_whichever_step_fails_and_wherever_the_engine_dies(
    registry: Registry, compile_stages: Compile, failing: str
) -> None:
    def forward(run: Driven) -> Driven:
        while "goods/desk~compensate" not in run.state.tasks and not run.state.finished and run.state.undoing is None:
            name = running(run)[0]
            if name == failing:
                run.fail(Failure("BROKEN", "no"), path(name))
            else:
                run.succeed(path(name))
        return run

    whole = forward(Driven(order(compile_stages), registry))
    undo_all(whole)
    done = {e.path for e in whole.state.tasks.values() if e.done and e.undoes is None and e.plan.compensate}
    undone = {e.undoes.path for e in whole.state.tasks.values() if e.undoes is not None and e.done}
    assert undone == done
    assert failing not in undone
    for cut in range(1, len(whole.events)):
        part = Driven(order(compile_stages), registry)
        part.events = whole.events[:cut]
        again = part.again()
        forward(again)
        undo_all(again)
        assert again.state.status == "rolled_back"
        assert {e.undoes.path for e in again.state.tasks.values() if e.undoes is not None and e.done} == {
            e.path for e in again.state.tasks.values() if e.done and e.undoes is None and e.plan.compensate
        }, f"cut after event {cut}"


def test_compensation_gets_what_the_task_got_and_gave(registry: Registry, compile_stages: Compile) -> None:
    wired = task("x", inputs={"sku": "desk", "n": 1})
    told = task("y", compensate={"agent": "a", "action": "undo", "inputs": {"id": "${{ outputs.id }}"}})
    named = task("z", compensate={"agent": "a", "action": "undo", "inputs": {"id": "${{ tasks.z.outputs.id }}"}})
    last = task("last", compensate=None)
    plan = saga(compile_stages, {"name": "s", "type": "sequential", "tasks": [wired, told, named, last]})
    run = Driven(plan, registry)
    for name, outputs in {"x": {"n": 2, "id": 7}, "y": {"id": 8}, "z": {"id": 9}}.items():
        run.succeed(path(f"s/{name}"), **outputs)
    run.fail(task=path("s/last"))
    seen = {}
    while not run.state.finished:
        (name,) = running(run)
        seen[name] = run.state.tasks[path(name)].inputs
        run.succeed(path(name))
    assert seen == {
        "s/z~compensate": {"id": 9},
        "s/y~compensate": {"id": 8},
        "s/x~compensate": {"sku": "desk", "n": 2, "id": 7},
    }


@pytest.mark.parametrize(("after", "undone"), [("success", False), ("attempt", True)])
def test_attempt_whose_effects_are_unknown_is_undone_where_the_definition_says_so(
    registry: Registry, compile_stages: Compile, after: str, undone: bool
) -> None:
    charge = task("charge", compensate={"agent": "a", "action": "refund", "after": after, "inputs": {}})
    run = Driven(saga(compile_stages, {"name": "s", "type": "sequential", "tasks": [charge]}), registry)
    run.fail(Failure("AGENT_LOST", "who knows"), path("s/charge"))
    assert (path("s/charge~compensate") in run.state.tasks) is undone


def test_strategy_rollback_undoes_a_run_that_would_only_fail(registry: Registry, compile_stages: Compile) -> None:
    stages = [
        {"name": "a", "type": "sequential", "tasks": [task("x")]},
        {"name": "b", "type": "sequential", "depends_on": ["a"], "tasks": [task("y", recovery=["rollback"])]},
        {"name": "c", "type": "sequential", "depends_on": ["a"], "tasks": [task("slow")]},
        {
            "name": "told",
            "type": "sequential",
            "depends_on": ["b"],
            "run_on": "failure",
            "tasks": [task("tell", compensate=None)],
        },
    ]
    run = Driven(compile_stages(*stages), registry)
    run.succeed(path("a/x"))
    run.fail(task=path("b/y"))
    assert running(run) == ["c/slow", "told/tell"], "who cleans up after failures still does"
    assert run.state.tasks[path("c/slow")].status == "cancelling"
    run.fail(Failure("CANCELLED", ""), path("c/slow"))
    run.succeed(path("told/tell"))
    assert undo_all(run) == [["a/x~compensate"]]
    assert run.state.status == "rolled_back"


def test_compensation_that_fails_stops_those_behind_it_and_names_what_is_left(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(order(compile_stages), registry)
    do(run, "goods/desk", "goods/lamp", "pay/check", "pay/charge")
    run.fail(task=path("pay/ship"))
    run.fail(Failure("BANK_CLOSED", "come back"), path("pay/charge~compensate"))
    assert run.state.status == "rollback_failed"
    assert set(run.state.left) == {"pay/charge", "goods/desk", "goods/lamp"}
    assert run.state.left[0] == "pay/charge", "the last one that was done is the first one to undo"
    assert run.state.failure is not None
    assert run.state.failure.code == "ROLLBACK_FAILED"
    assert "BANK_CLOSED" in run.state.failure.message
    run.take(RunReopened(at_ms=run.now_ms, rollback=True))
    assert running(run) == ["pay/charge~compensate"]
    assert run.state.tasks[path("pay/charge~compensate")].attempt == 2
    assert running(run.again()) == ["pay/charge~compensate"]
    assert undo_all(run) == [["pay/charge~compensate"], ["goods/desk~compensate", "goods/lamp~compensate"]]
    assert run.state.status == "rolled_back"


def test_independent_compensations_go_on_where_one_fails(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(order(compile_stages), registry)
    do(run, "goods/desk", "goods/lamp", "pay/check")
    run.fail(task=path("pay/charge"))
    run.fail(task=path("goods/desk~compensate"))
    run.succeed(path("goods/lamp~compensate"))
    assert (run.state.status, run.state.left) == ("rollback_failed", ["goods/desk"])
    run.take(RunReopened(at_ms=run.now_ms, rollback=True))
    assert undo_all(run) == [["goods/desk~compensate"]], "what is undone is not undone again"


def test_cancelled_run_is_undone_and_a_second_cancel_leaves_the_rest(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(order(compile_stages), registry)
    do(run, "goods/desk", "goods/lamp", "pay/check")
    run.signal("cancel", "first")
    run.fail(Failure("CANCELLED", ""), path("pay/charge"))
    assert running(run) == ["goods/desk~compensate", "goods/lamp~compensate"]
    run.succeed(path("goods/lamp~compensate"))
    run.signal("cancel", "second")
    assert [type(effect) for effect in run.effects] == [CancelAttempt]
    run.fail(Failure("CANCELLED", ""), path("goods/desk~compensate"))
    assert (run.state.status, run.state.left) == ("rollback_failed", ["goods/desk"])


def test_cancel_during_a_rollback_is_recorded_and_the_rollback_goes_on(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(order(compile_stages), registry)
    do(run, "goods/desk", "goods/lamp", "pay/check")
    run.fail(task=path("pay/charge"))
    run.signal("cancel")
    assert undo_all(run) == [["goods/desk~compensate", "goods/lamp~compensate"]]
    assert run.state.status == "rolled_back"


def test_run_that_succeeded_can_be_undone(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages({"name": "s", "type": "sequential", "tasks": [task("x"), task("y")]})
    run = Driven(plan, registry)
    do(run, "s/x", "s/y")
    assert run.state.status == "succeeded"
    run.take(RunReopened(at_ms=run.now_ms, rollback=True))
    assert undo_all(run) == [["s/y~compensate"], ["s/x~compensate"]]
    assert (run.state.status, run.state.failure) == ("rolled_back", None)


def test_iterations_are_undone_last_one_first_where_each_followed_from_the_one_before(
    registry: Registry, compile_stages: Compile
) -> None:
    loop = {"name": "l", "type": "loop", "for_each": [1, 2, 3], "max_parallel": 1, "tasks": [task("x")]}
    last = {"name": "z", "type": "sequential", "depends_on": ["l"], "tasks": [task("end", compensate=None)]}
    run = Driven(saga(compile_stages, loop, last), registry)
    do(run, "l[0]/x", "l[1]/x", "l[2]/x")
    run.fail(task=path("z/end"))
    assert undo_all(run) == [["l[2]/x~compensate"], ["l[1]/x~compensate"], ["l[0]/x~compensate"]]


def test_skipped_degraded_and_cached_tasks_did_nothing_and_are_not_undone(
    registry: Registry, compile_stages: Compile
) -> None:
    tasks = [
        task("skipped", when="false"),
        task("degraded", recovery=[{"degrade": {"outputs": {"v": 0}}}]),
        task("end", compensate=None),
    ]
    run = Driven(saga(compile_stages, {"name": "s", "type": "sequential", "tasks": tasks}), registry)
    run.fail(task=path("s/degraded"))
    run.fail(task=path("s/end"))
    assert (run.state.status, [e for e in run.events if isinstance(e, TaskScheduled) and "~" in e.task]) == (
        "rolled_back",
        [],
    )
    assert isinstance(run.events[-2], RollbackStarted)


def test_compensation_is_retried_by_default(registry: Registry, compile_stages: Compile) -> None:
    x = task("x", compensate={"agent": "a", "action": "undo", "inputs": {}})
    plan = saga(compile_stages, {"name": "s", "type": "sequential", "tasks": [x, task("y", compensate=None)]})
    run = Driven(plan, registry)
    run.succeed(path("s/x"))
    run.fail(task=path("s/y"))
    for attempt in range(2, 6):
        run.fail(Failure("BROKEN", "for good, says the agent", retryable=False), path("s/x~compensate"))
        assert run.fire("retry:s/x~compensate") == [Execute(path("s/x~compensate"), attempt)]
    run.fail(task=path("s/x~compensate"))
    assert run.state.status == "rollback_failed"


def test_run_that_nothing_can_undo_ends_as_rolled_back_when_it_did_nothing(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(saga(compile_stages, {"name": "s", "type": "sequential", "tasks": [task("x")]}), registry)
    run.fail(task=path("s/x"))
    assert run.state.status == "rolled_back"


def test_cleanup_that_has_begun_goes_on_when_the_run_is_to_be_undone(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = saga(
        compile_stages,
        {"name": "a", "type": "sequential", "tasks": [task("x", compensate=None)]},
        {
            "name": "tidy",
            "type": "sequential",
            "depends_on": ["a"],
            "run_on": "always",
            "tasks": [task("sweep", compensate=None), task("lock", compensate=None)],
        },
        {"name": "b", "type": "sequential", "tasks": [task("y", compensate=None)]},
    )
    run = Driven(plan, registry)
    run.succeed(path("a/x"))
    run.fail(task=path("b/y"))
    assert running(run) == ["tidy/sweep"]
    run.succeed(path("tidy/sweep"))
    run.succeed(path("tidy/lock"))
    assert run.state.status == "rolled_back"


def test_first_cancel_after_the_run_timed_out_lets_the_rollback_go_on(
    registry: Registry, compile_stages: Compile
) -> None:
    stage = {"name": "s", "type": "sequential", "tasks": [task("x"), task("y", compensate=None)]}
    run = Driven(saga(compile_stages, stage, timeout="1m"), registry)
    run.succeed(path("s/x"))
    run.fire("run")
    run.fail(Failure("CANCELLED", ""), path("s/y"))
    run.signal("cancel")
    assert undo_all(run) == [["s/x~compensate"]]
    assert run.state.status == "rolled_back"


def test_compensation_of_a_task_that_was_overridden_sees_what_it_did(
    registry: Registry, compile_stages: Compile
) -> None:
    undo = {"agent": "a", "action": "refund", "inputs": {"id": "${{ outputs.id }}"}, "recovery": []}
    stage = {"name": "s", "type": "sequential", "tasks": [task("x", compensate=undo), task("y", compensate=None)]}
    run = Driven(saga(compile_stages, stage), registry)
    run.signal("override", task="s/x", outputs={"id": "invented"})
    run.succeed(path("s/x"), id="real")
    assert run.state.tasks[path("s/x")].outputs == {"id": "invented"}
    run.fail(task=path("s/y"))
    assert run.state.tasks[path("s/x~compensate")].inputs == {"id": "real"}


def test_paused_run_that_is_cancelled_is_undone(registry: Registry, compile_stages: Compile) -> None:
    stage = {"name": "s", "type": "sequential", "tasks": [task("x"), task("y", compensate=None)]}
    run = Driven(saga(compile_stages, stage), registry)
    run.succeed(path("s/x"))
    run.signal("pause", "p")
    run.signal("cancel", "c")
    run.fail(Failure("CANCELLED", ""), path("s/y"))
    assert undo_all(run) == [["s/x~compensate"]]
