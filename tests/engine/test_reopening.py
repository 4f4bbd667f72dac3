"""A run that was over goes on: what failed is tried again, what succeeded is kept, whatever the shape of the graph."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.driven import Driven

from noa.engine.reopening import why_not_reopened
from noa.engine.state import RunState
from noa.model.events import RunReopened
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry

Compile = Callable[..., Plan]


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "a", "action": name, "inputs": {}, **keys}


def stage(name: str, *tasks: dict[str, Any], type: str = "sequential", **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


class Runs:
    """Drives a run to its end by what fails, and notes what was executed."""

    def __init__(self, plan: Plan, registry: Registry, **inputs: Any) -> None:
        self.run = Driven(plan, registry, **inputs)
        self.executed: list[str] = []

    def to_end(self, *failing: str) -> RunState:
        """Go on until the run is over; the actions named fail."""
        self.executed = []
        while not self.run.state.finished:
            going = sorted(self.run.state.iter_running(), key=lambda t: t.path)
            assert going, list(self.run.state.pending)
            node = going[0]
            self.executed.append(node.path)
            if node.status == "cancelling":
                self.run.fail(Failure("CANCELLED", ""), node.path)
            elif node.action in failing or node.path in failing:
                self.run.fail(Failure("BROKEN", "no"), node.path)
            else:
                self.run.succeed(node.path, of=node.action)
        state = self.run.state
        assert sum(state.counts.values()) == len(state.tasks)
        return state

    def reopen(self, from_task: str = "") -> None:
        self.run.take(RunReopened(at_ms=self.run.now_ms, from_task=TaskPath(from_task)))
        whole = self.run.again()
        assert {p: t.status for p, t in whole.state.tasks.items()} == {
            p: t.status for p, t in self.run.state.tasks.items()
        }
        assert set(whole.state.pending) == set(self.run.state.pending)


def test_only_what_failed_and_what_it_held_up_is_done_again(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("one", task("x"), task("y"), type="parallel", fail_fast=False),
        stage("two", task("z"), depends_on=["one"]),
        stage("other", task("o")),
    )
    runs = Runs(plan, registry)
    assert runs.to_end("y").status == "failed"
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["one/y", "two/z"]
    assert runs.run.state.tasks[TaskPath("one/y")].attempt == 2


def test_run_that_fails_again_can_be_reopened_again(registry: Registry, compile_stages: Compile) -> None:
    runs = Runs(compile_stages(stage("s", task("x"), task("y"), task("z"))), registry)
    runs.to_end("y")
    for attempt in range(2, 5):
        runs.reopen()
        assert runs.to_end("y").status == "failed"
        assert runs.executed == ["s/y"]
        assert runs.run.state.tasks[TaskPath("s/y")].attempt == attempt
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["s/y", "s/z"]


def test_from_a_task_that_succeeded_all_that_depends_on_it_is_done_again(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages(
        stage("one", task("x"), task("y"), type="parallel"),
        stage("two", task("z", inputs={"v": "${{ stages.one.x.outputs.of }}"}), task("w"), type="parallel"),
        stage("three", task("q"), depends_on=["two"]),
    )
    runs = Runs(plan, registry)
    assert runs.to_end().status == "succeeded"
    runs.reopen("one/x")
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["one/x", "two/z", "three/q"]
    assert runs.run.state.tasks[TaskPath("one/x")].redone == 1
    assert runs.run.state.tasks[TaskPath("three/q")].redone == 1, "it was done before, in a block that was forgotten"
    assert runs.run.state.tasks[TaskPath("three/q")].attempt == 2, "an execution id is never given twice"
    assert runs.run.state.tasks[TaskPath("two/w")].redone == 0


def test_cleanup_that_followed_a_failure_is_decided_anew(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("work", task("x")),
        stage("sorry", task("tell"), depends_on=["work"], run_on="failure"),
        stage("end", task("log"), depends_on=["work"], run_on="always"),
    )
    runs = Runs(plan, registry)
    runs.to_end("x")
    assert sorted(runs.executed) == ["end/log", "sorry/tell", "work/x"]
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert sorted(runs.executed) == ["end/log", "work/x"]
    assert runs.run.state.stages["sorry"].status == "skipped"


@pytest.mark.parametrize("fail_fast", [True, False])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_iterations_that_failed_or_never_opened_are_done(
    registry: Registry, compile_stages: Compile, fail_fast: bool, width: int
) -> None:
    loop = stage("l", task("x"), type="loop", for_each=[0, 1, 2, 3, 4], max_parallel=width, fail_fast=fail_fast)
    plan = compile_stages(loop, stage("z", task("end"), depends_on=["l"]))
    runs = Runs(plan, registry)
    assert runs.to_end("l[1]/x").status == "failed"
    done = {path for path, node in runs.run.state.tasks.items() if node.done}
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert not done & set(runs.executed)
    assert {path for path, node in runs.run.state.tasks.items() if node.done} == {
        *(f"l[{index}]/x" for index in range(5)),
        "z/end",
    }


def test_loop_that_follows_its_own_outputs_begins_anew_from_a_task_of_it(
    registry: Registry, compile_stages: Compile
) -> None:
    loop = stage("l", task("x"), type="loop", **{"while": "index < 3"}, max_iterations=5)
    runs = Runs(compile_stages(loop), registry)
    runs.to_end()
    runs.reopen("l[1]/x")
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["l[0]/x", "l[1]/x", "l[2]/x"]


def test_branch_that_failed_is_the_branch_that_is_tried_again(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        {
            "name": "c",
            "type": "conditional",
            "branches": [{"when": "inputs.big", "tasks": [task("big"), task("more", needs=["big"])]}],
            "else": [task("small")],
        }
    )
    runs = Runs(plan, registry, big=True)
    runs.to_end("more")
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert [path.partition("/")[2] for path in runs.executed] == ["more"]


def test_optional_failure_was_taken_for_done_and_stays_so(registry: Registry, compile_stages: Compile) -> None:
    runs = Runs(compile_stages(stage("s", task("x", optional=True), task("y"))), registry)
    runs.to_end("x", "y")
    runs.reopen()
    runs.to_end()
    assert runs.executed == ["s/y"]


def test_cancelled_run_goes_on_where_it_was_cancelled(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("one", task("x"), task("y")), stage("two", task("z"), depends_on=["one"]))
    runs = Runs(plan, registry)
    runs.run.succeed(TaskPath("one/x"))
    runs.run.signal("cancel")
    assert runs.to_end().status == "cancelled"
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["one/y", "two/z"]


def test_recovery_chain_and_time_begin_anew(registry: Registry, compile_stages: Compile) -> None:
    x = task("x", recovery=[{"retry": {"max_attempts": 2, "on": ["BROKEN"]}}], timeout={"total": "1m"})
    runs = Runs(compile_stages(stage("s", x), timeout="1h"), registry)
    run = runs.run
    for _ in range(2):
        run.fail(Failure("BROKEN", "no"), TaskPath("s/x"))
        run.fire("retry:s/x")
        run.fail(Failure("BROKEN", "no"), TaskPath("s/x"))
        assert run.state.status == "failed"
        assert not run.state.pending
        run.now_ms += 10_000_000
        runs.reopen()
        assert {"timer:run", "timer:total:s/x"} <= set(run.state.pending)
    assert run.state.tasks[TaskPath("s/x")].attempt == 5


def test_run_whose_outputs_could_not_be_made_ends_again_at_once(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x")), outputs={"v": "${{ stages.s.x.outputs.nothing }}"})
    runs = Runs(plan, registry)
    assert runs.to_end().status == "failed"
    runs.run.take(RunReopened(at_ms=runs.run.now_ms))
    assert runs.run.state.status == "failed"


@pytest.mark.parametrize(
    ("status", "keys", "said"),
    [
        ("rolled_back", {}, "fork"),
        ("rolled_back", {"rollback": True}, "undone"),
        ("succeeded", {}, "--from TASK"),
        ("succeeded", {"from_task": "s/nope"}, "no task 's/nope'"),
        ("rollback_failed", {"from_task": "s/x"}, "half undone"),
        ("succeeded", {"rollback": True}, ""),
        ("rollback_failed", {}, ""),
        ("failed", {}, ""),
        ("cancelled", {}, ""),
    ],
)
def test_reopening_that_makes_no_sense_is_refused_in_words(status: str, keys: dict[str, Any], said: str) -> None:
    known: dict[Any, Any] = {TaskPath("s/x"): None}
    why = why_not_reopened(status, keys.get("from_task", ""), known, rollback=keys.get("rollback", False))
    assert said in why
    assert bool(why) is bool(said)


@pytest.mark.parametrize("again", ["cancelled", "failed", "succeeded"])
def test_what_was_done_before_it_was_done_again_is_undone_too(
    registry: Registry, compile_stages: Compile, again: str
) -> None:
    undo = {"agent": "a", "action": "undo", "inputs": {"id": "${{ tasks.x.outputs.id }}"}, "recovery": []}
    plan = compile_stages(stage("s", task("x", compensate=undo), task("y")), on_failure="rollback")
    run = Driven(plan, registry)
    run.succeed(TaskPath("s/x"), id=1)
    run.succeed(TaskPath("s/y"))
    run.take(RunReopened(at_ms=run.now_ms, from_task=TaskPath("s/x")))
    if again == "succeeded":
        run.succeed(TaskPath("s/x"), id=2)
        run.fail(task=TaskPath("s/y"))
    elif again == "failed":
        run.fail(task=TaskPath("s/x"))
    else:
        run.signal("cancel")
        run.fail(Failure("CANCELLED", ""), TaskPath("s/x"))
    undone = []
    while not run.state.finished:
        (node,) = run.again().state.iter_running()
        undone.append((node.inputs or {}).get("id"))
        run.succeed(node.path)
    assert undone == ([2, 1] if again == "succeeded" else [1])
    assert run.state.status == "rolled_back"


def test_what_a_forgotten_block_did_is_undone_too(registry: Registry, compile_stages: Compile) -> None:
    undo = {"agent": "a", "action": "undo", "inputs": {"id": "${{ outputs.id }}"}, "recovery": []}
    plan = compile_stages(
        stage("one", task("w")),
        stage("two", task("x", compensate=undo), depends_on=["one"]),
        on_failure="rollback",
    )
    run = Driven(plan, registry)
    run.succeed(TaskPath("one/w"))
    run.succeed(TaskPath("two/x"), id=1)
    run.take(RunReopened(at_ms=run.now_ms, from_task=TaskPath("one/w")))
    run.fail(task=TaskPath("one/w"))
    (node,) = run.again().state.iter_running()
    assert (node.path, node.inputs) == ("two/x~compensate", {"id": 1})
    run.succeed(node.path)
    assert run.state.status == "rolled_back"


def test_fold_of_a_reopened_run_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = tmp_path / "fold.py"
    script.write_text(FOLD)
    told = [
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    ]
    assert len(set(told)) == 1


FOLD = """
from noa.definitions import load_plan
from noa.model.events import RunReopened
from noa.model.failure import Failure
from noa.plugin import Registry
from tests.engine.conftest import EngineTestPlugin
from tests.engine.driven import Driven

