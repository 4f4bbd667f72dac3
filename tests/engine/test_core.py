"""The core by itself: which task starts when, with which inputs, and how failures spread. No clock, no I/O."""

import time
from collections.abc import Callable

import pytest

from noa.engine.decide import MAX_ATTEMPTS
from noa.model.events import RunFinished, StageFinished, StageSkipped
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.plan import Plan
from noa.plugin import (
    Attempted,
    Block,
    Complete,
    Hold,
    Opening,
    RecoveryStrategy,
    Registry,
    Retry,
    Substitute,
    hookimpl,
)
from noa.recovery import RetryOptions
from noa.stages import ParallelStage
from noa.testing.simulation import Asked, Simulation

Compile = Callable[..., Plan]


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def succeed(**outputs: dict) -> Callable[[Asked], Outcome]:
    """Work that gives each action its outputs."""
    return lambda asked: Succeeded(outputs.get(asked.action, {}))


def fail(*actions: str, code: str = "BROKEN", retryable: bool = False) -> Callable[[Asked], Outcome]:
    def work(asked: Asked) -> Outcome:
        return Failure(code, "it broke", retryable=retryable) if asked.action in actions else Succeeded({})

    return work


def statuses(done: Simulation) -> dict[str, str]:
    return {path: node.status for path, node in done.state.tasks.items()}


def test_sequential_tasks_run_one_after_the_other(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), task("z")))
    most: list[int] = []
    done = Simulation(plan, succeed(), registry=registry, check=lambda s: most.append(s.counts.get("running", 0))).run()
    assert [asked.action for asked in done.executed] == ["x", "y", "z"]
    assert max(most) == 1
    assert done.state.status == "succeeded"


def test_parallel_tasks_are_all_asked_for_at_once(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), task("z"), type="parallel"))
    most: list[int] = []
    Simulation(plan, succeed(), registry=registry, check=lambda s: most.append(s.counts.get("running", 0))).run()
    assert max(most) == 3


@pytest.mark.parametrize("where", ["stage", "workflow"])
@pytest.mark.parametrize("seed", range(5))
def test_max_parallel_is_never_exceeded_and_reached(
    registry: Registry, compile_stages: Compile, where: str, seed: int
) -> None:
    tasks = [task(f"t{i}") for i in range(10)]
    plan = (
        compile_stages(stage("s", *tasks, type="parallel", max_parallel=3))
        if where == "stage"
        else compile_stages(stage("s", *tasks, type="parallel"), max_parallel=3)
    )
    seen: list[int] = []
    done = Simulation(
        plan, succeed(), registry=registry, seed=seed, check=lambda s: seen.append(s.counts.get("running", 0))
    ).run()
    assert max(seen) == 3
    assert len(done.executed) == 10


