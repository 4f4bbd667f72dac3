"""Approvals, rules, interventions, breakpoints and steps in the core, and how the mode decides what is held."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.driven import Driven

from noa.definitions import load_plan
from noa.definitions.snippets import snippet
from noa.engine import interventions, signals
from noa.engine.commands import CancelAttempt
from noa.model.events import HoldResolved, SignalApplied, SignalRefused, StageHeld, TaskHeld
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import ApprovalPlan, BlockTemplate, Plan, SupervisePlan, TaskPlan
from noa.plugin import Gate, Hold, Mode, Registry, hookimpl

Compile = Callable[..., Plan]


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "a", "action": name, "inputs": {}, **keys}


def three(compile_stages: Compile, mode: str, **changes: Any) -> Plan:
    """one/x, then one/y, then two/z; `changes` are made to the plan of one/x."""
    plan = compile_stages(
        {"name": "one", "type": "sequential", "tasks": [task("x"), task("y")]},
        {"name": "two", "type": "sequential", "depends_on": ["one"], "tasks": [task("z")]},
        mode=mode,
    )

    def changed(one: TaskPlan) -> TaskPlan:
        return msgspec.structs.replace(one, **changes) if one.name == "x" else one

    stage = plan.stages["one"]
    template = stage.templates["main"]
    template = BlockTemplate("main", tuple(map(changed, template.tasks)), template.dependents)
    stage = msgspec.structs.replace(stage, templates={"main": template})
    return msgspec.structs.replace(plan, stages={**plan.stages, "one": stage})


def path(name: str) -> TaskPath:
    return TaskPath(name)


def going(run: Driven) -> list[str]:
    return sorted(t.path for t in run.state.iter_running())


def held(run: Driven) -> list[str]:
    return sorted(subject for subject, _, _ in run.state.iter_holds())


def say(run: Driven, kind: str, actor: str = "ann", reason: str = "", **body: Any) -> str:
    """Give a signal; why it was refused, or nothing. Then the run must fold to the same from its journal."""
    from noa.model.ids import RunId
    from noa.plugin import SignalRecord

    signal = SignalRecord(f"s{len(run.events)}", RunId("r"), kind, actor, reason, body, run.now_ms)
    events, effects = run.core.signalled(signal, run.now_ms)
    run.events += events
    run.effects = list(effects)
    again = run.again()
    assert {p: t.status for p, t in again.state.tasks.items()} == {p: t.status for p, t in run.state.tasks.items()}
    assert isinstance(events[0], SignalApplied | SignalRefused)
    return events[0].why if isinstance(events[0], SignalRefused) else ""


# --- approvals -------------------------------------------------------------------------------------------------------


def test_task_waits_for_its_approval_and_shows_what_it_would_do(registry: Registry, compile_stages: Compile) -> None:
    names = ["task", "item"]
    approval = ApprovalPlan(prompt="deploy?", show={"inputs": snippet("task.inputs", names, {})})
    run = Driven(three(compile_stages, "supervised", approval=approval, inputs={"env": "prod"}), registry)
    assert (going(run), held(run), run.state.waiting) == ([], ["one/x"], True)
    hold = run.state.tasks[path("one/x")].hold
    assert hold is not None
    assert (hold.kind, hold.question, hold.show) == ("approval", "deploy?", {"inputs": {"env": "prod"}})
    assert say(run, "approve", task="one/x") == ""
    assert going(run) == ["one/x"]
    assert run.state.tasks[path("one/x")].inputs == {"env": "prod"}


def test_rejection_needs_a_reason_and_fails_the_task_without_asking_its_chain(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = three(compile_stages, "supervised", approval=ApprovalPlan(on_timeout="approve"))
    run = Driven(plan, registry)
    assert "reason" in say(run, "reject", task="one/x")
    assert say(run, "reject", task="one/x", reason="not on a Friday") == ""
    failure = run.state.failure
    assert run.state.status == "failed"
    assert failure is not None
    assert failure.code == "REJECTED"
    assert "ann: not on a Friday" in failure.message


def test_only_those_named_may_approve_as_many_as_are_needed_and_nobody_twice(
    registry: Registry, compile_stages: Compile
) -> None:
    approval = ApprovalPlan(approvers=("ann", "bob", "cid"), quorum=2)
    run = Driven(three(compile_stages, "supervised", approval=approval), registry)
    assert "'eve' is not among" in say(run, "approve", "eve", task="one/x")
    assert say(run, "approve", "ann", task="one/x") == ""
    assert "already" in say(run, "approve", "ann", task="one/x")
    assert held(run) == ["one/x"]
    assert say(run, "approve", "bob", task="one/x") == ""
    assert going(run) == ["one/x"]
    assert "waits for no such answer" in say(run, "approve", "cid", task="one/x")


def test_nobody_approves_what_they_asked_for_or_changed(registry: Registry, compile_stages: Compile) -> None:
    plan = three(compile_stages, "supervised", approval=ApprovalPlan(four_eyes=True))
    run = Driven(plan, registry)
    run.state.actor = "ann"
    assert "began the run" in say(run, "approve", "ann", task="one/x")
    assert say(run, "edit", "bob", task="one/x", inputs={"n": 2}) == ""
    assert "changed the task" in say(run, "approve", "bob", task="one/x")
    run.state.actor = "ann"
    assert say(run, "approve", "cid", task="one/x") == ""
    assert run.state.tasks[path("one/x")].inputs == {"n": 2}


@pytest.mark.parametrize(("on_timeout", "status"), [("reject", "failed"), ("approve", "running"), ("escalate", "held")])
def test_approval_that_nobody_gives_in_time(
    registry: Registry, compile_stages: Compile, on_timeout: str, status: str
) -> None:
    approval = ApprovalPlan(quorum=2, approvers=("ann",), timeout_ms=1000, on_timeout=on_timeout, escalate_to=("boss",))  # type: ignore[arg-type]
    run = Driven(three(compile_stages, "supervised", approval=approval), registry)
    run.fire("hold:one/x")
    node = run.state.tasks[path("one/x")]
    assert node.status == status
    if status == "held":
        assert "'ann' is not among" in say(run, "approve", "ann", task="one/x")
        assert "timer:hold:one/x" not in run.state.pending


def test_in_auto_mode_nobody_is_waited_for_and_what_was_decided_is_recorded(
    registry: Registry, compile_stages: Compile
) -> None:
    for on_timeout, status in (("approve", "running"), ("reject", "failed"), ("escalate", "failed")):
        approval = ApprovalPlan(quorum=3, on_timeout=on_timeout)  # type: ignore[arg-type]
        run = Driven(three(compile_stages, "auto", approval=approval), registry)
        assert run.state.tasks[path("one/x")].status == status
        kinds = [type(event) for event in run.events]
        assert kinds.index(TaskHeld) + 1 == kinds.index(HoldResolved)


def test_stage_waits_for_its_approval(registry: Registry, compile_stages: Compile) -> None:
    plan = three(compile_stages, "supervised")
    stage = msgspec.structs.replace(plan.stages["two"], approval=ApprovalPlan(prompt="go on?"))
    plan = msgspec.structs.replace(plan, stages={**plan.stages, "two": stage})
    for kind, status in (("approve", "running"), ("reject", "failed")):
        run = Driven(plan, registry)
        run.succeed(path("one/x"))
        run.succeed(path("one/y"))
        assert (held(run), run.state.stages["two"].status) == (["two"], "held")
        assert any(isinstance(event, StageHeld) for event in run.events)
        assert say(run, kind, task="two", reason="so") == ""
        assert run.state.stages["two"].status == status
        assert run.state.finished is (status == "failed")
    run = Driven(plan, registry)
    run.succeed(path("one/x"))
    run.succeed(path("one/y"))
    run.signal("cancel")
    assert run.state.status == "cancelled"


def test_rule_holds_the_tasks_that_it_is_true_for(registry: Registry, compile_stages: Compile) -> None:
    plan = three(compile_stages, "supervised")
    rule = SupervisePlan(snippet("task.action == 'y' || task.inputs.size() > 3", ["task"], {}))
    run = Driven(msgspec.structs.replace(plan, supervise=rule), registry)
    assert going(run) == ["one/x"]
    run.succeed(path("one/x"))
    assert held(run) == ["one/y"]
    hold = run.state.tasks[path("one/y")].hold
    assert hold is not None
    assert hold.kind == "policy"
    assert say(run, "approve", task="one/y") == ""
    run.succeed(path("one/y"))
    assert going(run) == ["two/z"]


def test_retry_of_what_was_approved_is_not_asked_about_again(registry: Registry, compile_stages: Compile) -> None:
    plan = three(compile_stages, "supervised", approval=ApprovalPlan())
    run = Driven(plan, registry)
    say(run, "approve", task="one/x")
    run.fail(Failure("BROKEN", "no", retryable=True), path("one/x"))
    assert run.state.tasks[path("one/x")].status == "failed"


# --- interventions ---------------------------------------------------------------------------------------------------


def test_paused_run_begins_nothing_until_it_goes_on(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert "not paused" in say(run, "unpause")
    assert say(run, "pause") == ""
    assert "already" in say(run, "pause")
    run.succeed(path("one/x"))
    assert (going(run), run.state.tasks[path("one/y")].status, run.state.waiting) == ([], "ready", True)
    assert say(run, "unpause") == ""
    assert going(run) == ["one/y"]


@pytest.mark.parametrize("ends", ["fails", "succeeds"])
def test_what_a_person_says_about_a_running_task_counts_whatever_its_attempt_gives(
    registry: Registry, compile_stages: Compile, ends: str
) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert "reason" in say(run, "override", task="one/x", outputs={"v": 1})
    assert say(run, "override", task="one/x", outputs={"v": 1}, reason="I know") == ""
    assert [type(effect) for effect in run.effects] == [CancelAttempt]
    if ends == "fails":
        run.fail(Failure("CANCELLED", ""), path("one/x"))
    else:
        run.succeed(path("one/x"), v=2)
    assert run.state.tasks[path("one/x")].outputs == {"v": 1}
    assert going(run) == ["one/y"]


def test_tasks_that_have_not_begun_can_be_skipped_overridden_edited_and_given_to_another(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert say(run, "skip", task="one/y", reason="not needed") == ""
    assert "agent 'nobody' is not known" in say(run, "reassign", task="one/x", agent="b") + say(
        run, "reassign", task="two/z", agent="nobody"
    ) or "no task 'two/z'" in say(run, "reassign", task="two/z", agent="nobody")
    run.succeed(path("one/x"))
    assert going(run) == ["two/z"]
    assert "is running" in say(run, "edit", task="two/z", inputs={"n": 1})
    assert "over: it succeeded" in say(run, "skip", task="one/x")
    assert "no task 'one/q'" in say(run, "skip", task="one/q")
    assert "Did you mean 'one/x'" in say(run, "skip", task="one/xx")


def test_edited_and_reassigned_task_is_asked_so(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert say(run, "edit", task="one/y", inputs={"n": 1}) == ""
    assert say(run, "edit", task="one/y", inputs={"m": 2}) == ""
    assert say(run, "reassign", task="one/y", agent="b", action="other") == ""
    run.succeed(path("one/x"))
    node = run.state.tasks[path("one/y")]
    assert (node.agent, node.action, node.inputs) == ("b", "other", {"n": 1, "m": 2})


def test_task_that_waits_for_its_retry_is_tried_at_once(registry: Registry, compile_stages: Compile) -> None:
    plan = compile_stages(
        {"name": "s", "type": "sequential", "tasks": [task("x", recovery=[{"retry": {"delay_s": 600}}])]}
    )
    run = Driven(plan, registry)
    assert "has not failed" in say(run, "retry", task="s/x")
    run.fail(Failure("BROKEN", "no", retryable=True), path("s/x"))
    assert going(run) == []
    assert say(run, "retry", task="s/x") == ""
    assert going(run) == ["s/x"]
    assert not [key for key in run.state.pending if key.startswith("timer:retry")]


def test_task_and_stage_can_be_cancelled_alone(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert "has not begun" in say(run, "cancel", stage="two")
    assert say(run, "cancel", stage="one", reason="enough") == ""
    run.fail(Failure("CANCELLED", ""), path("one/x"))
    assert run.state.stages["one"].status == "cancelled"
    other = Driven(three(compile_stages, "auto"), registry)
    assert say(other, "cancel", task="one/y") == ""
    other.succeed(path("one/x"))
    assert other.state.tasks[path("one/y")].status == "cancelled"
    assert other.state.finished


# --- the debugger ----------------------------------------------------------------------------------------------------


def test_debugged_run_stops_before_its_first_task_and_goes_step_by_step(
    registry: Registry, compile_stages: Compile
) -> None:
    run = Driven(debugged(compile_stages), registry)
    stops = []
    while not run.state.finished:
        stops.append(held(run))
        assert going(run) == []
        assert say(run, "step") == ""
        (name,) = going(run)
        run.succeed(path(name))
    assert stops == [["one/x"], ["one/y"], ["two/z"]]


def debugged(compile_stages: Compile) -> Plan:
    return three(compile_stages, "debug")


def test_next_goes_to_the_next_stage_and_continue_to_the_end(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(debugged(compile_stages), registry)
    assert say(run, "next") == ""
    run.succeed(path("one/x"))
    run.succeed(path("one/y"))
    assert held(run) == ["two/z"]
    assert say(run, "continue") == ""
    run.succeed(path("two/z"))
    assert run.state.status == "succeeded"


def test_breakpoints_stop_where_and_when_they_say(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(debugged(compile_stages), registry)
    assert "no task or stage of the definition" in say(run, "break", id="1", place="one/nothing")
    assert "Did you mean" in say(run, "break", id="1", place="one/zz")
    assert "has no task 'q'" in say(run, "break", id="1", place="two.z", when="stages.one.q.outputs.n > 1")
    assert say(run, "break", id="1", place="one.y", when="stages.one.x.outputs.n > 1 && task.action == 'y'") == ""
    assert say(run, "break", id="2", place="two", once=True) == ""
    assert say(run, "continue") == ""
    run.succeed(path("one/x"), n=2)
    hold = run.state.tasks[path("one/y")].hold
    assert hold is not None
    assert (hold.kind, hold.show) == ("breakpoint", {"breakpoint": "1"})
    say(run, "continue")
    run.succeed(path("one/y"))
    assert held(run) == ["two/z"]
    assert list(run.state.debugging.breakpoints) == ["1"]
    assert "no breakpoint '2'" in say(run, "clear", id="2")
    assert say(run, "clear", id="1") == ""


def test_breakpoint_whose_condition_is_false_does_not_stop(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(debugged(compile_stages), registry)
    say(run, "break", id="1", place="one/y", when="stages.one.x.outputs.n > 1")
    say(run, "continue")
    run.succeed(path("one/x"), n=1)
    assert going(run) == ["one/y"]


def test_until_runs_to_a_task(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(debugged(compile_stages), registry)
    assert say(run, "until", place="two/z") == ""
    run.succeed(path("one/x"))
    run.succeed(path("one/y"))
    assert held(run) == ["two/z"]


@pytest.mark.parametrize("choice", ["continue", "retry", "skip", "override", "fail"])
def test_break_on_failure_stops_before_the_chain_is_asked(
    registry: Registry, compile_stages: Compile, choice: str
) -> None:
    plan = compile_stages(
        {
            "name": "s",
            "type": "sequential",
            "tasks": [task("x", recovery=[{"degrade": {"outputs": {"v": 0}}}])],
        },
        mode="debug",
    )
    run = Driven(plan, registry)
    assert say(run, "break", id="f", on="failure") == ""
    assert say(run, "continue") == ""
    run.fail(Failure("BROKEN", "no"), path("s/x"))
    node = run.state.tasks[path("s/x")]
    assert node.hold is not None
    assert (node.hold.kind, held(run)) == ("failure", ["s/x"])
    kind, body = ("continue", {}) if choice == "continue" else ("answer", {"choice": choice})
    outputs = {"outputs": {"v": 1}} if choice == "override" else {}
    assert say(run, kind, task="s/x", **body, **outputs) == ""
    expected = {
        "continue": ("succeeded", {"v": 0}),
        "retry": ("running", None),
        "skip": ("skipped", None),
        "override": ("succeeded", {"v": 1}),
        "fail": ("failed", None),
    }
    assert (node.status, node.outputs) == expected[choice]


def test_mode_is_switched_while_the_run_goes_on(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "auto"), registry)
    assert "which does not stop" in say(run, "step")
    assert "mode 'debig' is not known" in say(run, "mode", mode="debig")
    assert "already" in say(run, "mode", mode="auto")
    assert say(run, "mode", mode="debug") == ""
    run.succeed(path("one/x"))
    assert held(run) == ["one/y"]
    assert say(run, "mode", mode="auto") == ""
    assert going(run) == ["one/y"], "nobody steps any more"
    run.succeed(path("one/y"))
    assert going(run) == ["two/z"]


def test_breakpoint_does_not_stand_for_an_approval(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "debug", approval=ApprovalPlan(approvers=("ann",))), registry)
    assert "another reason (step)" in say(run, "approve", task="one/x")
    assert say(run, "step") == ""
    hold = run.state.tasks[path("one/x")].hold
    assert hold is not None
    assert hold.kind == "approval"
    assert say(run, "approve", task="one/x") == ""
    assert going(run) == ["one/x"]


def test_workflow_waits_for_people_where_its_sub_workflow_does(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "workflow:\n  name: child\n"
        "  stages: [{name: s, type: sequential, tasks: [{agent: a, action: x, approval: ok?}]}]\n"
    )
    (tmp_path / "parent.yaml").write_text(
        "workflow:\n  name: parent\n  stages: [{name: s, type: sequential, tasks: [{workflow: child.yaml}]}]\n"
    )
    assert load_plan(tmp_path / "parent.yaml", registry=registry).mode == "supervised"


def test_run_that_will_try_again_by_itself_does_not_wait_for_a_person_alone(
    registry: Registry, compile_stages: Compile
) -> None:
    tasks = [task("x", recovery=["ask"]), task("y", recovery=[{"retry": {"delay_s": 600}}])]
    run = Driven(compile_stages({"name": "s", "type": "parallel", "tasks": tasks}), registry)
    run.fail(Failure("BROKEN", "no", retryable=True), path("s/x"))
    run.fail(Failure("BROKEN", "no", retryable=True), path("s/y"))
    assert not run.state.waiting
    run.fire("retry:s/y")
    run.succeed(path("s/y"))
    assert run.state.waiting


def test_task_that_was_cancelled_while_it_was_held_cannot_be_approved(
    registry: Registry, compile_stages: Compile
) -> None:
    tasks = [task("gate", approval={"timeout": "1h"}), task("bad")]
    stages = [
        {"name": "s", "type": "parallel", "tasks": tasks},
        {"name": "slow", "type": "sequential", "tasks": [task("long")]},
    ]
    run = Driven(compile_stages(*stages), registry)
    run.fail(Failure("BROKEN", "no"), path("s/bad"))
    assert held(run) == []
    assert "timer:hold:s/gate" not in run.state.pending
    assert "waits for no such answer, it is cancelled" in say(run, "approve", task="s/gate")
    assert going(run) == ["slow/long"]


def test_another_try_that_a_person_wants_is_of_what_the_definition_says(
    registry: Registry, compile_stages: Compile
) -> None:
    chain = [{"fallback": [{"agent": "b", "inputs": {"n": 1}}]}, "ask"]
    run = Driven(compile_stages({"name": "s", "type": "sequential", "tasks": [task("x", recovery=chain)]}), registry)
    node = run.state.tasks[path("s/x")]
    for _ in range(2):
        assert (node.agent, node.inputs) == ("a", {})
        run.fail(Failure("BROKEN", "no"), path("s/x"))
        assert (node.agent, node.inputs) == ("b", {"n": 1})
        run.fail(Failure("BROKEN", "no"), path("s/x"))
        assert say(run, "answer", task="s/x", choice="retry") == ""


def test_user_who_is_called_nobody_is_one_person(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(three(compile_stages, "supervised", approval=ApprovalPlan(quorum=2)), registry)
    assert say(run, "approve", "nobody", task="one/x") == ""
    assert held(run) == ["one/x"]


def test_who_is_asked_sees_what_was_changed(registry: Registry, compile_stages: Compile) -> None:
    show = {"n": snippet("task.inputs.n", ["task"], {})}
    plan = three(compile_stages, "supervised", approval=ApprovalPlan(quorum=2, show=show), inputs={"n": 1})
    run = Driven(plan, registry)
    assert say(run, "approve", "ann", task="one/x") == ""
    assert say(run, "edit", "bob", task="one/x", inputs={"n": 2}) == ""
    node = run.state.tasks[path("one/x")]
    assert node.hold is not None
    assert (node.hold.show, node.approvals) == ({"n": 2}, ())


def test_what_follows_a_task_that_is_skipped_beforehand_still_waits_for_what_comes_before(
    registry: Registry, compile_stages: Compile
) -> None:
    plan = compile_stages({"name": "s", "type": "sequential", "tasks": [task("x"), task("y"), task("z")]})
    run = Driven(plan, registry)
    assert say(run, "skip", task="s/y") == ""
    assert going(run) == ["s/x"]
    run.succeed(path("s/x"))
    assert (run.state.tasks[path("s/y")].status, going(run)) == ("skipped", ["s/z"])


class Broken(Mode):
    """A mode of somebody else's that does what it must not."""

    name = "broken"
    watches = True

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def gate(self, gate: Gate) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def resolves(self, hold: Hold) -> Any:
        raise RuntimeError("no idea")


