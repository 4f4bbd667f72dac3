"""What people are shown when something was recovered: holds, kept outputs, fallbacks, rollbacks, reopened runs."""

import io
from collections.abc import Callable, Iterable

import click
import pytest

from noa.cli.lines import LineWatch
from noa.cli.live import LiveWatch, draw
from noa.cli.people import People, Question, answer_command, question_lines, questions_of
from noa.cli.remarks import intervention, remark
from noa.cli.summary import exit_code, result_dict, summary_lines, waiting_lines
from noa.cli.watch import choose_watch
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Event,
    Hold,
    HoldResolved,
    Recall,
    Recalled,
    RecoveryChosen,
    RollbackStarted,
    RunCreated,
    RunReopened,
    RunResumed,
    SignalApplied,
    SignalRefused,
    StageHeld,
    StageStarted,
    Substitute,
    TaskHeld,
    TaskScheduled,
    TimerFired,
)
from noa.model.execution import Outcome, Stage, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel, TaskView
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation, StuckError

Compile = Callable[..., Plan]
RUN = RunId("simulated")
X = TaskPath("s/x")
BROKEN = Failure("BROKEN", "it broke")


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def failing(*actions: str) -> Callable[[Asked], Outcome]:
    return lambda asked: BROKEN if asked.action in actions else Succeeded({})


def ran(plan: Plan, registry: Registry, *bad: str, history: Iterable[Event] = ()) -> Simulation:
    """Run to the end, or until nothing but people moves it on."""
    simulation = Simulation(plan, failing(*bad), registry=registry, history=history)
    try:
        return simulation.run()
    except StuckError:
        assert simulation.state.waiting
        return simulation


def folded(plan: Plan | None, events: Iterable[Event], *, keep: int | None = None) -> ProgressModel:
    model = ProgressModel(plan, keep=keep)
    for event in events:
        model.apply(event)
    return model


def printed(plan: Plan, events: Iterable[Event]) -> list[str]:
    stream = io.StringIO()
    watch = LineWatch(stream)
    watch.model = ProgressModel(plan)
    watch.run_id = RUN
    for seq, event in enumerate(events, 1):
        watch.on_event(RUN, seq, event)
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def text_of(lines: Iterable[str]) -> str:
    return click.unstyle("\n".join(lines))


def drawn(model: ProgressModel, now_ms: int) -> list[str]:
    return [line.plain for line in draw(model, now_ms, width=120, height=30)]


ASK = [{"ask": {"question": "Again? ${{ failure.message }}", "choices": ["retry", "skip"]}}]


@pytest.fixture
def held(compile_stages: Compile, registry: Registry) -> tuple[Plan, Simulation]:
    plan = compile_stages(stage("s", task("x", recovery=ASK), task("y")))
    return plan, ran(plan, registry, "x")


# --- holds


def test_a_held_task_is_a_question_with_the_command_that_answers_it(held: tuple[Plan, Simulation]) -> None:
    _, done = held
    (question,) = questions_of(done.state)
    assert (question.task, question.text, question.choices) == (X, "Again? it broke", ("retry", "skip"))
    lines = question_lines(question, question.since_ms + 90_000, "")
    assert lines == [
        "s/x waits for a person since 1 min 30 s: Again? it broke",
        "  failed with   BROKEN: it broke",
        "  answer with   noa answer simulated s/x retry   (or: skip)",
    ]
    assert question.to_dict()["answer_with"] == "noa answer simulated s/x retry"
    waiting = text_of(waiting_lines(done.state, [question], question.since_ms))
    assert "waits for a person after" in waiting
    assert "noa resume simulated" in waiting
    assert result_dict(done.state, [question])["status"] == "waiting"


def test_a_question_with_a_time_says_what_counts_when_nobody_answers() -> None:
    question = Question(RUN, X, "", ("override", "fail"), 1_000, "fail", 61_000)
    assert question_lines(question, 1_000)[0].endswith("what is to be done?")
    assert question_lines(question, 1_000)[-1] == "    otherwise     'fail' counts in 1 min 00 s"


def test_commands_are_typed_as_they_are_printed() -> None:
    assert answer_command("r", "s[3]/x", ("override", "skip")) == "noa answer r 's[3]/x' override --outputs '{}'"
    assert answer_command("r", "s/x~compensate", ("skip",)) == "noa answer r 's/x~compensate' skip"


