"""The view of a run: what people are shown after each event."""

from collections.abc import Callable

import pytest

from noa.model.events import AttemptFailed, AttemptSucceeded, RunFinished, TaskScheduled
from noa.model.execution import Outcome, Progress, Stage, Succeeded, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation

Compile = Callable[..., Plan]
OVER = {"succeeded", "skipped", "failed", "cancelled", "not_run"}


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def failing(*actions: str) -> Callable[[Asked], Outcome]:
    return lambda asked: Failure("BROKEN", "it broke") if asked.action in actions else Succeeded({})


def folded(plan: Plan | None, done: Simulation, *, keep: int | None = None) -> ProgressModel:
    model = ProgressModel(plan, keep=keep)
    for event in done.journal:
        model.apply(event)
    return model


@pytest.fixture
def plan(compile_stages: Compile) -> Plan:
    return compile_stages(
        stage("one", task("x"), task("y", when="false"), type="parallel"),
        stage("two", task("z"), task("last"), depends_on=["one"]),
        stage("three", task("end"), depends_on=["two"]),
    )


def test_every_task_of_the_plan_is_shown_before_it_begins(plan: Plan) -> None:
    model = ProgressModel(plan)
    assert [list(s.tasks) for s in model.stages.values()] == [["one/x", "one/y"], ["two/z", "two/last"], ["three/end"]]
    assert (model.total, model.done, model.counts) == (5, 0, {"pending": 5})
    assert model.task(TaskPath("one/x")).agent == "a"


def test_a_run_that_succeeds_ends_with_every_task_over(plan: Plan, registry: Registry) -> None:
    model = folded(plan, Simulation(plan, failing(), registry=registry).run())
    assert model.status == "succeeded"
    assert {k: v for k, v in model.counts.items() if v} == {"succeeded": 4, "skipped": 1}
    assert model.done == model.total == 5
    assert [s.status for s in model.stages.values()] == ["succeeded"] * 3
    assert model.rate(model.finished_ms) > 0


def test_a_failure_is_shown_where_it_happened_and_the_rest_was_not_run(plan: Plan, registry: Registry) -> None:
    model = folded(plan, Simulation(plan, failing("z"), registry=registry).run())
    assert model.status == "failed"
    assert {p: t.status for s in model.stages.values() for p, t in s.tasks.items()} == {
        "one/x": "succeeded",
        "one/y": "skipped",
        "two/z": "failed",
        "two/last": "not_run",
        "three/end": "not_run",
    }
    assert model.task(TaskPath("two/z")).failure.code == "BROKEN"
    assert model.stages["three"].status == "not_run"


