"""What earlier runs teach: statistics, the order that follows from them, and what it gains."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks import learned_order

from noa.definitions import load_plan
from noa.engine.state import RunState
from noa.errors import JournalError
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Complete,
    Event,
    Hold,
    HoldResolved,
    RecoveryChosen,
    Retry,
    RunCreated,
    RunFinished,
    TaskFailed,
    TaskHeld,
)
from noa.model.execution import Stage
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.modes.learner import JournalLearner, forget, read_record
from noa.modes.learning import (
    KEPT_DURATIONS,
    KEPT_RUNS,
    PastRun,
    RunNotes,
    TaskNotes,
    TaskRecord,
    WorkflowRecord,
    decode_record,
    encode_record,
    expectations,
    percentile_of,
    revised,
)
from noa.modes.makespan import Load, estimate, judged, makespan_ms
from noa.modes.noticing import Noticing
from noa.plugin import Registry
from noa.runtime import Runtime
from noa.testing.memory_journal import MemoryJournal

REGISTRY = learned_order.registry()


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "waiter", "action": "wait", "inputs": {"seconds": 0}, **keys}


def plan_of(*stages: dict[str, Any], registry: Registry = REGISTRY, **workflow: Any) -> Plan:
    made = [{"type": "parallel", **stage} for stage in stages]
    return load_plan({"workflow": {"name": "w", "version": "1", "stages": made, **workflow}}, registry=registry)


TWO = plan_of({"name": "s", "tasks": [task("a"), task("b")]})


def notes(version: str = "1", past: PastRun | None = None, **durations_ms: list[int]) -> RunNotes:
    """Notes of a run whose tasks `s/<name>` succeeded in so long."""
    tasks = {}
    for name, found in durations_ms.items():
        tasks[f"s/{name}"] = made = TaskNotes()
        for duration_ms in found:
            made.attempts += 1
            made.succeeded(duration_ms, {})
    return RunNotes(version, tasks, past)


# --- statistics


def test_a_percentile_lies_between_the_values_beside_it() -> None:
    assert percentile_of([], 50) == 0
    assert percentile_of([7], 99) == 7
    assert percentile_of([40, 10, 30, 20], 50) == 25
    assert percentile_of(list(range(101)), 95) == 95


def test_expected_is_the_median_of_the_newest_durations_so_that_outliers_do_not_count() -> None:
    record = revised(WorkflowRecord(), [notes(a=[ms], b=[50]) for ms in (100, 110, 90, 60_000, 100)])
    assert expectations(record, TWO) == {"s/a": 100, "s/b": 50}
    record = revised(record, [notes(a=[300], b=[50])] * KEPT_DURATIONS)
    assert expectations(record, TWO)["s/a"] == 300
    assert len(record.tasks["s/a"].recent_ms) == KEPT_DURATIONS
    assert record.tasks["s/a"].count == KEPT_DURATIONS + 5


def test_nothing_is_expected_where_an_order_gains_nothing() -> None:
    assert expectations(WorkflowRecord(), TWO) == {}
    assert expectations(revised(WorkflowRecord(), [notes(a=[500])]), TWO) == {}, "one task is known"
    assert expectations(revised(WorkflowRecord(), [notes(a=[3], b=[19])]), TWO) == {}, "none takes a while"
    assert expectations(revised(WorkflowRecord(), [notes(x=[300], y=[400])]), TWO) == {}, "they are of other tasks"


def test_a_loop_is_expected_to_take_all_its_iterations() -> None:
    for at_once, expected in ((1, 1_200), (4, 300), (100, 100)):
        loop = {"name": "s", "type": "loop", "for_each": [1], "max_parallel": at_once, "tasks": [task("a")]}
        plan = plan_of(loop, {"name": "t", "tasks": [task("b")]})
        record = revised(WorkflowRecord(), [notes(a=[100] * 12)])
        record.tasks["t/b"] = TaskRecord(count=1, recent_ms=[40])
        assert expectations(record, plan) == {"s/a": expected, "t/b": 40}


def test_what_an_older_version_taught_counts_less() -> None:
    record = revised(WorkflowRecord(), [notes(a=[1_000], b=[1_000]) for _ in range(60)])
    record = revised(record, [notes("2", a=[10], b=[1_000]) for _ in range(9)])
    assert expectations(record, TWO)["s/a"] == 10, "nine of this version outweigh sixty of the one before"
    assert record.version == "2"
    assert record.tasks["s/a"].count == 39
    assert 10 < record.tasks["s/a"].mean_ms < 100


def test_a_task_that_runs_have_no_more_is_forgotten() -> None:
    record = revised(WorkflowRecord(), [notes(a=[100], gone=[100])])
    record = revised(record, [notes(a=[100]) for _ in range(19)])
    assert "s/gone" in record.tasks
    assert "s/gone" not in revised(record, [notes(a=[100])]).tasks


def test_a_record_stays_small_and_survives_its_encoding() -> None:
    runs = [notes(past=PastRun(f"run-{n}", n, "1", 1_000), a=[n] * 500) for n in range(200)]
    record = revised(WorkflowRecord(), runs)
    assert record.runs == 200
    assert [run.run_id for run in record.past] == [f"run-{n}" for n in range(200 - KEPT_RUNS, 200)]
    body = encode_record(record)
    assert decode_record(body) == record
    assert len(body) < 10_000
    assert decode_record(b"") == WorkflowRecord()
    for damaged, why in ((b"{", "truncated"), (b'{"format":99}', "format 99"), (b'{"runs":"x"}', "Expected `int`")):
        with pytest.raises(ValueError, match=why):
            decode_record(damaged)


# --- what a run says


class Watched:
    """A run whose events a test gives."""

    def __init__(self, *, whole: bool = True) -> None:
        self.handed: list[RunNotes] = []
        self.watch = Noticing("1", whole=whole, hand_in=self.handed.append)
        self.tell(RunCreated(at_ms=1_000, run_id="r", workflow="w", version="1", definitions={}))

    def tell(self, *events: Event) -> None:
        for event in events:
            self.watch.event(event)

    def works(self, path: str, *, queued_ms: int = 0, took_ms: int = 100, **metrics: float) -> None:
        begins_ms = 1_000 + queued_ms
        self.watch.observed(TaskPath(path), 1, Stage("queued"), 1_000)
        self.watch.observed(TaskPath(path), 1, Stage("running"), begins_ms)
        ended = AttemptSucceeded(
            at_ms=begins_ms + took_ms,
            task=TaskPath(path),
            attempt=1,
            duration_ms=queued_ms + took_ms,
            metrics=metrics,
        )
        self.tell(ended)

    def fails(self, path: str, attempt: int, code: str) -> None:
        failure = Failure(code, "it failed", retryable=True)
        self.tell(AttemptFailed(at_ms=1_000, task=TaskPath(path), attempt=attempt, failure=failure))

    def over(self, status: Any = "succeeded") -> RunNotes:
        state = RunState(TWO)
        state.apply(RunCreated(at_ms=1_000, run_id="r", workflow="w", version="1", definitions={}))
        state.apply(RunFinished(at_ms=4_500, status=status))
        self.watch.over(state)
        return self.handed[-1]


def test_waiting_for_an_agent_is_no_work_and_blocks_of_a_loop_are_one_task() -> None:
    run = Watched()
    run.works("s[0]/a", queued_ms=60_000, took_ms=100)
    run.works("s[1]/a", took_ms=140)
    run.works("s/b~compensate")
    found = run.over()
    assert list(found.tasks) == ["s/a"]
    assert found.tasks["s/a"].durations_ms == [100, 140]
    assert found.past is not None
    assert (found.past.makespan_ms, found.past.peak, found.past.learned) == (3_500, 1, False)


def test_what_agents_measure_is_kept() -> None:
    run = Watched()
    run.works("s[0]/a", cpu_time_s=0.5, peak_memory_bytes=1e6)
    run.works("s[1]/a", cpu_time_s=1.5, peak_memory_bytes=3e6)
    run.works("s[2]/a")
    record = revised(WorkflowRecord(), [run.over()])
    assert (record.tasks["s/a"].cpu_s, record.tasks["s/a"].peak_memory_bytes) == (1.0, 3e6)


def test_failures_are_counted_with_whether_a_retry_helped() -> None:
    run = Watched()
    retry = RecoveryChosen(at_ms=1, task=TaskPath("s/a"), attempt=1, strategy="retry", decision=Retry())
    run.fails("s/a", 1, "BUSY")
    run.tell(retry)
    run.works("s/a")
    for path in ("s[1]/b", "s[2]/b"):
        run.fails(path, 1, "BROKEN")
        run.tell(RecoveryChosen(at_ms=1, task=TaskPath(path), attempt=1, strategy="retry", decision=Retry()))
        run.fails(path, 2, "BROKEN")
        run.tell(RecoveryChosen(at_ms=1, task=TaskPath(path), attempt=2, strategy="degrade", decision=Complete()))
    run.tell(TaskFailed(at_ms=1, task=TaskPath("s[2]/b"), failure=Failure("BROKEN", "it failed")))
    run.fails("s/a", 3, "CANCELLED")
    found = run.over().tasks
    busy, broken = found["s/a"].failures["BUSY"], found["s/b"].failures["BROKEN"]
    assert (busy.count, busy.retried, busy.helped, busy.retryable) == (1, 1, 1, True)
    assert (broken.count, broken.retried, broken.helped) == (4, 2, 0)
    assert (found["s/a"].attempts, found["s/b"].attempts) == (2, 4)
    assert list(found["s/a"].failures) == ["BUSY"], "a cancelled attempt says nothing about the task"


def test_only_whole_runs_without_people_that_succeed_are_compared() -> None:
    assert Watched().over().past is not None
    assert Watched().over("failed").past is None
    assert Watched(whole=False).over().past is None
    held = Watched()
    held.tell(TaskHeld(at_ms=1, task=TaskPath("s/a"), hold=Hold(question="?")))
    assert held.over().past is None
    held.tell(HoldResolved(at_ms=1, subject="s/a", answer="approve", by="mode auto"))
    assert held.over().past is not None, "in auto mode nobody is waited for"


# --- the order and its makespan


def test_learned_order_is_within_a_tenth_of_the_bound_where_arrival_is_far_from_it() -> None:
    """The engine's core in virtual time, so these figures are the same on any machine; `compare` also checks the
    estimate of `noa optimize` against them."""
    rows = [
        learned_order.compare(REGISTRY, count, 8, 60_000, seed, chain_last=last)
        for count, seed, last in ((500, 0, True), (150, 1, False), (150, 2, False))
    ]
    for row in rows:
        assert row["learned"] <= 1.10
        assert row["learned_noisy"] <= 1.10
        assert row["arrival"] >= 1.25


def test_the_estimate_follows_stages_references_loops_and_limits() -> None:
    fan = {"name": "fan", "type": "loop", "for_each": [1], "max_parallel": 2, "depends_on": ["s"], "tasks": [task("i")]}
    plan = plan_of(
        {"name": "s", "max_parallel": 1, "tasks": [task("a"), task("b")]},
        fan,
        {"name": "t", "tasks": [task("c", inputs={"seconds": "${{ stages.s.a.outputs.x }}"})]},
        {"name": "last", "tasks": [task("d")], "depends_on": ["fan", "t"]},
    )
    load = Load({"s/a": 100, "s/b": 50, "fan/i": 30, "t/c": 1_000, "last/d": 7}, {"fan/i": 5.0})
    found = estimate(plan, load, {})
    assert found.arrival_ms == 100 + 1_000 + 7, "t/c waits for s/a, not for all of s"
    assert found.work_ms == 100 + 50 + 5 * 30 + 1_000 + 7
    assert found.critical_path_ms == found.bound_ms == found.arrival_ms
    expected = {"s/a": 100, "s/b": 50, "fan/i": 75, "t/c": 30, "last/d": 7}
    slow_loop = Load({**load.item_ms, "t/c": 30, "fan/i": 200}, load.per_run)
    assert makespan_ms(plan, slow_loop, expected) == 150 + 3 * 200 + 7, "two at a time are three rounds of five"
    one_slot = estimate(plan, Load(load.item_ms, load.per_run, capacity=1), expected)
    assert one_slot.arrival_ms == one_slot.learned_ms == one_slot.bound_ms == found.work_ms


def test_branches_that_no_run_took_and_unknown_tasks_are_guessed() -> None:
    branch = {"when": "true", "tasks": [task("a")]}
    plan = plan_of({"name": "s", "type": "conditional", "branches": [branch], "else": [task("b")]})
    assert makespan_ms(plan, Load({"s/b": 70}), {}) == 70
    assert makespan_ms(plan, Load({"s/a": 30}), {}) == 30
    assert makespan_ms(TWO, Load({"s/a": 30}), {}) == 30
    assert makespan_ms(TWO, Load({}), {}) == 0


LOSES = plan_of(
    {"name": "s", "tasks": [task("a"), task("b"), task("c")]},
    {"name": "fan", "type": "loop", "for_each": [1], "tasks": [task("i")]},
    max_parallel=2,
)
"""Each iteration of the loop gives its slot away before the next one stands in line."""


def losing() -> WorkflowRecord:
    record = WorkflowRecord(runs=1, version="1")
    for name, duration_ms, per_run in (("s/a", 300, 1), ("s/b", 300, 1), ("s/c", 600, 1), ("fan/i", 200, 6)):
        record.tasks[name] = TaskRecord(count=1, recent_ms=[duration_ms], per_run=per_run, seen=1)
    return record


def test_an_order_that_would_be_slower_than_none_is_not_applied() -> None:
    record = losing()
    load = Load({name: known.recent_ms[0] for name, known in record.tasks.items()}, {"fan/i": 6.0})
    assert makespan_ms(LOSES, load, expectations(record, LOSES)) > makespan_ms(LOSES, load, {})
    assert judged(record, LOSES).slower
    record.tasks["s/c"].recent_ms = [2_000]
    assert not judged(record, LOSES).slower, "what is learned later is judged anew"


# --- keeping it


@pytest.fixture
async def journal() -> AsyncIterator[MemoryJournal]:
    made = MemoryJournal()
    await made.open()
    yield made
    await made.close()


def run_over(learner: JournalLearner, plan: Plan = TWO, **durations_ms: int) -> None:
    """Let a learner see a run whose tasks take so long."""
    watch = learner.watch(plan, whole=True)
    state = RunState(plan)
    created = RunCreated(at_ms=1, run_id="r", workflow="w", version="1", definitions={})
    state.apply(created)
    watch.event(created)
    for name, duration_ms in durations_ms.items():
        watch.event(AttemptSucceeded(at_ms=2, task=TaskPath(f"s/{name}"), attempt=1, duration_ms=duration_ms))
    state.apply(RunFinished(at_ms=3_000, status="succeeded"))
    watch.over(state)


async def test_a_run_is_ordered_by_what_the_one_before_it_took(journal: MemoryJournal) -> None:
    learner = JournalLearner(journal)
    assert await learner.expected_ms(TWO, child=False) == {}
    run_over(learner, a=100, b=200)
    assert await learner.expected_ms(TWO, child=False) == {"s/a": 100, "s/b": 200}
    await learner.close()
    assert await JournalLearner(journal).expected_ms(TWO, child=True) == {"s/a": 100, "s/b": 200}


async def test_what_two_processes_learn_at_once_is_all_kept(journal: MemoryJournal) -> None:
    learners = [JournalLearner(journal) for _ in range(4)]
    for learner in learners:
        for _ in range(25):
            run_over(learner, a=100, b=200)
    for learner in learners:
        await learner.close()
    record, _ = await read_record(journal, "w")
    assert (record.runs, record.tasks["s/a"].count) == (100, 100)
    assert await forget(journal, "w")
    assert not await forget(journal, "w")
    assert await JournalLearner(journal).expected_ms(TWO, child=False) == {}


async def test_an_order_that_loses_is_not_given_to_runs(journal: MemoryJournal) -> None:
    record = losing()
    await journal.learn("w", encode_record(record), revision=0)
    learner = JournalLearner(journal)
    assert await learner.expected_ms(LOSES, child=False) != {}
    run_over(learner, LOSES, a=300, b=300, c=600)
    assert await learner.expected_ms(LOSES, child=False) == {}
    await learner.close()


async def test_a_record_that_cannot_be_read_counts_as_nothing_and_is_replaced(
    journal: MemoryJournal, caplog: pytest.LogCaptureFixture
) -> None:
    await journal.learn("w", b"\xff not json", revision=0)
    learner = JournalLearner(journal)
    with caplog.at_level(logging.WARNING, "noa.modes"):
        assert await learner.expected_ms(TWO, child=False) == {}
    assert "not readable" in caplog.text
    run_over(learner, a=100, b=200)
    await learner.close()
    assert (await read_record(journal, "w"))[0].runs == 1


class FailingJournal(MemoryJournal):
    async def learned(self, workflow: str) -> tuple[bytes, int]:
        raise JournalError("the disk is gone")


async def test_a_store_that_fails_is_never_in_the_way_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    journal = FailingJournal()
    await journal.open()
    learner = JournalLearner(journal)
    with caplog.at_level(logging.WARNING, "noa.modes"):
        assert await learner.expected_ms(TWO, child=False) == {}
        run_over(learner, a=100, b=200)
        await learner.close()
    assert caplog.text.count("the disk is gone") == 2


# --- through the engine


async def test_a_second_run_begins_with_the_longest_way_to_the_end(tmp_path: Path) -> None:
    """Real time, so the bound is wide; which tasks begin first is exact."""
    graph = learned_order.skewed(48, 4, 1_200, 3, chain_last=True)
    figures = await learned_order.real(REGISTRY, graph, 4)
    assert figures["learned"] <= 3.0, figures
    assert figures["first"][0][0] == "t", "the chain is last in the file"
    assert figures["first"][1][0] == "c", "and first in learned order"


async def test_learning_can_be_switched_off(tmp_path: Path) -> None:
    plan = plan_of({"name": "s", "tasks": [task("a", inputs={"seconds": 0.03}), task("b")]})
    async with Runtime(home=tmp_path, registry=REGISTRY, learn=False) as runtime:
        await runtime.run(plan)
        assert await runtime.journal.learned("w") == (b"", 0)
    async with Runtime(home=tmp_path, registry=REGISTRY, learn=True) as runtime:
        await runtime.run(plan)
        run = (await runtime.run(plan)).run_id
        created = (await runtime.journal.read(RunId(run), limit=1))[0][1]
        assert isinstance(created, RunCreated)
        assert created.expected_ms["s/a"] >= 29
    async with Runtime(home=tmp_path, registry=REGISTRY, learn=False) as runtime:
        created = (await runtime.journal.read(RunId((await runtime.run(plan)).run_id), limit=1))[0][1]
        assert isinstance(created, RunCreated)
        assert created.expected_ms == {}