def test_a_held_task_is_held_in_every_view(held: tuple[Plan, Simulation]) -> None:
    plan, done = held
    model = folded(plan, done.journal)
    view = model.task(X)
    assert (view.status, view.held.question, view.held.choices) == ("held", "Again? it broke", ("retry", "skip"))
    assert (model.phase, list(model.stages["s"].held)) == ("waiting for a person", [X])
    assert drawn(model, done.state.now_ms)[0].count("waiting for a person") == 1
    assert any("? x" in line and "waits for a person: Again? it broke" in line for line in drawn(model, 0))


@pytest.mark.parametrize(
    ("choice", "status", "reason"),
    [
        ("skip", "skipped", "skipped by ann: tired"),
        ("override", "succeeded", "outputs given by ann: tired"),
        ("fail", "failed", "'fail' was answered by ann: tired"),
        ("retry", "queued", ""),
    ],
)
def test_an_answer_is_shown_with_who_gave_it_and_why(
    compile_stages: Compile, registry: Registry, choice: str, status: str, reason: str
) -> None:
    plan = compile_stages(stage("s", task("x", recovery=[{"ask": {}}]), task("y")))
    done = ran(plan, registry, "x")
    body = {"choice": choice, "outputs": {"n": 1}}
    answered = SignalApplied(at_ms=2_000_000, signal="1", kind="answer", actor="ann", reason="tired", task=X, body=body)
    model = folded(plan, [*done.journal, answered])
    again = Simulation(plan, failing(), registry=registry, history=[*done.journal, answered])
    again.run(stop_after=len(done.journal) + 2)
    for event in again.journal[len(done.journal) + 1 :]:
        model.apply(event)
    assert (model.task(X).status, model.task(X).reason) == (status, reason)
    assert model.task(X).held is None
    assert [intervention(done) for done in model.interventions] == [f"ann answered '{choice}' for s/x: tired"]
    assert f"ann answered '{choice}' for s/x: tired" in printed(plan, [*done.journal, answered])


def test_a_question_that_nobody_answered_in_time_says_so(compile_stages: Compile, registry: Registry) -> None:
    asked = {"ask": {"timeout": 60, "on_timeout": "skip", "choices": ["retry", "skip"]}}
    plan = compile_stages(stage("s", task("x", recovery=[asked])))
    done = ran(plan, registry, "x")
    assert done.state.status == "succeeded"
    assert folded(plan, done.journal).task(X).reason == "skipped: nobody answered in time"


def test_a_refused_signal_says_who_sent_it_and_why_it_was_not_done(held: tuple[Plan, Simulation]) -> None:
    plan, done = held
    refused = SignalRefused(at_ms=9, signal="2", kind="answer", why="s/y is not held", actor="bob", task="s/y")
    line = printed(plan, [*done.journal, refused])[-1]
    assert line == "bob said 'answer' for s/y, which was refused: s/y is not held"


def test_lines_ask_once_and_live_views_as_long_as_it_is_open(held: tuple[Plan, Simulation]) -> None:
    plan, done = held
    stream = io.StringIO()
    watch = LineWatch(stream)
    watch.model = folded(plan, done.journal)
    questions = questions_of(done.state)
    watch.asked(questions)
    watch.asked(questions)
    watch.asked([])
    assert stream.getvalue().count("noa answer simulated s/x retry") == 1


async def test_a_terminal_shows_below_the_drawing_how_each_question_is_answered(held: tuple[Plan, Simulation]) -> None:
    plan, done = held
    stream = io.StringIO()
    watch = LiveWatch(stream)
    watch.model = folded(plan, done.journal)
    watch.asked([*questions_of(done.state)] * 4)
    async with watch:
        pass
    text = stream.getvalue()
    assert text.count("answer with   noa answer simulated s/x retry") == 3
    assert "and 1 more: noa why simulated" in text


