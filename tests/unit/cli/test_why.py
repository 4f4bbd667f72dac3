"""What a run waits for, at every point of its life."""

from collections.abc import Callable

import pytest

from noa.engine.state import RunState
from noa.engine.why import Wait, explain_wait
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    CancelRequested,
    Hold,
    Recall,
    Recalled,
    RecoveryChosen,
    Retry,
    RollbackStarted,
    StageFinished,
    StageHeld,
    TaskFailed,
    TaskScheduled,
    TimerFired,
)
from noa.model.execution import Outcome, Stage, Succeeded, Waiting
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation, StuckError

Compile = Callable[..., Plan]


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def succeed(asked: Asked) -> Outcome:
    return Succeeded({})


def begun(plan: Plan, registry: Registry, work: Callable[[Asked], Outcome] = succeed, events: int = 1) -> Simulation:
    return Simulation(plan, work, registry=registry).run(stop_after=events)


def waits_of(state: RunState, now_ms: int) -> dict[str, Wait]:
    return {wait.subject: wait for wait in explain_wait(state, now_ms)}


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


def fail(asked: Asked) -> Outcome:
    return Failure("BROKEN", "it broke") if asked.action in ("bad", "unbad") else Succeeded({})


def until_stuck(plan: Plan, registry: Registry) -> Simulation:
    """Until only people move it on, where nobody has a time for an answer."""
    done = Simulation(plan, fail, registry=registry)
    with pytest.raises(StuckError):
        done.run()
    return done


def test_a_held_task_waits_for_a_person_with_the_question_and_the_choices(
    compile_stages: Compile, registry: Registry
) -> None:
    asks = [{"ask": {"question": "Again? ${{ failure.code }}", "choices": ["retry", "skip"]}}]
    done = until_stuck(compile_stages(stage("s", task("bad", recovery=asks), task("y"))), registry)
    for driven in (True, False):
        wait, behind = explain_wait(done.state, done.state.now_ms + 90_000, driven=driven)
        assert (wait.kind, wait.question, wait.choices) == ("person", "Again? BROKEN", ("retry", "skip"))
        assert wait.reason == "is held for a person since 1 min 30 s: Again? BROKEN"
        assert (wait.since_ms, wait.due_ms, wait.default) == (done.state.now_ms, None, "")
        assert behind.reason == "waits for s/bad"


def test_a_question_with_a_time_says_when_the_default_counts(compile_stages: Compile, registry: Registry) -> None:
    asks = [{"ask": {"timeout": "1h", "on_timeout": "skip"}}]
    done = Simulation(compile_stages(stage("s", task("bad", recovery=asks))), fail, registry=registry)
    done.run(stop_after=5)
    (wait,) = explain_wait(done.state, done.state.now_ms)
    assert (wait.default, wait.due_ms) == ("skip", done.state.now_ms + 3_600_000)
    assert wait.reason.endswith("what is to be done? ('skip' counts in 1 h 00 min if nobody answers)")