def test_the_same_events_are_shown_without_the_plan(plan: Plan, registry: Registry) -> None:
    done = Simulation(plan, failing("z"), registry=registry).run()
    model = folded(None, done)
    assert {p: t.status for s in model.stages.values() for p, t in s.tasks.items()} == {
        "one/x": "succeeded",
        "one/y": "skipped",
        "two/z": "failed",
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_of_a_run_gives_a_view_whose_counts_add_up(
    compile_stages: Compile, registry: Registry, seed: int
) -> None:
    plan = compile_stages(
        stage("each", task("w"), type="loop", for_each=[1, 2, 3], max_parallel=2),
        stage("try", task("x", recovery=[{"retry": {"max_attempts": 2}}]), task("y"), type="parallel"),
    )

    def work(asked: Asked) -> Outcome:
        return Failure("BROKEN", "again", retryable=True) if asked.action == "x" else Succeeded({})

    done = Simulation(plan, work, registry=registry, seed=seed).run()
    model = ProgressModel(plan)
    for event in done.journal:
        model.apply(event)
        for view in model.stages.values():
            statuses = [t.status for t in view.tasks.values()]
            assert {k: v for k, v in view.counts.items() if v} == {s: statuses.count(s) for s in set(statuses)}
            assert set(view.running) == {t.path for t in view.tasks.values() if t.status == "running"}
        assert model.done == sum(s.done for s in model.stages.values())
    assert all(t.status in OVER for s in model.stages.values() for t in s.tasks.values())


def test_a_retry_shows_when_it_is_due_and_which_attempt_it_is(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", task("x", recovery=[{"retry": {"max_attempts": 2}}])))
    attempts: list[int] = []

    def work(asked: Asked) -> Outcome:
        attempts.append(asked.attempt)
        return Succeeded({}) if asked.attempt == 2 else Failure("BROKEN", "again", retryable=True)

    done = Simulation(plan, work, registry=registry).run()
    model = ProgressModel(plan)
    seen = []
    for event in done.journal:
        model.apply(event)
        view = model.task(TaskPath("s/x"))
        seen.append((view.status, view.attempt))
        assert (view.retry_at_ms > 0) == (view.status == "retrying")
    assert list(dict.fromkeys(seen)) == [
        ("pending", 0),
        ("queued", 1),
        ("retrying", 1),
        ("pending", 1),
        ("queued", 2),
        ("succeeded", 2),
    ]
    assert attempts == [1, 2]
    assert model.task(TaskPath("s/x")).failure is None


def test_observations_count_for_the_attempt_that_is_going_on_only(plan: Plan) -> None:
    model = ProgressModel(plan)
    path = TaskPath("one/x")
    assert model.observe(path, 1, Progress(0.5)) is None
    model.apply(TaskScheduled(at_ms=1, task=path, attempt=1))
    view = model.observe(path, 1, Waiting("resource", "gpu"))
    assert (view.activity, view.status) == ("waits for gpu", "queued")
    model.observe(path, 1, Stage("running"))
    model.observe(path, 1, Progress(0.5, done=2, total=4, unit="files"))
    assert (view.activity, view.status, view.progress.done) == ("running", "running", 2)
    assert model.observe(path, 2, Progress(0.9)) is None
    model.apply(AttemptSucceeded(at_ms=9, task=path, attempt=1))
    assert (view.status, view.progress, view.duration_ms(100)) == ("succeeded", None, 8)
    assert model.observe(path, 1, Progress(1.0)) is None


def test_a_large_stage_forgets_what_succeeded_and_keeps_the_count(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", *[task(f"t{i}") for i in range(30)], type="parallel", fail_fast=False))
    model = folded(plan, Simulation(plan, failing("t7"), registry=registry).run(), keep=10)
    assert list(model.stages["s"].tasks) == ["s/t7"]
    assert (model.stages["s"].total, model.stages["s"].done) == (30, 30)


def test_a_cancelled_attempt_is_cancelled_and_not_failed(plan: Plan) -> None:
    model = ProgressModel(plan)
    path = TaskPath("one/x")
    model.apply(TaskScheduled(at_ms=1, task=path, attempt=1))
    model.apply(AttemptFailed(at_ms=2, task=path, attempt=1, failure=Failure("CANCELLED", "asked to")))
    model.apply(RunFinished(at_ms=3, status="cancelled"))
    assert model.task(path).status == "cancelled"
    assert model.task(path).failure is None


def test_exact_statuses_of_the_state_replace_what_events_alone_could_tell(plan: Plan, registry: Registry) -> None:
    done = Simulation(plan, failing("z"), registry=registry).run()
    model = folded(plan, done)
    model.settle({path: node.status for path, node in done.state.tasks.items()})
    assert model.task(TaskPath("two/last")).status in ("cancelled", "not_run")
    assert sum(model.counts.values()) == model.total


def test_the_rate_counts_the_last_ten_seconds(compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", *[task(f"t{i}") for i in range(20)], type="parallel"))
    model = ProgressModel(plan)
    for i in range(20):
        path = TaskPath(f"s/t{i}")
        model.apply(TaskScheduled(at_ms=1_000, task=path, attempt=1))
        model.apply(AttemptSucceeded(at_ms=1_000 + i * 1_000, task=path, attempt=1))
    assert model.rate(20_000) == pytest.approx(1.1, abs=0.11)
    assert model.rate(60_000) == 0