def test_a_quiet_run_says_nothing_but_what_a_person_is_asked(
    held: tuple[Plan, Simulation], capsys: pytest.CaptureFixture[str]
) -> None:
    _, done = held
    watch = choose_watch(as_json=False, quiet=True, verbose=False)
    watch.asked(questions_of(done.state))
    watch.asked(questions_of(done.state))
    watch.tell("took over another run")
    out, err = capsys.readouterr()
    assert (out, err.count("noa answer simulated s/x retry"), "took over" in err) == ("", 1, False)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [("approve", "held", ""), ("reject", "failed", "'reject' was answered by mode auto"), ("continue", "pending", "")],
)
def test_a_task_that_is_held_before_it_begins_is_held_in_the_view(answer: str, status: str, reason: str) -> None:
    hold = Hold(question="ship it?", kind="approval", choices=["approve", "reject"])
    model = folded(None, [TaskHeld(at_ms=5, task=X, hold=hold)])
    assert (model.task(X).status, model.task(X).held.choices) == ("held", ("approve", "reject"))
    model.apply(HoldResolved(at_ms=6, subject=X, answer=answer, by="mode auto"))
    assert (model.task(X).status, model.task(X).reason) == (status, reason)


def test_a_stage_that_is_held_says_what_is_asked() -> None:
    events = [
        RunCreated(at_ms=1, run_id=RUN, workflow="w", version="1", definitions={}),
        StageHeld(at_ms=5, stage="s", hold=Hold(question="begin?", kind="approval")),
    ]
    model = folded(None, events)
    assert (model.phase, model.stages["s"].status, model.stages["s"].reason) == (
        "waiting for a person",
        "held",
        "begin?",
    )
    assert any("? s  begin?" in line for line in drawn(model, 9))
    model.apply(StageStarted(at_ms=7, stage="s"))
    assert (model.stages["s"].status, model.stages["s"].reason) == ("running", "")


class Engine:
    """The runs that go on, as `noa.engine.Engine` has them."""

    def __init__(self, *done: Simulation) -> None:
        self.runs = {d.state.run_id: d for d in done}

    def running(self, run: str) -> Simulation | None:
        return self.runs.get(RunId(run))


def test_a_run_is_alone_with_people_only_where_nothing_else_moves_it(
    compile_stages: Compile, registry: Registry, held: tuple[Plan, Simulation]
) -> None:
    _, waiting = held
    plan = compile_stages(stage("s", task("x", recovery=ASK), task("y"), type="parallel", fail_fast=False))
    begun = (Simulation(plan, failing("x"), registry=registry, seed=seed).run(stop_after=6) for seed in range(99))
    busy = next(d for d in begun if d.state.held and d.running == ["s/y"])
    for done, alone in ((waiting, [1]), (busy, [])):
        told: list[list[Question]] = []
        seen: list[int] = []
        people = People(asked=told.append, alone=lambda seen=seen: seen.append(1))
        done.run_id = done.state.run_id
        people.attend(Engine(done), done)
        assert [[q.task for q in questions] for questions in told] == [[X]]
        assert seen == alone


# --- kept outputs, fallbacks, second attempts


def test_outputs_of_an_earlier_run_are_named_with_their_age() -> None:
    hour = 3_600_000
    model = folded(
        None,
        [
            RunCreated(at_ms=1, run_id=RUN, workflow="w", version="1", definitions={}),
            TaskScheduled(at_ms=2, task=X, attempt=1),
            AttemptFailed(at_ms=3, task=X, attempt=1, failure=BROKEN),
            RecoveryChosen(at_ms=4, task=X, attempt=1, strategy="0:degrade", decision=Recall()),
            Recalled(at_ms=5 * hour, task=X, attempt=1, found=True, run="old", made_at_ms=2 * hour),
        ],
    )
    view = model.task(X)
    assert (view.status, view.degraded) == ("succeeded", True)
    assert remark(view, 5 * hour) == (
        "took outputs of run old (made 3 h ago); degraded by degrade after BROKEN: it broke"
    )


def test_a_cached_task_is_not_degraded_and_one_that_found_nothing_is_executed() -> None:
    asked = TaskScheduled(at_ms=2, task=X, attempt=1, cache_key="k")
    found = folded(None, [asked, Recalled(at_ms=9, task=X, attempt=1, found=True, run="old", made_at_ms=9)]).task(X)
    assert (found.status, found.degraded, found.taken_from) == ("succeeded", False, "old")
    missed = folded(None, [asked, Recalled(at_ms=9, task=X, attempt=1)]).task(X)
    assert (missed.status, missed.taken_from) == ("queued", "")