def test_an_open_circuit_breaker_says_until_when(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x"))), registry)
    path, now = TaskPath("s/x"), done.state.now_ms
    refused = Failure("CIRCUIT_OPEN", "5 of the last 5 attempts failed", retryable=True, retry_after_ms=4_000)
    done.state.apply(AttemptFailed(at_ms=now, task=path, attempt=1, failure=refused))
    done.state.apply(
        RecoveryChosen(at_ms=now, task=path, attempt=1, strategy="0:retry", decision=Retry(after_ms=4_000))
    )
    (wait,) = explain_wait(done.state, now)
    assert (wait.kind, wait.names, wait.due_ms) == ("timer", ("a",), now + 4_000)
    assert wait.reason == (
        "is tried again in 4.0 s: until then a circuit breaker keeps attempts away "
        "(CIRCUIT_OPEN: 5 of the last 5 attempts failed)"
    )


def test_a_second_attempt_is_told_of_before_and_while_it_goes_on(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x"))), registry)
    plan, path = done.state.plan, TaskPath("s/x")
    state = type(done.state)(plan)
    for event in done.journal[:-1]:
        state.apply(event)
    now = done.state.now_ms
    state.apply(TaskScheduled(at_ms=now, task=path, attempt=1, hedge_ms=3_000))
    assert waits_of(state, now)["s/x"].reason.endswith("attempt 1; a second attempt begins beside it in 3.0 s")
    state.apply(TimerFired(at_ms=now + 3_000, timer="hedge:s/x"))
    assert waits_of(state, now + 3_000)["s/x"].reason == (
        "runs 'x' on agent 'a' since 3.0 s, attempt 1 and beside it attempt 2: the first answer counts"
    )


def test_a_task_that_looks_for_kept_outputs_says_so(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x"))), registry)
    path, now = TaskPath("s/x"), done.state.now_ms
    done.state.apply(AttemptFailed(at_ms=now, task=path, attempt=1, failure=Failure("BROKEN", "it broke")))
    done.state.apply(RecoveryChosen(at_ms=now, task=path, attempt=1, strategy="0:degrade", decision=Recall()))
    (wait,) = explain_wait(done.state, now)
    assert (wait.kind, wait.since_ms) == ("cache", now)
    done.state.apply(Recalled(at_ms=now, task=path, attempt=1))
    assert explain_wait(done.state, now)[0].kind == "engine"


def test_timeouts_that_are_running_say_what_they_end_and_when(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", task("x", timeout={"total": "10s"}), timeout="1m"), timeout="1h")
    done = begun(plan, registry)
    now = done.state.now_ms
    found = waits_of(done.state, now + 1_000)
    assert found["s/x"].reason.endswith("attempt 1; its time is over in 9.0 s")
    assert (found["s"].kind, found["s"].due_ms) == ("limit", now + 60_000)
    assert found["s"].reason == "has a timeout that ends the stage in 59.0 s"
    assert found["w"].reason == "has a timeout that ends the run in 59 min 59 s"


@pytest.fixture
def undoing(compile_stages: Compile, registry: Registry) -> Simulation:
    """A rollback that has begun: z is being undone, x and y are not yet."""

    def undo(name: str) -> dict:
        return task(name, compensate={"agent": "a", "action": f"un{name}", "recovery": []})

    plan = compile_stages(stage("s", undo("x"), undo("y"), undo("z"), task("bad")), on_failure="rollback")
    done = Simulation(plan, fail, registry=registry).run()
    at = next(i for i, event in enumerate(done.journal) if isinstance(event, RollbackStarted))
    return Simulation(plan, fail, registry=registry, history=done.journal[: at + 2]).run(stop_after=1)


def test_a_rollback_says_of_each_task_what_must_be_undone_before_it(undoing: Simulation) -> None:
    found = waits_of(undoing.state, undoing.state.now_ms)
    assert list(found) == ["s/x", "s/y", "s/z~compensate"]
    assert (found["s/z~compensate"].kind, found["s/x"].kind) == ("work", "rollback")
    assert found["s/x"].reason == "is undone after what came later: s/z~compensate"
    assert found["s/x"].since_ms is not None


def test_what_could_not_be_undone_holds_up_what_is_behind_it(undoing: Simulation) -> None:
    state, path = undoing.state, TaskPath("s/z~compensate")
    state.undoing.open += 1  # something else goes on
    state.apply(AttemptFailed(at_ms=state.now_ms, task=path, attempt=1, failure=Failure("BROKEN", "it broke")))
    state.apply(TaskFailed(at_ms=state.now_ms, task=path, failure=Failure("BROKEN", "it broke")))
    found = waits_of(state, state.now_ms)
    assert found["s/z"].reason.startswith("could not be undone (BROKEN: it broke)")
    assert found["s/x"].reason == "is not undone, as what came later could not be: s/z"


def test_a_stage_that_is_held_waits_for_a_person(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x")), stage("t", task("y"), depends_on=["s"])), registry)
    hold = Hold(
        question="ship it?", kind="approval", choices=["approve", "reject"], approvers=["ann"], timeout_ms=9_000
    )
    done.state.apply(AttemptSucceeded(at_ms=done.state.now_ms, task=TaskPath("s/x"), attempt=1))
    done.state.apply(StageFinished(at_ms=done.state.now_ms, stage="s", status="succeeded"))
    done.state.apply(StageHeld(at_ms=done.state.now_ms, stage="t", hold=hold))
    (wait,) = explain_wait(done.state, done.state.now_ms)
    assert (wait.subject, wait.kind, wait.names, wait.choices) == ("t", "person", ("ann",), ("approve", "reject"))
    assert wait.reason == "is held for a person since 0.0 s: ship it? ('fail' counts in 9.0 s if nobody answers)"


def test_a_paused_run_says_who_paused_it(compile_stages: Compile, registry: Registry) -> None:
    done = begun(compile_stages(stage("s", task("x"), task("y"))), registry)
    done.state.paused = "ann"
    done.state.apply(AttemptSucceeded(at_ms=done.state.now_ms, task=TaskPath("s/x"), attempt=1))
    (wait,) = explain_wait(done.state, done.state.now_ms)
    assert (wait.subject, wait.kind, wait.reason) == ("s/y", "person", "may begin, but ann has paused the run")


def test_since_when_is_said_for_everything(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(
        stage("s", task("x"), task("y"), task("z"), type="parallel", max_parallel=1),
        stage("t", task("w"), depends_on=["s"]),
    )
    done = begun(plan, registry)
    assert all(wait.since_ms is not None for wait in explain_wait(done.state, done.state.now_ms))


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