def test_needs_orders_tasks_of_a_parallel_stage(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x", needs=["y"]), task("y", needs=["z"]), task("z"), type="parallel"))
    done = Simulation(plan, succeed(), registry=registry).run()
    assert [asked.action for asked in done.executed] == ["z", "y", "x"]


def test_stage_waits_for_the_stages_it_depends_on(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("last", task("x"), depends_on=["one", "two"]), stage("one", task("y")), stage("two", task("z"))
    )
    for seed in range(5):
        done = Simulation(plan, succeed(), registry=registry, seed=seed).run()
        assert done.executed[-1].action == "x"


def test_data_reference_to_another_stage_is_a_dependency(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("one", task("x", inputs={"n": "${{ stages.two.y.outputs.n + 1 }}"})), stage("two", task("y"))
    )
    for seed in range(5):
        done = Simulation(plan, succeed(y={"n": 41}), registry=registry, seed=seed).run()
        assert [asked.action for asked in done.executed] == ["y", "x"]
        assert done.executed[-1].inputs == {"n": 42}


def test_task_without_inputs_sees_the_runs_inputs_and_what_was_given_before(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages(
        stage("init", task("x"), task("y"), type="parallel"),
        stage("end", task("z"), task("last"), depends_on=["init"]),
    )
    done = Simulation(
        plan,
        succeed(x={"files": 1}, y={"path": "given"}, z={"more": 2}),
        registry=registry,
        inputs={"path": "p", "q": 1},
    ).run()
    assert done.executed[-2].inputs == {"path": "given", "q": 1, "files": 1}
    assert done.executed[-1].inputs == {"path": "given", "q": 1, "files": 1, "more": 2}


def test_field_that_two_tasks_give_is_left_out_for_everything_after(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages(
        stage("init", task("x"), task("y"), type="parallel"), stage("end", task("z"), depends_on=["init"])
    )
    done = Simulation(plan, succeed(x={"n": 1, "x": 1}, y={"n": 2, "y": 2}), registry=registry).run()
    assert done.executed[-1].inputs == {"x": 1, "y": 2}


def test_failed_task_blocks_what_depends_on_it_and_fails_the_run(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), task("z")), stage("after", task("w"), depends_on=["s"]))
    done = Simulation(plan, fail("y"), registry=registry).run()
    assert statuses(done) == {"s/x": "succeeded", "s/y": "failed", "s/z": "blocked"}
    assert done.state.stages["after"].status == "blocked"
    assert done.state.status == "failed"
    assert done.state.failure is not None
    assert done.state.failure.code == "BROKEN"


def test_optional_task_may_fail_and_dependents_see_null(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x", optional=True), task("y", inputs={"got": "${{ tasks.x.outputs }}"})))
    done = Simulation(plan, fail("x"), registry=registry).run()
    assert done.executed[-1].inputs == {"got": None}
    assert done.state.status == "succeeded"


def test_fail_fast_cancels_the_rest_of_a_stage(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", *(task(f"t{i}") for i in range(6)), type="parallel", max_parallel=2))
    done = Simulation(plan, fail("t0"), registry=registry, seed=3).run()
    assert set(statuses(done).values()) <= {"failed", "cancelled", "succeeded"}
    assert "cancelled" in statuses(done).values()
    assert len(done.executed) < 6


def test_without_fail_fast_the_rest_of_a_stage_goes_on(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", *(task(f"t{i}") for i in range(6)), type="parallel", fail_fast=False))
    done = Simulation(plan, fail("t0"), registry=registry).run()
    assert len(done.executed) == 6
    assert done.state.status == "failed"


@pytest.mark.parametrize(("failing", "ran"), [((), {"ok", "always"}), (("x",), {"failure", "always"})])
def test_run_on_chooses_stages_by_the_outcome_of_their_dependencies(
    registry: Registry, compile_stages: Compile, failing: tuple[str, ...], ran: set[str]
) -> None:
    plan = compile_stages(
        stage("s", task("x")),
        stage("ok", task("ok"), depends_on=["s"]),
        stage("failure", task("failure"), depends_on=["s"], run_on="failure"),
        stage("always", task("always"), depends_on=["s"], run_on="always"),
    )
    done = Simulation(plan, fail(*failing), registry=registry).run()
    assert {asked.action for asked in done.executed} - {"x"} == ran
    assert done.state.status == ("failed" if failing else "succeeded")


def test_cleanup_may_read_what_a_failed_stage_gave(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("s", task("x"), task("y")),
        stage(
            "clean",
            task("z", inputs={"x": "${{ stages.s.x.outputs }}", "y": "${{ stages.s.y.outputs }}"}),
            depends_on=["s"],
            run_on="always",
        ),
    )
    for failing in ("x", "y"):
        done = Simulation(plan, fail(failing), registry=registry).run()
        assert done.executed[-1].inputs == {"x": None if failing == "x" else {}, "y": None}


def test_when_skips_a_task_and_its_dependents_go_on(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x", when="inputs.go"), task("y", inputs={"s": "${{ tasks.x.status }}"})))
    done = Simulation(plan, succeed(), registry=registry, inputs={"go": False}).run()
    assert statuses(done) == {"s/x": "skipped", "s/y": "succeeded"}
    assert done.executed[0].inputs == {"s": "skipped"}


def test_when_skips_a_stage(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), when="inputs.n > 1"), stage("t", task("y"), depends_on=["s"]))
    done = Simulation(plan, succeed(), registry=registry, inputs={"n": 1}).run()
    assert [event.stage for event in done.journal if isinstance(event, StageSkipped)] == ["s"]
    assert [asked.action for asked in done.executed] == ["y"]


@pytest.mark.parametrize(("n", "ran"), [(1, ["one"]), (2, ["two"]), (3, ["other"])])
def test_conditional_runs_the_first_true_branch(
    registry: Registry, compile_stages: Compile, n: int, ran: list[str]
) -> None:
    plan = compile_stages(
        {
            "name": "c",
            "type": "conditional",
            "branches": [
                {"when": "inputs.n == 1", "tasks": [task("one")]},
                {"when": "inputs.n <= 2", "tasks": [task("two")]},
            ],
            "else": [task("other")],
        }
    )
    done = Simulation(plan, succeed(), registry=registry, inputs={"n": n}).run()
    assert [asked.action for asked in done.executed] == ran


@pytest.mark.parametrize("width", [1, 3])
def test_for_each_runs_its_tasks_for_each_item(registry: Registry, compile_stages: Compile, width: int) -> None:
    plan = compile_stages(
        {
            "name": "l",
            "type": "loop",
            "for_each": "${{ inputs.items }}",
            "max_parallel": width,
            "tasks": [task("x", inputs={"v": "${{ item }}", "i": "${{ index }}"})],
        },
        stage("sum", task("y", inputs={"all": "${{ stages.l.x.outputs }}"}), depends_on=["l"]),
    )
    most: list[int] = []
    done = Simulation(
        plan,
        lambda asked: Succeeded({"double": asked.inputs["v"] * 2}) if asked.action == "x" else Succeeded({}),
        registry=registry,
        inputs={"items": [5, 6, 7, 8]},
        check=lambda s: most.append(s.counts.get("running", 0)),
    ).run()
    assert max(most) == width
    assert done.executed[-1].inputs == {"all": [{"double": n} for n in (10, 12, 14, 16)]}


def test_loop_over_nothing_gives_empty_lists(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        {"name": "l", "type": "loop", "for_each": "${{ inputs.items }}", "tasks": [task("x", inputs={})]},
        stage("sum", task("y", inputs={"n": "${{ size(stages.l.x.outputs) }}"}), depends_on=["l"]),
    )
    done = Simulation(plan, succeed(), registry=registry, inputs={"items": []}).run()
    assert done.executed[-1].inputs == {"n": 0}


def test_until_loop_sees_what_the_previous_iteration_gave(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        {
            "name": "l",
            "type": "loop",
            "until": "previous != null && previous.x.n >= 3",
            "max_iterations": 10,
            "tasks": [task("x", inputs={"n": "${{ previous == null ? 0 : previous.x.n }}"})],
        }
    )
    done = Simulation(plan, lambda asked: Succeeded({"n": asked.inputs["n"] + 1}), registry=registry).run()
    assert len(done.executed) == 3
    assert done.state.status == "succeeded"


def test_loop_that_reaches_max_iterations_fails_and_says_so(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        {"name": "l", "type": "loop", "while": "true", "max_iterations": 4, "tasks": [task("x", inputs={})]}
    )
    done = Simulation(plan, succeed(), registry=registry).run()
    assert len(done.executed) == 4
    assert done.state.status == "failed"
    assert done.state.failure is not None
    assert "max_iterations" in done.state.failure.message


def test_expression_that_fails_at_run_time_fails_its_task_with_the_reason(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages(stage("s", task("x", inputs={"n": "${{ 1 / int(inputs.zero) }}"})))
    done = Simulation(plan, succeed(), registry=registry, inputs={"zero": 0}).run()
    assert done.state.status == "failed"
    assert done.state.failure is not None
    assert done.state.failure.code == "EXPRESSION_ERROR"
    assert done.executed == []


def test_retry_tries_again_until_attempts_are_used_up(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x", recovery=[{"retry": {"max_attempts": 3}}])))
    done = Simulation(plan, fail("x", retryable=True), registry=registry).run()
    assert [asked.attempt for asked in done.executed] == [1, 2, 3]
    assert done.state.status == "failed"


def test_retry_leaves_alone_what_is_not_retryable(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x", recovery=["retry"])))
    done = Simulation(plan, fail("x"), registry=registry).run()
    assert len(done.executed) == 1


def test_nearest_recovery_chain_counts(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        stage("s", task("x", recovery=[]), task("y"), recovery=[{"retry": {"max_attempts": 2}}], fail_fast=False),
        recovery=[{"retry": {"max_attempts": 5}}],
    )
    done = Simulation(plan, fail("x", retryable=True), registry=registry).run()
    assert len(done.executed) == 1
    plan = compile_stages(
        stage("s", task("y"), recovery=[{"retry": {"max_attempts": 2}}]), recovery=[{"retry": {"max_attempts": 5}}]
    )
    assert len(Simulation(plan, fail("y", retryable=True), registry=registry).run().executed) == 2


def test_stage_timeout_cancels_its_tasks_and_fails_it(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", *(task(f"t{i}") for i in range(4)), type="parallel", timeout="1s"))
    for seed in range(10):
        done = Simulation(plan, succeed(), registry=registry, seed=seed).run()
        timed_out = any(getattr(event, "timer", "") == "stage:s" for event in done.journal)
        assert done.state.status == ("failed" if timed_out else "succeeded")
        if timed_out:
            assert done.state.failure is not None
            assert done.state.failure.code == "STAGE_TIMEOUT"


def test_cancelled_run_ends_and_starts_nothing_more_but_always_stages(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages(
        stage("s", task("x"), task("y"), task("z")),
        stage("clean", task("clean"), depends_on=["s"], run_on="always"),
        stage("after", task("after"), depends_on=["s"]),
    )
    done = Simulation(plan, succeed(), registry=registry, cancel_after=3).run()
    assert done.state.status == "cancelled"
    assert {asked.action for asked in done.executed} == {"clean"}


def test_outputs_of_the_workflow_are_rendered_at_the_end(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x")), outputs={"n": "${{ stages.s.x.outputs.n }}", "t": "n=${{ 1 + 1 }}"})
    done = Simulation(plan, succeed(x={"n": 7}), registry=registry).run()
    assert done.state.outputs == {"n": 7, "t": "n=2"}


def test_chain_of_ten_thousand_blocked_tasks_does_not_nest_calls(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", *(task(f"t{i}", inputs={}) for i in range(10_000)), fail_fast=False))
    done = Simulation(plan, fail("t0"), registry=registry).run()
    assert done.state.counts["blocked"] == 9_999
    assert isinstance(done.journal[-1], RunFinished)
    assert isinstance(done.journal[-2], StageFinished)


class Answering(RecoveryStrategy):
    """Answers what the test says."""

    name = "answering"
    options = RetryOptions

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def recover(self, failure: Failure, past: Attempted, options: object) -> object:
        return self._answer


def answering(registry: Registry, answer: object) -> None:
    class Plugin:
        @hookimpl
        def noa_recovery_strategies(self) -> list:
            return [Answering(answer)]

    registry.register(Plugin(), "answering")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (42, "no decision"),
        (Substitute(agent="nope"), "'nope', which is not known"),
        (Retry(after_ms="soon"), "ValidationError"),
        (Complete(outputs={"x": object()}), "TypeError"),
        (Hold("why?", choices=["perhaps"]), "choice that is not known"),
    ],
    ids=["junk", "unknown-agent", "wrong-type", "not-json", "unknown-choice"],
)
def test_strategy_that_answers_what_cannot_be_done_fails_the_task_and_is_named(
    registry: Registry, compile_stages: Compile, answer: object, said: str
) -> None:
    answering(registry, answer)
    plan = compile_stages(stage("s", task("x", recovery=["answering"])))
    done = Simulation(plan, fail("x"), registry=registry).run()
    assert done.state.status == "failed"
    assert done.state.failure is not None
    assert done.state.failure.code == "RECOVERY_FAILED"
    assert said in done.state.failure.message
    assert "answering" in done.state.failure.message
    assert len(done.executed) == 1


def test_strategy_that_never_stops_is_stopped(registry: Registry, compile_stages: Compile) -> None:
    answering(registry, Substitute(agent="b"))
    plan = compile_stages(stage("s", task("x", recovery=["answering"])))
    done = Simulation(plan, fail("x"), registry=registry).run()
    assert len(done.executed) == MAX_ATTEMPTS
    assert done.state.failure is not None
    assert done.state.failure.code == "RECOVERY_FAILED"


def test_substitute_asks_the_other_agent_with_the_other_inputs(registry: Registry, compile_stages: Compile) -> None:
    answering(registry, Substitute(agent="b", action="other", inputs={"n": 2}))
    plan = compile_stages(stage("s", task("x", recovery=["answering"])))
    done = Simulation(plan, fail("x"), registry=registry, inputs={"n": 1}).run()
    assert done.state.status == "succeeded"
    assert [(a.agent, a.action, a.inputs) for a in done.executed] == [("a", "x", {"n": 1}), ("b", "other", {"n": 2})]


@pytest.mark.parametrize(
    ("opening", "said"),
    [
        (Opening([Block("nothing")]), "template 'nothing'"),
        (Opening([Block("main"), Block("main")]), "two blocks under the key ''"),
        (Opening([Block("main", bindings={"x": object()})]), "TypeError"),
        (42, "AttributeError"),
    ],
    ids=["template", "key", "not-json", "junk"],
)
def test_stage_type_that_answers_nonsense_fails_its_stage_and_is_named(
    registry: Registry, compile_stages: Compile, opening: object, said: str
) -> None:
    class Odd(ParallelStage):
        name = "odd"

        def start(self, stage: object) -> object:
            return opening

    class Plugin:
        @hookimpl
        def noa_stage_types(self) -> list:
            return [Odd()]

    registry.register(Plugin(), "odd")
    done = Simulation(compile_stages(stage("s", task("x"), type="odd")), succeed(), registry=registry).run()
    assert done.state.failure is not None
    assert done.state.failure.code == "STAGE_TYPE_FAILED"
    assert said in done.state.failure.message
    assert "'odd'" in done.state.failure.message


def test_cost_of_an_iteration_does_not_grow_with_the_loop(registry: Registry, compile_stages: Compile) -> None:
    loop = {"name": "l", "type": "loop", "for_each": "${{ inputs.items }}", "tasks": [task("x")]}
    took = {}
    for count in (500, 4000):
        sim = Simulation(compile_stages(loop), succeed(), registry=registry, inputs={"items": list(range(count))})
        began = time.process_time()
        sim.run()
        took[count] = (time.process_time() - began) / count
    assert took[4000] < 3 * took[500]
