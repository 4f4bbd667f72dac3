"""How the core follows what a recovery chain decides: alternatives, holds, hedges, kept outputs, time that is over."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.driven import BROKEN, Driven, X

from noa.engine.commands import CancelAttempt, Execute, LookUp, SetTimer
from noa.engine.durations import Durations
from noa.model.events import (
    Recalled,
    RecoveryChosen,
    SignalApplied,
    SignalRefused,
)
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.plugin import Registry, SignalRecord

Compile = Callable[..., Plan]


def one_task(compile_stages: Compile, *chain: Any, **keys: Any) -> Plan:
    task = {"name": "x", "agent": "a", "action": "x", "inputs": {"n": "${{ inputs.n }}"}, "recovery": list(chain)}
    return compile_stages({"name": "s", "type": "sequential", "tasks": [{**task, **keys}]})


def test_alternatives_are_asked_in_turn_with_their_own_inputs_and_the_tasks_where_they_name_none(
    registry: Registry, compile_stages: Compile
) -> None:
    to = [{"agent": "b", "action": "y", "inputs": {"why": "${{ failure.code }}"}}, {"action": "z"}]
    run = Driven(one_task(compile_stages, {"fallback": to}), registry, n=7)
    asked = [run.state.tasks[X]]
    seen = []
    for _ in range(3):
        task = asked[0]
        seen.append((task.agent, task.action, task.inputs))
        run.fail()
    assert seen == [("a", "x", {"n": 7}), ("b", "y", {"why": "BROKEN"}), ("a", "z", {"n": 7})]
    assert run.state.status == "failed"


def test_degrade_gives_evaluated_outputs_and_flags_the_run(registry: Registry, compile_stages: Compile) -> None:
    chain = {"degrade": {"outputs": {"score": 0, "from": "${{ inputs.n + 1 }}", "why": "none: ${{ failure.message }}"}}}
    run = Driven(one_task(compile_stages, chain), registry, n=7)
    run.fail()
    task = run.state.tasks[X]
    assert task.outputs == {"score": 0, "from": 8, "why": "none: it broke"}
    assert (run.state.status, run.state.degraded, task.degraded, task.failure) == ("succeeded", True, True, BROKEN)


@pytest.mark.parametrize("found", [True, False])
def test_last_good_outputs_are_looked_up_and_the_entry_is_asked_again_where_there_are_none(
    registry: Registry, compile_stages: Compile, found: bool
) -> None:
    run = Driven(one_task(compile_stages, {"degrade": {"last_good": True, "outputs": {"v": 0}}}), registry, n=1)
    (look,) = run.fail()
    assert look == LookUp(X, 1, "last:w/s/x")
    other = run.again()
    assert other.effects == [look], "a crash while the store is asked asks it again"
    other.take(Recalled(at_ms=other.now_ms, task=X, attempt=1, found=found, outputs={"v": 9} if found else {}, run="o"))
    assert other.state.tasks[X].outputs == {"v": 9 if found else 0}
    assert (other.state.status, other.state.degraded) == ("succeeded", True)


def test_outputs_of_a_task_that_may_be_recalled_are_kept(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(one_task(compile_stages, {"degrade": {"last_good": True}}), registry, n=1)
    assert run.core.keeps(X) == {"last:w/s/x": 0}
    assert Driven(one_task(compile_stages, "retry"), registry, n=1).core.keeps(X) == {}


def test_held_task_waits_for_an_answer_and_nothing_else(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(one_task(compile_stages, {"ask": {"question": "now what of ${{ inputs.n }}?"}}), registry, n=7)
    assert run.fail() == []
    task = run.state.tasks[X]
    assert (task.status, run.state.waiting, task.hold and task.hold.question) == ("held", True, "now what of 7?")
    for refused, body in {
        "no task": {"task": "s/y", "choice": "retry"},
        "not among": {"task": "s/x", "choice": "dance"},
        "needs the outputs": {"task": "s/x", "choice": "override"},
    }.items():
        event = run.signal("answer", refused, **body)
        assert isinstance(event, SignalRefused)
        assert refused in event.why
    assert isinstance(run.signal("nonsense", "n"), SignalRefused)
    assert isinstance(run.signal("answer", "yes", task="s/x", choice="retry"), SignalApplied)
    assert run.effects == [Execute(X, 2)]
    assert run.core.signalled(
        SignalRecord("yes", RunId("r"), "answer", "", "", {"task": "s/x", "choice": "skip"}, 1), run.now_ms
    ) == ([], []), "the same signal twice counts once"


@pytest.mark.parametrize(
    ("choice", "status", "outputs"),
    [("skip", "skipped", None), ("fail", "failed", None), ("override", "succeeded", {"v": 1})],
)
def test_answers_end_a_held_task(
    registry: Registry, compile_stages: Compile, choice: str, status: str, outputs: dict[str, int] | None
) -> None:
    run = Driven(one_task(compile_stages, "ask"), registry, n=7)
    run.fail()
    run.again()
    run.signal("answer", task="s/x", choice=choice, **({"outputs": outputs} if outputs else {}))
    assert (run.state.tasks[X].status, run.state.tasks[X].outputs) == (status, outputs)
    assert run.state.finished
    late = run.signal("answer", "late", task="s/x", choice="retry")
    assert isinstance(late, SignalRefused)
    assert "the run is over" in late.why


def test_hold_that_nobody_answers_in_time_takes_its_default(registry: Registry, compile_stages: Compile) -> None:
    chain = {"ask": {"timeout": "1h", "on_timeout": "skip"}}
    run = Driven(one_task(compile_stages, chain, timeout={"total": "10s"}), registry, n=7)
    (timer,) = run.fail()
    assert timer == SetTimer("hold:s/x", run.now_ms + 3_600_000)
    assert "timer:total:s/x" not in run.state.pending, "a person's time is not the task's"
    run.fire("hold:s/x")
    assert run.state.tasks[X].status == "skipped"


def hedged(compile_stages: Compile, registry: Registry) -> Driven:
    durations = Durations()
    for _ in range(30):
        durations.add("a", "x", 100)
    plan = one_task(compile_stages, {"retry": {"max_attempts": 2, "delay_s": 0}}, "hedge", idempotent=True)
    run = Driven(plan, registry, durations, n=1)
    assert run.fire("hedge:s/x") == [Execute(X, 2, hedge=True)]
    return run


def test_second_attempt_begins_beside_a_slow_one_and_the_first_answer_wins(
    registry: Registry, compile_stages: Compile
) -> None:
    run = hedged(compile_stages, registry)
    assert set(run.again().effects) == {Execute(X, 1), Execute(X, 2, hedge=True)}, "both are asked for after a crash"
    assert run.state.accepts(X, 1)
    assert run.state.accepts(X, 2)
    effects = run.succeed(attempt=2, v=2)
    assert CancelAttempt(X, 1, "another attempt was quicker") in effects
    assert run.state.tasks[X].outputs == {"v": 2}
    assert not run.state.accepts(X, 1)
    assert run.state.status == "succeeded"


def test_hedged_task_fails_only_when_both_attempts_have(registry: Registry, compile_stages: Compile) -> None:
    run = hedged(compile_stages, registry)
    assert run.fail(attempt=1) == []
    assert run.state.tasks[X].status == "running"
    assert run.again().effects == [Execute(X, 2, hedge=True)]
    (timer,) = run.fail(attempt=2)
    assert timer == SetTimer("retry:s/x", run.now_ms)
    assert run.fire("retry:s/x") == [Execute(X, 3)], "its hedge is used up"


def test_action_that_must_not_be_done_twice_is_never_hedged(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(one_task(compile_stages, {"hedge": {"delay": "1s"}}), registry, n=1)
    assert not [key for key in run.state.pending if "hedge" in key]


def test_cancelling_a_hedged_task_ends_both_attempts(registry: Registry, compile_stages: Compile) -> None:
    run = hedged(compile_stages, registry)
    run.signal("cancel")
    assert {(e.attempt, e.hedge) for e in run.effects if isinstance(e, CancelAttempt)} == {(1, False), (2, True)}
    run.fail(Failure("CANCELLED", ""), attempt=2)
    assert not run.state.finished
    run.fail(Failure("CANCELLED", ""), attempt=1)
    assert run.state.status == "cancelled"


def test_task_whose_time_is_over_is_not_tried_again_but_may_still_degrade(
    registry: Registry, compile_stages: Compile
) -> None:
    chain = [{"retry": {"max_attempts": 9, "on": ["TASK_TIMEOUT"]}}, {"degrade": {"outputs": {"v": 0}}}]
    run = Driven(one_task(compile_stages, *chain, timeout={"total": "10s"}), registry, n=1)
    (cancel,) = run.fire("total:s/x")
    assert isinstance(cancel, CancelAttempt)
    run.fail(Failure("CANCELLED", ""))
    assert run.state.tasks[X].outputs == {"v": 0}
    chosen = [event for event in run.events if isinstance(event, RecoveryChosen)]
    assert [event.strategy for event in chosen] == ["1:degrade"]
    assert run.state.tasks[X].failure is not None
    assert run.state.tasks[X].failure.code == "TASK_TIMEOUT"


def test_time_that_ends_while_a_task_waits_for_its_retry_ends_the_wait(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = one_task(
        compile_stages, {"retry": {"max_attempts": 9, "delay_s": 60, "jitter": 0}}, timeout={"total": "10s"}
    )
    run = Driven(plan, registry, n=1)
    run.fail()
    run.fire("total:s/x")
    assert run.state.status == "failed"
    assert run.state.failure is not None
    assert run.state.failure.code == "TASK_TIMEOUT"
    assert not run.state.pending


def test_fail_ends_the_chain_with_its_own_words(registry: Registry, compile_stages: Compile) -> None:
    chain = [{"fail": {"code": "NO_STOCK", "message": "${{ failure.code }}: no"}}, {"degrade": {"outputs": {}}}]
    run = Driven(one_task(compile_stages, *chain), registry, n=1)
    run.fail()
    assert run.state.failure is not None
    assert (run.state.failure.code, run.state.failure.message, run.state.failure.cause) == (
        "NO_STOCK",
        "BROKEN: no",
        BROKEN,
    )


def test_expression_of_a_decision_that_fails_is_a_failure_of_recovery_and_names_the_cause(
    registry: Registry, compile_stages: Compile
) -> None:
    chain = {"degrade": {"outputs": {"v": "${{ failure.details.none }}"}}}
    run = Driven(one_task(compile_stages, chain), registry, n=1)
    run.fail()
    assert run.state.failure is not None
    assert run.state.failure.code == "RECOVERY_FAILED"
    assert "'degrade'" in run.state.failure.message
    assert run.state.failure.cause == BROKEN


def test_cached_outputs_are_taken_and_the_agent_is_not_asked(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(one_task(compile_stages, cache={"ttl": "1h"}), registry, n=1)
    (look,) = run.effects
    assert isinstance(look, LookUp)
    assert look.not_before_ms == run.now_ms - 3_600_000
    same, other = Driven(run.plan, registry, n=1), Driven(run.plan, registry, n=2)
    assert same.effects == [look]
    assert other.effects != [look], "other inputs are another task"
    assert same.core.keeps(X) == {look.kept: 3_600_000}
    run.take(Recalled(at_ms=run.now_ms, task=X, attempt=1, found=True, outputs={"v": 3}, run="earlier"))
    assert (run.state.status, run.state.degraded, run.state.tasks[X].source) == ("succeeded", False, "earlier")
    assert same.take(Recalled(at_ms=run.now_ms, task=X, attempt=1)) == [Execute(X, 1)]


@pytest.mark.parametrize("seed", range(20))
def test_random_failures_of_a_whole_chain_always_end(registry: Registry, compile_stages: Compile, seed: int) -> None:
    chance = random.Random(seed)
    chain: list[Any] = [
        {"circuit_breaker": {}},
        {"retry": {"max_attempts": 3}},
        {"fallback": [{"agent": "b", "retry": {"max_attempts": 2}}, {"action": "z"}]},
        {"degrade": {"last_good": True}},
    ]
    run = Driven(one_task(compile_stages, *chain, timeout={"total": "1h"}), registry, n=1)
    for _ in range(100):
        if run.state.finished:
            break
        key = chance.choice(sorted(run.state.pending))
        command = run.state.pending[key]
        if isinstance(command, LookUp):
            run.take(Recalled(at_ms=run.now_ms, task=X, attempt=command.attempt))
        elif isinstance(command, SetTimer):
            run.fire(command.timer)
        else:
            run.fail()
    assert run.state.status == "failed"


def test_another_try_after_outputs_were_looked_for_in_vain_looks_into_the_cache_and_then_asks_the_agent(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = one_task(compile_stages, {"degrade": {"last_good": True}}, "ask", cache={"ttl": "1h"})
    run = Driven(plan, registry, n=1)
    run.take(Recalled(at_ms=run.now_ms, task=X, attempt=1))
    run.fail()
    run.take(Recalled(at_ms=run.now_ms, task=X, attempt=1))
    assert run.state.tasks[X].status == "held"
    run.signal("answer", task="s/x", choice="retry")
    assert run.take(Recalled(at_ms=run.now_ms, task=X, attempt=2)) == [Execute(X, 2)]
