"""What is printed while a run goes on: lines in a pipe, a drawing on a terminal."""

import io
from collections.abc import Callable

import pytest

from noa.cli.lines import LineWatch, progress_text
from noa.cli.live import draw
from noa.cli.text import age, columns, duration, one_line, short_json
from noa.model.events import AttemptFailed, TaskScheduled
from noa.model.execution import Log, Outcome, Progress, Stage, Succeeded, Waiting
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.monitoring.progress import ProgressModel
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation

Compile = Callable[..., Plan]
RUN = RunId("simulated")


def task(name: str, **keys: object) -> dict:
    return {"name": name, "agent": "a", "action": name, **keys}


def stage(name: str, *tasks: dict, type: str = "sequential", **keys: object) -> dict:
    return {"name": name, "type": type, "tasks": list(tasks), **keys}


def work(asked: Asked) -> Outcome:
    return Failure("BROKEN", "it broke") if asked.action == "bad" else Succeeded({})


def printed(plan: Plan, registry: Registry, *, verbose: bool = False) -> list[str]:
    stream = io.StringIO()
    watch = LineWatch(stream, verbose=verbose)
    watch.model = ProgressModel(plan, keep=2_000)
    for seq, event in enumerate(Simulation(plan, work, registry=registry).run().journal, 1):
        watch.on_event(RUN, seq, event)
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def test_each_stage_and_task_has_a_line_for_its_begin_and_its_end(compile_stages: Compile, registry: Registry) -> None:
    lines = printed(compile_stages(stage("s", task("x"), task("bad"), task("after"))), registry)
    words = [line.split(" in ")[0] for line in lines]
    assert words == [
        "w started: run simulated",
        "s started (3 tasks)",
        "s/x started on a",
        "s/x succeeded",
        "s/bad started on a",
        "s/bad attempt 1 failed: BROKEN: it broke",
        "s/bad failed",
        "s failed",
    ]


def test_single_tasks_of_a_large_stage_are_told_of_only_when_they_fail(
    compile_stages: Compile, registry: Registry
) -> None:
    tasks = [task(f"t{i}") for i in range(150)]
    plan = compile_stages(stage("s", *tasks, task("bad"), type="parallel", fail_fast=False))
    lines = printed(plan, registry)
    assert len(lines) < 10
    assert "s/bad attempt 1 failed: BROKEN: it broke" in lines
    assert len(printed(plan, registry, verbose=True)) > 300


def test_logs_are_shown_when_asked_for_and_warnings_always(compile_stages: Compile) -> None:
    for verbose, expected in ((False, ["careful"]), (True, ["hello there", "careful"])):
        stream = io.StringIO()
        watch = LineWatch(stream, verbose=verbose)
        watch.model = ProgressModel(compile_stages(stage("s", task("x"))))
        watch.run_id = RUN
        path = TaskPath("s/x")
        watch.model.apply(TaskScheduled(at_ms=1, task=path, attempt=1))
        watch.model.observe(path, 1, Stage("running"))
        watch.on_observation(RUN, path, 1, Log("info", "hello\n\x1b[31mthere", 5))
        watch.on_observation(RUN, path, 1, Log("warning", "careful", 6))
        watch.on_observation(RunId("another"), path, 1, Log("error", "not mine", 6))
        assert [
            line.split(": ")[1].replace(" [31m", " ") for line in stream.getvalue().splitlines() if ": " in line
        ] == expected


def test_progress_is_printed_at_most_every_five_seconds(
    compile_stages: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    watch = LineWatch(stream)
    watch.model = ProgressModel(compile_stages(stage("s", task("x"))))
    watch.run_id = RUN
    path = TaskPath("s/x")
    watch.model.apply(TaskScheduled(at_ms=1_000, task=path, attempt=1))
    for now_ms in range(1_000, 17_000, 100):
        monkeypatch.setattr("noa.cli.watch.now_ms", lambda now_ms=now_ms: now_ms)
        watch.on_observation(RUN, path, 1, Progress(now_ms / 20_000))
    assert [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()] == [
        "s/x started on a",
        "s/x 30 %",
        "s/x 55 %",
        "s/x 80 %",
    ]


def test_a_reader_that_went_away_does_not_stop_the_run(compile_stages: Compile, registry: Registry) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    plan = compile_stages(stage("s", task("x")))
    watch = LineWatch(Gone())
    watch.model = ProgressModel(plan)
    for seq, event in enumerate(Simulation(plan, work, registry=registry).run().journal, 1):
        watch.on_event(RUN, seq, event)
    assert watch.model.status == "succeeded"


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0.404), "40 %"),
        (Progress(None, "hashing", 400, 1000, "files"), "40 % (400 of 1,000 files) hashing"),
        (Progress(None, "", 7, None, "files"), "7 files"),
        (Progress(3.0), "100 %"),
        (Progress(), "is working"),
    ],
)
def test_progress_in_words(progress: Progress, text: str) -> None:
    assert progress_text(progress) == text