registry = Registry()
registry.register(EngineTestPlugin(), "t")
task = {"name": "x", "agent": "a", "action": "x", "inputs": {}}
stages = [{"name": f"s{i}", "type": "parallel", "fail_fast": False, "tasks": [task]} for i in range(9)]
plan = load_plan({"workflow": {"name": "w", "version": "1", "max_parallel": 2, "stages": stages}}, registry=registry)
run = Driven(plan, registry)
while not run.state.finished:
    run.fail(Failure("BROKEN", "no"), next(iter(run.state.iter_running())).path)
run.take(RunReopened(at_ms=run.now_ms))
while not run.state.finished:
    task = next(iter(run.state.iter_running())).path
    print(task)
    run.succeed(task)
"""


@pytest.mark.parametrize(("after", "undone"), [("success", False), ("attempt", True)])
def test_attempt_before_an_alternative_that_never_began_may_have_had_effects(
    registry: Registry, compile_stages: Compile, after: str, undone: bool
) -> None:
    undo = {"agent": "a", "action": "undo", "after": after, "inputs": {}, "recovery": []}
    other = {"fallback": [{"agent": "b", "inputs": {"v": "${{ failure.details.nothing }}"}}]}
    plan = compile_stages(stage("s", task("x", compensate=undo, recovery=[other])), on_failure="rollback")
    run = Driven(plan, registry)
    run.fail(task=TaskPath("s/x"))
    assert (TaskPath("s/x~compensate") in run.state.tasks) is undone


def test_stage_that_was_ended_early_though_all_its_tasks_succeeded_goes_on(
    registry: Registry, compile_stages: Compile
) -> None:
    loop = stage("l", task("x"), type="loop", for_each=[0, 1, 2], max_parallel=1)
    runs = Runs(compile_stages(loop, stage("z", task("end"), depends_on=["l"])), registry)
    runs.run.signal("cancel")
    runs.run.succeed(TaskPath("l[0]/x"))  # its result was on its way
    assert runs.run.state.status == "cancelled"
    runs.reopen()
    assert runs.to_end().status == "succeeded"
    assert runs.executed == ["l[1]/x", "l[2]/x", "z/end"]


def test_condition_that_failed_is_asked_again(registry: Registry, compile_stages: Compile) -> None:
    loop = stage("l", task("x"), type="loop", until="previous.x.outputs.missing", max_iterations=3)
    runs = Runs(compile_stages(loop), registry)
    assert runs.to_end().status == "failed"
    code = runs.run.state.failure
    runs.reopen()
    assert runs.to_end().failure == code, "the failure is told again, not lost"