@pytest.mark.parametrize(("answer", "said"), [(RuntimeError("oh"), "RuntimeError: oh"), (42, "42")])
def test_mode_that_raises_or_answers_nonsense_fails_the_task_and_is_named(
    registry: Registry, compile_stages: Compile, answer: object, said: str
) -> None:
    run = Driven(in_mode(registry, compile_stages, Broken(answer)), registry)
    assert run.state.status == "failed"
    assert run.state.failure is not None
    assert "mode 'broken'" in run.state.failure.message
    assert said in run.state.failure.message


def test_hold_that_a_mode_cannot_answer_waits_for_a_person(registry: Registry, compile_stages: Compile) -> None:
    run = Driven(in_mode(registry, compile_stages, Broken(Hold(kind="policy"))), registry)
    assert held(run) == ["one/x"]


def in_mode(registry: Registry, compile_stages: Compile, mode: Mode) -> Plan:
    class Plugin:
        @hookimpl
        def noa_modes(self) -> list[Mode]:
            return [mode]

    registry.register(Plugin(), "test-mode")
    return three(compile_stages, mode.name)


def test_task_that_is_to_be_tried_again_in_auto_mode_is_paced_by_its_time(
    registry: Registry, compile_stages: Compile
) -> None:
    x = task("x", recovery=[{"ask": {"timeout": "1h", "on_timeout": "retry"}}])
    run = Driven(compile_stages({"name": "s", "type": "sequential", "tasks": [x]}, mode="auto"), registry)
    began_ms = run.now_ms
    run.fail(Failure("BROKEN", "no"), path("s/x"))
    assert going(run) == []
    run.fire("hold:s/x")
    assert (going(run), run.now_ms - began_ms) == (["s/x"], 3_600_000)


def test_every_signal_that_is_judged_is_applied() -> None:
    assert signals._CHECKS.keys() == interventions.APPLIED.keys()