@pytest.mark.parametrize(("width", "height"), [(20, 6), (40, 10), (80, 24), (200, 60)])
def test_a_drawing_never_leaves_the_terminal(
    compile_stages: Compile, registry: Registry, width: int, height: int
) -> None:
    stages = [
        stage(f"stage-{i}", *[task(f"task-{j}") for j in range(i * 12)], task("bad"), type="parallel", fail_fast=False)
        for i in range(8)
    ]
    plan = compile_stages(*stages)
    model = ProgressModel(plan, keep=20)
    done = Simulation(plan, work, registry=registry).run()
    for event in done.journal:
        model.apply(event)
        lines = draw(model, event.at_ms, width=width, height=height)
        assert len(lines) <= height
        assert all(line.cell_len <= width for line in lines)


@pytest.mark.parametrize(("width", "rate"), [(100, True), (78, False)])
def test_the_id_of_a_run_is_whole_where_it_fits_and_the_rate_goes_first(
    compile_stages: Compile, registry: Registry, width: int, rate: bool
) -> None:
    plan = compile_stages(stage("s", *[task(f"t{i}") for i in range(9)]))
    model = ProgressModel(plan)
    journal = Simulation(plan, work, registry=registry).run().journal
    for event in journal:
        model.apply(event)
    model.run_id = RunId("20261122-230924-qjwtgd-and-so-on-to-the-end")
    head = draw(model, journal[-1].at_ms, width=width, height=20)[0].plain
    assert head.endswith(model.run_id)
    assert ("/s" in head) is rate, head


def test_a_small_run_is_drawn_with_every_task(compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), type="parallel"), stage("t", task("z"), depends_on=["s"]))
    model = ProgressModel(plan)
    path = TaskPath("s/x")
    model.apply(TaskScheduled(at_ms=1_000, task=path, attempt=1))
    model.observe(path, 1, Progress(0.5, "hashing", 5, 10, "files"))
    text = [line.plain for line in draw(model, 3_000, width=100, height=20)]
    assert text[2:] == [
        "· s  parallel",
        "   ⠋ x  a  2.0 s  ━━━━━━━━━━━━━━━━━━━━  50 % (5 of 10 files) hashing",
        "   · y  a",
        "· t  sequential",
        "   · z  a",
    ]


def test_a_task_that_only_waits_is_drawn_as_queued_with_what_it_waits_for(compile_stages: Compile) -> None:
    plan = compile_stages(stage("s", task("x"), task("y"), type="parallel"))
    model = ProgressModel(plan)
    for name in ("s/x", "s/y"):
        model.apply(TaskScheduled(at_ms=1_000, task=TaskPath(name), attempt=1))
    model.observe(TaskPath("s/x"), 1, Waiting("resource", "1 of gpu"))
    text = [line.plain for line in draw(model, 3_000, width=100, height=20)]
    assert text[3:] == ["   … x  a  2.0 s  queued: waits for 1 of gpu", "   … y  a  2.0 s  queued"]


def test_a_task_is_said_to_start_when_its_agent_begins_and_not_when_it_waits(compile_stages: Compile) -> None:
    stream = io.StringIO()
    watch = LineWatch(stream)
    watch.model, watch.run_id = ProgressModel(compile_stages(stage("s", task("x"), task("y"), type="parallel"))), RUN
    x, y = TaskPath("s/x"), TaskPath("s/y")
    for seq, path in enumerate((x, y), 1):
        watch.on_event(RUN, seq, TaskScheduled(at_ms=1_000, task=path, attempt=1))
        watch.on_observation(RUN, path, 1, Waiting("resource", "1 of gpu"))
    assert stream.getvalue() == ""
    watch.on_observation(RUN, x, 1, Stage("running"))
    watch.on_observation(RUN, x, 1, Stage("running"))
    watch.on_event(RUN, 3, AttemptFailed(at_ms=2_000, task=y, attempt=1, failure=Failure("QUEUE_TIMEOUT", "waited")))
    assert [line.partition(" ")[2] for line in stream.getvalue().splitlines()] == [
        "s/x started on a",
        "s/y attempt 1 failed: QUEUE_TIMEOUT: waited",
    ]


@pytest.mark.parametrize(
    ("ms", "text"), [(12, "12 ms"), (1_234, "1.2 s"), (185_000, "3 min 05 s"), (7_620_000, "2 h 07 min")]
)
def test_durations_in_words(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_small_words() -> None:
    assert age(0, 65_000) == "1 min ago"
    assert columns([["a", "b"], ["long", "c"]]) == ["a     b", "long  c"]
    assert one_line("a\n\x1b[0m b\tc") == "a [0m b c"
    assert short_json({"a": "x" * 500}, 20) == '{"a": "xxxxxxxxxxxx…'
