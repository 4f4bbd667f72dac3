"""The shell around the core: appends before it acts, ends what it started, resumes, hands over. Real SQLite."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from tests.engine.shells import Agents, Setup

from noa.engine.run import LiveRun
from noa.errors import ConflictError, InputError, JournalError, OwnershipError, RunNotFoundError, RunStateError
from noa.model.events import AttemptFailed, AttemptSucceeded, LateResult, encode_event
from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.plugin import Lease, Registry, SignalRecord
from noa.storage import SqliteJournal
from noa.testing.clock import FakeClock

Compile = Callable[..., Plan]


@pytest.fixture
async def setup(tmp_path: Path, registry: Registry) -> AsyncIterator[Setup]:
    made = Setup(tmp_path, registry)
    yield made
    await made.close()


def chain(*actions: str, **keys: object) -> dict:
    tasks = [{"name": action, "agent": "a", "action": action, **keys} for action in actions]
    return {"name": "s", "type": "sequential", "tasks": tasks}


def give(**outputs: Any) -> Callable[[Assignment], Outcome]:
    return lambda _assignment: Succeeded(outputs)


async def test_every_event_is_on_disk_before_what_it_causes_is_done(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    other = SqliteJournal(f"sqlite://{setup.folder / 'noa.db'}")
    await other.open()
    on_disk: list[list[str]] = []

    class Watching(Agents):
        async def execute(self, assignment: Assignment, observe: Any) -> Outcome:
            events = await other.read(assignment.run_id)
            on_disk.append([type(e).__name__ for _, e in events])
            return Succeeded({})

    engine._dispatcher = Watching()
    running = await engine.start(compile_stages(chain("x", "y")))
    await running.wait()
    await other.close()
    assert on_disk[0][-1] == "TaskScheduled"
    assert on_disk[1][-2:] == ["AttemptSucceeded", "TaskScheduled"], "one commit a task in a chain"


async def test_finished_run_is_released_by_the_agents_it_used(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give()}
    running = await engine.start(compile_stages(chain("x")))
    state = await running.wait()
    assert state.status == "succeeded"
    assert setup.agents.released == [(running.run_id, {"a"})]


async def test_events_reach_the_observer_in_order_and_after_the_commit(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(), "y": give()}
    running = await engine.start(compile_stages(chain("x", "y")))
    await running.wait()
    assert [seq for _, seq, _ in setup.seen] == list(range(1, len(setup.seen) + 1))


async def test_cancel_ends_the_run_and_what_goes_on(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain("x", "y")))
    await setup.agents.until_asked(1)
    await running.cancel(actor="me", reason="enough")
    state = await running.wait()
    assert state.status == "cancelled"
    assert [a.action for a in setup.agents.asked] == ["x"]


async def test_cancel_signal_of_another_process_is_picked_up(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain("x")))
    await setup.agents.until_asked(1)
    other = SqliteJournal(f"sqlite://{setup.folder / 'noa.db'}")
    await other.open()
    signal = SignalRecord("sig-1", running.run_id, "cancel", "ann", "wrong folder", {}, 1)
    assert await other.put_signal(signal)
    state = await asyncio.wait_for(running.wait(), 5)
    assert state.status == "cancelled"
    requested = next(e for _, _, e in setup.seen if type(e).__name__ == "CancelRequested")
    assert (requested.actor, requested.reason, requested.signal) == ("ann", "wrong folder", "sig-1")
    await other.close()


async def test_closed_engine_leaves_a_run_that_another_one_finishes(setup: Setup, compile_stages: Compile) -> None:
    plan = compile_stages(chain("x", "y"), outputs={"n": "${{ stages.s.x.outputs.n }}"})
    setup.agents.answers = {"x": give(n=5)}
    first = await setup.engine()
    running = await first.start(plan)
    await setup.agents.until_asked(2)
    await first.close()
    with pytest.raises(asyncio.CancelledError):
        await running.wait()
    second = await setup.engine()
    setup.agents.answers["y"] = give()
    again = await second.resume(running.run_id)
    state = await again.wait()
    assert state.outputs == {"n": 5}
    assert [a.action for a in setup.agents.asked] == ["x", "y", "y"]
    assert setup.agents.asked[1].execution_id == setup.agents.asked[2].execution_id, "asked for again under the same id"


async def test_run_of_a_live_engine_is_not_taken_over(setup: Setup, compile_stages: Compile) -> None:
    first = await setup.engine()
    running = await first.start(compile_stages(chain("x")))
    second = await setup.engine()
    with pytest.raises(OwnershipError):
        await second.resume(running.run_id)


async def test_engine_that_lost_its_lease_stops_and_writes_nothing_more(setup: Setup, compile_stages: Compile) -> None:
    plan = compile_stages(chain("x", "y"))
    first = await setup.engine(lease_ms=1)
    running = await first.start(plan)
    await setup.agents.until_asked(1)
    await asyncio.sleep(0.01)  # longer than the lease
    second = await setup.engine()
    again = await second.resume(running.run_id)
    await setup.agents.until_asked(2)
    for future in list(setup.agents.waiting.values()):
        future.set_result(Succeeded({}))
    with pytest.raises(OwnershipError):
        await asyncio.wait_for(running.wait(), 5)
    setup.agents.answers["y"] = give()
    for future in list(setup.agents.waiting.values()):
        future.set_result(Succeeded({}))
    assert (await asyncio.wait_for(again.wait(), 5)).status == "succeeded"


async def test_two_engines_that_resume_at_once_one_wins(setup: Setup, compile_stages: Compile) -> None:
    first = await setup.engine()
    running = await first.start(compile_stages(chain("x")))
    await setup.agents.until_asked(1)
    await first.close()
    engines = [await setup.engine() for _ in range(2)]
    results = await asyncio.gather(*(e.resume(running.run_id) for e in engines), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["OwnershipError", "Running"]


async def test_finished_run_cannot_be_resumed(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give()}
    running = await engine.start(compile_stages(chain("x")))
    await running.wait()
    with pytest.raises(RunStateError, match="succeeded"):
        await engine.resume(running.run_id)
    with pytest.raises(RunNotFoundError):
        await engine.resume(RunId("nothing"))


async def test_run_id_that_exists_is_refused(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give()}
    plan = compile_stages(chain("x"))
    await (await engine.start(plan, run_id=RunId("mine"))).wait()
    with pytest.raises(ConflictError):
        await engine.start(plan, run_id=RunId("mine"))


async def test_inputs_that_do_not_fit_create_no_run(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    plan = compile_stages(chain("x"), inputs={"n": {"type": "integer"}})
    with pytest.raises(InputError):
        await engine.start(plan, {"n": "many"})
    assert setup.seen == []


async def test_late_result_is_recorded_and_not_applied(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain("x", "y")))
    await setup.agents.until_asked(1)
    live: LiveRun = running.live
    late = AttemptSucceeded(at_ms=1, task=setup.agents.asked[0].task, attempt=7, outputs={"wrong": True})
    live.post(late)
    next(iter(setup.agents.waiting.values())).set_result(Succeeded({"right": True}))
    setup.agents.answers["y"] = give()
    state = await running.wait()
    assert state.tasks[setup.agents.asked[0].task].outputs == {"right": True}
    assert sum(isinstance(e, LateResult) for _, _, e in setup.seen) == 1


async def test_retry_waits_for_its_delay(setup: Setup, compile_stages: Compile) -> None:
    clock = FakeClock()
    engine = await setup.engine(clock=clock)
    plan = compile_stages(chain("x", recovery=[{"retry": {"max_attempts": 2, "delay_s": 30, "jitter": 0}}]))
    setup.agents.answers = {
        "x": lambda a: Failure("BUSY", "later", retryable=True) if a.attempt == 1 else Succeeded({})
    }
    running = await engine.start(plan)
    while clock.next_due_ms is None:
        await asyncio.sleep(0.001)
    assert clock.next_due_ms == clock.now_ms() + 30_000
    assert [a.attempt for a in setup.agents.asked] == [1]
    clock.advance(30_000)
    assert (await running.wait()).status == "succeeded"
    assert setup.agents.asked[0].idempotency_key == setup.agents.asked[1].idempotency_key


async def test_retry_timer_survives_a_restart(setup: Setup, compile_stages: Compile) -> None:
    clock = FakeClock()
    first = await setup.engine(clock=clock)
    plan = compile_stages(chain("x", recovery=[{"retry": {"max_attempts": 2, "delay_s": 30, "jitter": 0}}]))
    setup.agents.answers = {
        "x": lambda a: Failure("BUSY", "later", retryable=True) if a.attempt == 1 else Succeeded({})
    }
    running = await first.start(plan)
    while clock.next_due_ms is None:
        await asyncio.sleep(0.001)
    await first.close()
    later = FakeClock(clock.now_ms() + 10_000)
    second = await setup.engine(clock=later)
    again = await second.resume(running.run_id)
    while later.next_due_ms is None:
        await asyncio.sleep(0.001)
    assert later.next_due_ms == later.now_ms() + 20_000, "what was left of the delay"
    later.advance(20_000)
    assert (await again.wait()).status == "succeeded"


async def test_large_outputs_go_to_the_artifact_store(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(small=1, large="y" * 400_000)}
    running = await engine.start(compile_stages(chain("x")))
    state = await running.wait()
    outputs = next(iter(state.tasks.values())).outputs
    assert outputs is not None
    assert outputs["small"] == 1
    reference = outputs["large"]["$artifact"]
    assert reference["content_type"] == "application/vnd.noa.value+json"
    assert reference["size_bytes"] == 400_002


async def test_an_agent_gets_a_large_output_as_the_value_that_it_was(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    foreign = {
        "$artifact": {"uri": "file:///x", "size_bytes": 1, "sha256": "0" * 64, "content_type": "application/json"}
    }
    large = [f"item {number}" for number in range(40_000)]
    setup.agents.answers = {"x": give(small=1, large=large, foreign=foreign), "y": give()}
    inputs = {"given": {"deep": ["${{ tasks.x.outputs.large }}", "${{ tasks.x.outputs }}"]}}
    stage = chain("x", "y")
    stage["tasks"][1]["inputs"] = inputs
    plan = compile_stages(stage)
    state = await (await engine.start(plan)).wait()
    assert state.status == "succeeded"
    whole = {"small": 1, "large": large, "foreign": foreign}
    assert setup.agents.asked[1].inputs == {"given": {"deep": [large, whole]}}, "other references stay"
    kept = str(setup.seen[-1]) + "".join(str(event) for _, _, event in setup.seen)
    assert "item 39999" not in kept, "the journal has references only"


async def test_outputs_that_are_not_json_fail_the_attempt(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(thing=object())}
    state = await (await engine.start(compile_stages(chain("x")))).wait()
    assert state.failure is not None
    assert state.failure.code == "INVALID_OUTPUT"


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded({"n": 1}, {"loss": float("nan")}),
        Succeeded(None),  # type: ignore[arg-type]
        "not an outcome",
        None,
        Failure("X", "m", details={"path": "\udcff.txt"}),
        Failure("X", "\udcff"),
        Failure("X", "m", details={"where": Path("/x")}),
        Succeeded({"deep": reduce(lambda inner, _: [inner], range(985), 0)}),
    ],
    ids=["nan", "no-outputs", "text", "none", "surrogate-details", "surrogate-message", "path", "deep"],
)
async def test_what_cannot_be_recorded_fails_the_attempt_and_never_reaches_the_journal(
    setup: Setup, compile_stages: Compile, outcome: Any
) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": lambda _a: outcome}
    state = await asyncio.wait_for((await engine.start(compile_stages(chain("x")))).wait(), 10)
    assert state.status == "failed"
    assert state.failure is not None
    assert state.failure.code in {"INVALID_OUTPUT", "INTERNAL", "X"}
    assert (await engine.folded(state.run_id)).status == "failed", "the history can be read"


async def test_run_that_is_resumed_twice_at_once_goes_on_once_and_is_kept(
    setup: Setup, compile_stages: Compile
) -> None:
    first = await setup.engine()
    running = await first.start(compile_stages(chain("x")))
    await setup.agents.until_asked(1)
    await first.close()
    second = await setup.engine()
    one, two = await asyncio.gather(second.resume(running.run_id), second.resume(running.run_id))
    assert one is two
    assert second.running(running.run_id) is one
    await setup.agents.until_asked(2)
    await two.cancel(reason="enough")
    assert (await asyncio.wait_for(one.wait(), 5)).status == "cancelled"


async def test_second_cancel_ends_cleanup_that_hangs(setup: Setup, compile_stages: Compile) -> None:
    clean = {
        "name": "c",
        "type": "sequential",
        "run_on": "always",
        "depends_on": ["s"],
        "tasks": [{"agent": "a", "action": "clean"}],
    }
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain("x"), clean))
    await setup.agents.until_asked(1)
    await running.cancel(reason="once")
    await setup.agents.until_asked(2)
    await running.cancel(reason="twice")
    state = await asyncio.wait_for(running.wait(), 5)
    assert state.status == "cancelled"
    assert state.stages["c"].status == "cancelled"


async def test_agents_that_were_asked_before_a_crash_are_released_too(setup: Setup, compile_stages: Compile) -> None:
    stage = {
        "name": "s",
        "type": "sequential",
        "tasks": [{"agent": "a", "action": "x"}, {"agent": "b", "action": "y"}],
    }
    setup.agents.answers = {"x": give()}
    first = await setup.engine()
    running = await first.start(compile_stages(stage))
    await setup.agents.until_asked(2)
    await first.close()
    setup.agents.answers["y"] = give()
    second = await setup.engine()
    await (await second.resume(running.run_id)).wait()
    assert setup.agents.released == [(running.run_id, {"a", "b"})]


async def test_journal_of_a_loop_without_inputs_does_not_repeat_the_runs_inputs(
    setup: Setup, compile_stages: Compile
) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": lambda a: Succeeded({"seen": len(a.inputs["paths"])})}
    loop = {"name": "l", "type": "loop", "for_each": "${{ inputs.paths }}", "tasks": [{"agent": "a", "action": "x"}]}
    paths = [f"/data/folder/file-{number:06}.txt" for number in range(300)]
    state = await (await engine.start(compile_stages(loop), {"paths": paths})).wait()
    assert state.status == "succeeded"
    scheduled = [e for _, _, e in setup.seen if type(e).__name__ == "TaskScheduled"]
    assert len(scheduled) == 300
    assert max(len(encode_event(e)) for e in scheduled) < 300


async def test_dispatcher_that_raises_fails_the_attempt_not_the_engine(setup: Setup, compile_stages: Compile) -> None:
    def explode(_assignment: Assignment) -> Outcome:
        raise RuntimeError("a fault in an agent kind")

    engine = await setup.engine()
    setup.agents.answers = {"x": explode}
    state = await (await engine.start(compile_stages(chain("x")))).wait()
    assert state.failure is not None
    assert "a fault in an agent kind" in state.failure.message


class FullDisk(SqliteJournal):
    """Refuses appends while `full`."""

    full = False

    async def append(self, lease: Lease, events: Any, *, expected_seq: int) -> int:
        if self.full and any(isinstance(e, AttemptSucceeded | AttemptFailed) for e in events):
            raise JournalError("disk is full")
        return await super().append(lease, events, expected_seq=expected_seq)


async def test_run_stops_when_the_journal_cannot_be_written_and_goes_on_later(
    setup: Setup, compile_stages: Compile
) -> None:
    journal = FullDisk(f"sqlite://{setup.folder / 'noa.db'}")
    engine = await setup.engine(journal=journal)
    setup.agents.answers = {"x": give(), "y": give()}
    journal.full = True
    running = await engine.start(compile_stages(chain("x", "y")))
    with pytest.raises(JournalError, match="disk is full"):
        await running.wait()
    assert [a.action for a in setup.agents.asked] == ["x"], "nothing is done that is not recorded"
    journal.full = False
    again = await engine.resume(running.run_id)
    assert (await again.wait()).status == "succeeded"


async def test_resume_uses_the_definition_that_the_run_began_with(setup: Setup, registry: Registry) -> None:
    from noa.definitions import load_plan

    path = setup.folder / "w.yaml"
    text = "workflow: {name: w, version: '1', stages: [{name: s, type: sequential, tasks: [{agent: a, action: %s}]}]}"
    path.write_text(text % "old")
    first = await setup.engine()
    running = await first.start(load_plan(path, registry=registry))
    await setup.agents.until_asked(1)
    await first.close()
    path.write_text(text % "new")
    setup.agents.answers = {"old": give()}
    second = await setup.engine()
    assert (await (await second.resume(running.run_id)).wait()).status == "succeeded"
    assert [a.action for a in setup.agents.asked] == ["old", "old"]


@pytest.fixture
def with_child(setup: Setup, registry: Registry) -> Plan:
    from noa.definitions import load_plan

    (setup.folder / "child.yaml").write_text(
        "workflow:\n  name: child\n  version: '1'\n  inputs: {n: {type: integer}}\n"
        "  outputs: {double: '${{ stages.s.work.outputs.v }}'}\n"
        "  stages: [{name: s, type: sequential, tasks: [{agent: a, action: work, inputs: {n: '${{ inputs.n }}'}}]}]\n"
    )
    (setup.folder / "parent.yaml").write_text(
        "workflow:\n  name: parent\n  version: '1'\n  outputs: {got: '${{ stages.s.sub.outputs.double }}'}\n"
        "  stages: [{name: s, type: sequential, tasks: [{name: sub, workflow: child.yaml, inputs: {n: 21}}]}]\n"
    )
    return load_plan(setup.folder / "parent.yaml", registry=registry)


async def test_sub_workflow_is_a_run_of_its_own_whose_outputs_come_back(setup: Setup, with_child: Plan) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"work": lambda a: Succeeded({"v": a.inputs["n"] * 2})}
    state = await (await engine.start(with_child)).wait()
    assert state.outputs == {"got": 42}
    assert len(await engine._journal.runs()) == 2


async def test_sub_workflow_is_cancelled_with_its_parent(setup: Setup, with_child: Plan) -> None:
    engine = await setup.engine()
    running = await engine.start(with_child)
    await setup.agents.until_asked(1)
    await running.cancel(reason="enough")
    assert (await asyncio.wait_for(running.wait(), 5)).status == "cancelled"
    assert {r.status for r in await engine._journal.runs()} == {"cancelled"}


async def test_run_cancelled_while_no_engine_drove_it_ends_without_asking_an_agent(
    setup: Setup, with_child: Plan
) -> None:
    first = await setup.engine()
    running = await first.start(with_child)
    await setup.agents.until_asked(1)
    await first.close()
    second = await setup.engine()
    await second._journal.put_signal(SignalRecord("s1", running.run_id, "cancel", "ann", "not needed", {}, 1))
    state = await asyncio.wait_for((await second.resume(running.run_id)).wait(), 5)
    assert state.status == "cancelled"
    assert state.cancelled == "not needed"
    assert {r.status for r in await second._journal.runs()} == {"cancelled"}, "the child's run too"
    assert await second._journal.signals([running.run_id]) == []


async def test_sub_workflow_goes_on_where_it_was_after_a_restart(setup: Setup, with_child: Plan) -> None:
    first = await setup.engine()
    running = await first.start(with_child)
    await setup.agents.until_asked(1)
    await first.close()
    second = await setup.engine()
    setup.agents.answers = {"work": lambda a: Succeeded({"v": a.inputs["n"] * 2})}
    state = await (await second.resume(running.run_id)).wait()
    assert state.outputs == {"got": 42}
    assert len({a.execution_id for a in setup.agents.asked}) == 1
    assert len(await second._journal.runs()) == 2


async def test_failed_sub_workflow_fails_its_task_and_names_the_run(setup: Setup, with_child: Plan) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"work": lambda _a: Failure("BROKEN", "it broke")}
    state = await (await engine.start(with_child)).wait()
    assert state.status == "failed"
    assert state.failure is not None
    assert state.failure.code == "SUBWORKFLOW_FAILED"
    assert state.failure.cause is not None
    assert state.failure.cause.code == "BROKEN"


async def test_many_runs_at_once_share_commits_and_all_end(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(), "y": give()}
    plan = compile_stages(chain("x", "y"))
    running = await asyncio.gather(*(engine.start(plan) for _ in range(100)))
    states = await asyncio.gather(*(r.wait() for r in running))
    assert {s.status for s in states} == {"succeeded"}
    assert len(setup.agents.asked) == 200
