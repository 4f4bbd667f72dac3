"""What a run waits for, at every point of its life."""

from collections.abc import Callable

import pytest

from noa.engine.why import Wait, explain_wait
from noa.model.events import CancelRequested
from noa.model.execution import Outcome, Stage, Succeeded, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation

Compile = Callable[..., Plan]


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def succeed(asked: Asked) -> Outcome:
    return Succeeded({})


def begun(plan: Plan, registry: Registry, work: Callable[[Asked], Outcome] = succeed, events: int = 1) -> Simulation:
    return Simulation(plan, work, registry=registry).run(stop_after=events)


def waits(done: Simulation, now_ms: int | None = None, **seen: object) -> dict[str, Wait]:
    found = explain_wait(done.state, now_ms or done.state.now_ms, {TaskPath(k): v for k, v in seen.items()})
    assert len({w.subject for w in found}) == len(found)
    return {wait.subject: wait for wait in found}


def test_a_task_waits_for_the_tasks_before_it_and_a_stage_for_its_stages(
    compile_stages: Compile, registry: Registry
) -> None:
    plan = compile_stages(stage("s", task("x"), task("y")), stage("t", task("z"), depends_on=["s"]))
    found = waits(begun(plan, registry), now_ms=1_002_500)
    assert found["s/x"].kind == "work"
    assert found["s/x"].reason == "runs 'x' on agent 'a' since 2.5 s, attempt 1"
    assert (found["s/y"].kind, found["s/y"].reason, found["s/y"].names) == ("dependency", "waits for s/x", ("s/x",))
    assert (found["t"].kind, found["t"].reason) == ("dependency", "waits for stage s")


def test_a_task_without_a_slot_says_which_limit_and_who_holds_the_slots(
    compile_stages: Compile, registry: Registry
) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), task("z"), type="parallel", max_parallel=1))
    found = waits(begun(plan, registry))
    assert found["s/y"].kind == "slot"
    assert found["s/y"].reason == "waits for a slot: stage 's' lets 1 run at once (max_parallel), now s/x"
    plan = compile_stages(stage("s", task("x"), task("y"), type="parallel"), max_parallel=1)
    assert waits(begun(plan, registry))["s/y"].reason == (
        "waits for a slot: the workflow lets 1 run at once (max_parallel), now s/x"
    )


def test_a_retry_says_when_it_is_due_and_what_failed(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", task("x", recovery=[{"retry": {"max_attempts": 3}}])))
    simulation = Simulation(plan, lambda _: Failure("BROKEN", "it broke", retryable=True), registry=registry)
    simulation.run(stop_after=5)
    wait = waits(simulation)["s/x"]
    assert wait.kind == "timer"
    assert wait.due_ms > simulation.state.now_ms
    assert "after attempt 1 failed (BROKEN: it broke)" in wait.reason


@pytest.mark.parametrize(
    ("seen", "kind", "words"),
    [
        (Waiting("resource", "2 of gpu (0 free)"), "resource", "waits for 2 of gpu (0 free)"),
        (Waiting("agent", "a"), "agent", "waits for a free replica of agent 'a'"),
        (Stage("starting_agent"), "agent", "waits until agent 'a' has started"),
        (Stage("queued"), "agent", "is queued for agent 'a'"),
        (Stage("running"), "work", "runs 'x' on agent 'a'"),
    ],
)
def test_a_task_that_was_handed_over_says_what_was_last_seen_of_it(
    compile_stages: Compile, registry: Registry, seen: object, kind: str, words: str
) -> None:
    done = begun(compile_stages(stage("s", task("x"))), registry)
    (wait,) = explain_wait(done.state, done.state.now_ms, {TaskPath("s/x"): seen})
    assert (wait.kind, wait.reason.startswith(words)) == (kind, True)


def test_a_cancelled_run_waits_for_its_agents_to_end(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x"))), registry)
    done.state.apply(CancelRequested(at_ms=done.state.now_ms))
    (wait,) = explain_wait(done.state, done.state.now_ms)
    assert (wait.kind, wait.names) == ("cancellation", ("a",))


def test_what_was_going_on_when_its_engine_died_waits_for_a_resume(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", task("x"), task("y")))
    done = begun(plan, registry)
    first, second = explain_wait(done.state, done.state.now_ms, driven=False)
    assert (first.kind, second.kind) == ("engine", "dependency")
    assert first.reason == (
        "was going on with agent 'a' (attempt 1) when its engine went away; a resume asks for it again"
    )


def test_many_names_are_shortened_in_words_and_complete_in_names(compile_stages: Compile, registry: Registry) -> None:
    tasks = [task(f"t{i}") for i in range(9)]
    plan = compile_stages(stage("s", *tasks, task("end", needs=[f"t{i}" for i in range(9)]), type="parallel"))
    wait = waits(begun(plan, registry))["s/end"]
    assert wait.reason == "waits for s/t0, s/t1, s/t2, s/t3, s/t4 and 4 more"
    assert len(wait.names) == 9


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_is_not_over_always_waits_for_something(
    compile_stages: Compile, registry: Registry, seed: int
) -> None:
    plan = compile_stages(
        stage("each", task("w"), type="loop", for_each=[1, 2, 3], max_parallel=2),
        stage("try", task("x", recovery=[{"retry": {"max_attempts": 2}}]), task("y"), type="parallel", max_parallel=1),
        stage("end", task("z"), depends_on=["each", "try"], run_on="always"),
        max_parallel=2,
    )

    def work(asked: Asked) -> Outcome:
        return Failure("BROKEN", "again", retryable=True) if asked.action == "x" else Succeeded({})

    def check(state: object) -> None:
        found = explain_wait(state, state.now_ms)
        assert bool(found) != state.finished
        assert all(wait.reason for wait in found)

    Simulation(plan, work, registry=registry, seed=seed, check=check, cancel_after=12 if seed % 2 else None).run()