def test_a_fallback_names_who_is_asked_instead(compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x")))
    events = [
        TaskScheduled(at_ms=2, task=X, attempt=1),
        AttemptFailed(at_ms=3, task=X, attempt=1, failure=BROKEN),
        RecoveryChosen(at_ms=4, task=X, attempt=1, strategy="0:fallback", decision=Substitute(agent="b")),
        TaskScheduled(at_ms=5, task=X, attempt=2, agent="b"),
        AttemptSucceeded(at_ms=6, task=X, attempt=2),
    ]
    assert folded(plan, events).task(X).fallback == "agent 'b' instead of 'a'"
    lines = printed(plan, events)
    assert "s/x falls back to agent 'b' instead of 'a'" in lines
    assert lines[-1] == "s/x succeeded in 4 ms (agent 'b' instead of 'a')"


@pytest.mark.parametrize(("failed", "goes_on"), [(1, 2), (2, 1)])
def test_the_failure_of_one_of_two_attempts_leaves_the_other(
    compile_stages: Compile, failed: int, goes_on: int
) -> None:
    plan = compile_stages(stage("s", task("x")))
    events: list[Event] = [
        TaskScheduled(at_ms=2, task=X, attempt=1, hedge_ms=5),
        TimerFired(at_ms=7, timer="hedge:s/x"),
    ]
    model = folded(plan, events)
    assert model.task(X).hedge == 2
    assert model.observe(X, 2, Stage("running")) is not None
    assert "s/x takes long: attempt 2 begins beside it" in printed(plan, events)
    model.apply(AttemptFailed(at_ms=8, task=X, attempt=failed, failure=BROKEN))
    assert (model.task(X).over, model.task(X).attempt, model.task(X).hedge) == (False, goes_on, 0)
    model.apply(AttemptSucceeded(at_ms=9, task=X, attempt=goes_on))
    assert model.task(X).status == "succeeded"


def test_what_is_remarkable_is_not_forgotten_in_a_large_stage(compile_stages: Compile, registry: Registry) -> None:
    degrade = {"recovery": [{"degrade": {"outputs": {"n": 0}}}]}
    tasks = [task(f"t{i}", **(degrade if i == 7 else {})) for i in range(30)]
    plan = compile_stages(stage("s", *tasks, type="parallel"))
    done = ran(plan, registry, "t7")
    model = folded(plan, done.journal, keep=10)
    assert list(model.stages["s"].tasks) == ["s/t7"]
    text = text_of(summary_lines(done.state, model))
    assert "succeeded, degraded, in" in text
    assert "s/t7  degraded by degrade after BROKEN: it broke" in text


# --- rollback


def undo(name: str, **keys: object) -> dict:
    return task(name, compensate={"agent": "a", "action": f"un{name}", "recovery": []}, **keys)


@pytest.fixture
def saga(compile_stages: Compile) -> Plan:
    return compile_stages(stage("s", undo("x"), undo("y"), task("z")), on_failure="rollback")


def test_a_rollback_is_told_of_task_by_task(saga: Plan, registry: Registry) -> None:
    done = ran(saga, registry, "z")
    assert done.state.status == "rolled_back"
    lines = [line.split(" in ")[0] for line in printed(saga, done.journal)]
    assert lines[lines.index("rolling back 2 tasks: BROKEN: it broke") + 1 :] == [
        "undo of s/y started on a",
        "s/y undone",
        "undo of s/x started on a",
        "s/x undone",
    ]
    model = folded(saga, done.journal)
    assert (model.total, model.rollback.total, model.rollback.status) == (3, 2, "succeeded")
    text = text_of(summary_lines(done.state, model))
    assert "rolled back" in text
    assert "2 undone" in text
    assert text.index("s/y") < text.index("s/x  "), "in the order in which they were undone"
    assert exit_code("rolled_back") == exit_code("rollback_failed") == 1
    assert result_dict(done.state)["rollback"] == {"s/y~compensate": "succeeded", "s/x~compensate": "succeeded"}


def test_what_is_left_of_a_rollback_is_named_with_how_it_goes_on(saga: Plan, registry: Registry) -> None:
    done = ran(saga, registry, "z", "uny")
    assert done.state.status == "rollback_failed"
    model = folded(saga, done.journal)
    text = text_of(summary_lines(done.state, model))
    assert "not undone" in text
    assert "s/y  BROKEN: it broke" in text
    assert "s/x  not begun, as what came after it could not be undone" in text
    assert "noa retry simulated    goes on undoing what is left" in text
    assert result_dict(done.state)["left"]

    reopened = RunReopened(at_ms=done.state.now_ms + 9, actor="ann", reason="mended", rollback=True)
    model.apply(reopened)
    assert (model.finished_ms, model.rollback.status, model.phase) == (0, "running", "rolling back")
    assert model.rollback.done == 0
    assert intervention(model.interventions[-1]) == "ann had the rollback go on: mended"


def test_a_rollback_is_drawn_below_the_stages(saga: Plan) -> None:
    events: list[Event] = [RunCreated(at_ms=1, run_id=RUN, workflow="w", version="1", definitions={})]
    for name in ("x", "y"):
        events.append(TaskScheduled(at_ms=2, task=TaskPath(f"s/{name}"), attempt=1))
        events.append(AttemptSucceeded(at_ms=3, task=TaskPath(f"s/{name}"), attempt=1))
    events.append(RollbackStarted(at_ms=4, failure=BROKEN))
    events.append(TaskScheduled(at_ms=5, task=TaskPath("s/y~compensate"), attempt=1))
    model = folded(saga, events)
    model.observe(TaskPath("s/y~compensate"), 1, Stage("running"))
    lines = drawn(model, 2_005)
    assert "rolling back" in lines[0]
    at = next(i for i, line in enumerate(lines) if "rollback" in line)
    assert [" ".join(line.split()[1:]) for line in lines[at + 1 :]] == ["s/x a", "s/y a 2.0 s"]


# --- reopened, forked


def test_a_reopened_run_shows_what_is_done_again_as_not_begun(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("one", task("x"), task("y"), task("z")), stage("two", task("w"), depends_on=["one"]))
    done = ran(plan, registry, "y")
    reopened = RunReopened(at_ms=done.state.now_ms + 5, actor="ann", reason="mended")
    events = [*done.journal, RunResumed(at_ms=reopened.at_ms, owner="o", fence=2), reopened]
    model = folded(plan, events)
    statuses = {p: t.status for s in model.stages.values() for p, t in s.tasks.items()}
    assert statuses == {"one/x": "succeeded", "one/y": "pending", "one/z": "pending", "two/w": "pending"}
    assert [s.status for s in model.stages.values()] == ["running", "pending"]
    assert sum(model.counts.values()) == model.total == 4
    assert printed(plan, events)[-1] == (
        "w goes on: run simulated, 1 task done before; ann had the run tried again: mended"
    )
    again = Simulation(plan, failing(), registry=registry, history=[*done.journal, reopened])
    again.run()
    for event in again.journal[len(done.journal) + 1 :]:
        model.apply(event)
    assert model.status == "succeeded"
    assert {t.status for t in model.iter_tasks()} == {"succeeded"}


def test_a_fork_counts_its_time_from_its_own_beginning() -> None:
    created = RunCreated(
        at_ms=1_000, run_id=RUN, workflow="w", version="1", definitions={}, forked_from="old", forked_at=4
    )
    model = folded(None, [created, RunResumed(at_ms=90_000, owner="o", fence=1)])
    assert (model.forked_from, model.forked_at, model.resumed) == ("old", 4, 0)
    assert model.duration_ms(91_000) == 1_000


def test_settling_takes_back_what_the_core_does_again(compile_stages: Compile, registry: Registry) -> None:
    plan = compile_stages(stage("s", task("x"), task("y")))
    model = folded(plan, ran(plan, registry).journal)
    model.settle({X: "pending", TaskPath("s/y"): "blocked"})
    assert (model.task(X).status, model.task(TaskPath("s/y")).status) == ("pending", "not_run")


def test_nothing_is_remarked_of_a_task_that_did_as_planned() -> None:
    assert remark(TaskView(X, "s", status="succeeded"), 0) == ""
    hold = RecoveryChosen(at_ms=4, task=X, attempt=1, strategy="0:ask", decision=Hold(timeout_ms=10))
    view = folded(None, [TaskScheduled(at_ms=2, task=X, attempt=1), hold]).task(X)
    assert (view.held.default, view.held.default_at_ms) == ("fail", 14)
    assert remark(view, 0) == "waits for a person: what is to be done?"
