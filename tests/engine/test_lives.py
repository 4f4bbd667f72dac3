"""What engines on one store do with recovery: keys, forks, reopened runs, adoption, answers, kept outputs, guards."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import EngineTestPlugin
from tests.engine.shells import Agents, Setup

from noa.definitions import load_plan
from noa.engine.engine import Engine, Running
from noa.errors import RunKeyError, RunStateError, UsageError
from noa.model.events import AttemptFailed, Hold, LateResult, Recalled, RunCreated, SignalRefused, TaskHeld
from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import Plan
from noa.modes import SupervisedMode
from noa.plugin import Attempted, Mode, RecoveryStrategy, Registry, SignalRecord, hookimpl
from noa.recovery import RetryOptions
from noa.storage import SqliteJournal
from noa.testing.clock import FakeClock

Compile = Callable[..., Plan]


@pytest.fixture
async def setup(tmp_path: Path, registry: Registry) -> AsyncIterator[Setup]:
    made = Setup(tmp_path, registry)
    yield made
    await made.close()


def task(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "a", "action": name, "inputs": {}, **keys}


def chain(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"name": "s", "type": "sequential", "tasks": list(tasks)}


def give(**outputs: Any) -> Callable[[Assignment], Outcome]:
    return lambda _assignment: Succeeded(outputs)


def broken(_assignment: Assignment) -> Outcome:
    return Failure("BROKEN", "it broke", retryable=True)


def actions(agents: Agents) -> list[str]:
    return [assignment.action for assignment in agents.asked]


async def held_on_disk(engine: Engine, running: Running) -> None:
    """Until the run waits for a person, and another engine would know it."""
    while not running.state.waiting:
        await asyncio.sleep(0.01)
    while not any(
        isinstance(event, TaskHeld) or isinstance(getattr(event, "decision", None), Hold)
        for _, event in await engine._journal.read(running.run_id)
    ):
        await asyncio.sleep(0.01)


async def test_failed_run_is_retried_in_place_and_keeps_what_succeeded(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(v=1), "y": broken, "z": give()}
    running = await engine.start(compile_stages(chain(task("x"), task("y"), task("z"))))
    assert (await running.wait()).status == "failed"
    setup.agents.answers["y"] = give()
    again = await engine.reopen(running.run_id, actor="me", reason="mended")
    assert (await again.wait()).status == "succeeded"
    assert actions(setup.agents) == ["x", "y", "y", "z"]
    assert setup.agents.asked[1].idempotency_key == setup.agents.asked[2].idempotency_key
    assert setup.agents.asked[1].execution_id != setup.agents.asked[2].execution_id
    assert (await engine._journal.run(running.run_id)).status == "succeeded"
    with pytest.raises(RunStateError, match="--from TASK"):
        await engine.reopen(running.run_id)
    redo = await engine.reopen(running.run_id, from_task="s/y")
    assert (await redo.wait()).status == "succeeded"
    assert actions(setup.agents)[4:] == ["y", "z"]
    assert setup.agents.asked[4].idempotency_key == f"{running.run_id}:s/y#1", "it is to be done again, not repeated"
    assert await engine._journal.verify(running.run_id) is None


async def test_run_that_is_not_over_cannot_be_reopened(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain(task("x"))))
    with pytest.raises(RunStateError, match="not over"):
        await engine.reopen(running.run_id)
    await setup.agents.until_asked(1)
    await engine.close()
    other = await setup.engine()
    with pytest.raises(RunStateError, match="noa resume"):
        await other.reopen(running.run_id)
    assert (await other.resume(running.run_id)).run_id == running.run_id, "the refusal gave the lease back"


async def test_signal_that_came_too_late_does_not_end_a_reopened_run(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": broken}
    running = await engine.start(compile_stages(chain(task("x"))))
    await running.wait()
    await engine._journal.put_signal(SignalRecord("late", running.run_id, "cancel", "me", "", {}, 1))
    setup.agents.answers = {"x": give()}
    assert (await (await engine.reopen(running.run_id)).wait()).status == "succeeded"
    refused = [event for _, _, event in setup.seen if isinstance(event, SignalRefused)]
    assert [event.signal for event in refused] == ["late"]


async def test_fork_shares_the_past_and_leaves_the_old_run_alone(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(v=1), "y": broken}
    tasks = [task("x"), task("y", inputs={"n": "${{ inputs.n }}", "v": "${{ tasks.x.outputs.v }}"})]
    running = await engine.start(compile_stages(chain(*tasks)), {"n": 1})
    await running.wait()
    before = await engine._journal.read(running.run_id)
    at = next(seq for seq, event in before if getattr(event, "task", "") == "s/y") - 1
    setup.agents.answers["y"] = give()
    fork = await engine.fork(running.run_id, at=at, inputs={"n": 2}, actor="me")
    state = await fork.wait()
    assert state.status == "succeeded"
    assert actions(setup.agents) == ["x", "y", "y"]
    assert setup.agents.asked[-1].inputs == {"n": 2, "v": 1}
    assert setup.agents.asked[-1].idempotency_key.startswith(fork.run_id)
    assert await engine._journal.read(running.run_id) == before
    created = (await engine._journal.read(fork.run_id))[0][1]
    assert isinstance(created, RunCreated)
    assert (created.forked_from, created.forked_at) == (running.run_id, at)
    assert await engine._journal.verify(fork.run_id) is None
    for wrong in (0, len(before), len(before) + 1):
        with pytest.raises(UsageError):
            await engine.fork(running.run_id, at=wrong)


async def test_fork_at_any_event_ends_as_the_run_would(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {name: give(of=name) for name in "xyz"}
    plan = compile_stages(chain(task("x"), task("y"), task("z")), outputs={"of": "${{ stages.s.z.outputs.of }}"})
    running = await engine.start(plan)
    await running.wait()
    last = (await engine._journal.run(running.run_id)).last_seq
    for at in range(1, last):
        assert (await (await engine.fork(running.run_id, at=at)).wait()).outputs == {"of": "z"}, at


async def test_same_key_is_the_same_run(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give()}
    plan = compile_stages(chain(task("x")))
    first = await engine.start(plan, {"n": 1}, key="today")
    await first.wait()
    for inputs, other_plan, same in (
        ({"n": 1}, plan, True),
        ({"n": 2}, plan, False),
        ({"n": 1}, compile_stages(chain(task("x"), task("y"))), False),
    ):
        with pytest.raises(RunKeyError) as refused:
            await engine.start(other_plan, inputs, key="today")
        assert (refused.value.run_id, refused.value.same) == (first.run_id, same)
    await (await engine.start(plan, {"n": 1}, key="tomorrow")).wait()
    assert len(await engine._journal.runs()) == 2


async def test_engine_adopts_runs_that_nobody_drives_and_no_others(setup: Setup, compile_stages: Compile) -> None:
    plan = compile_stages(chain(task("x")))
    first, second = await setup.engine(), await setup.engine()
    held = await first.start(plan)
    lost = await first.start(plan)
    await setup.agents.until_asked(2)
    assert await second.adopt() == [], "their engine lives"
    lost.task.cancel()
    await asyncio.gather(lost.task, return_exceptions=True)
    (adopted,) = await second.adopt()
    assert adopted.run_id == lost.run_id
    assert await second.adopt() == []
    await setup.agents.until_asked(3)
    setup.agents.waiting[setup.agents.asked[2].execution_id].set_result(Succeeded({}))
    assert (await adopted.wait()).status == "succeeded"
    assert first.running(held.run_id) is held


async def test_answer_that_came_while_no_engine_ran_counts_on_resume(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": broken, "y": give()}
    running = await engine.start(compile_stages(chain(task("x", recovery=["ask"]), task("y"))))
    await held_on_disk(engine, running)
    await engine.close()
    store = SqliteJournal(f"sqlite://{setup.folder / 'noa.db'}")
    await store.open()
    body = {"task": "s/x", "choice": "override", "outputs": {"v": 5}}
    await store.put_signal(SignalRecord("a", running.run_id, "answer", "me", "looks fine", body, 1))
    await store.close()
    other = await setup.engine()
    state = await (await other.resume(running.run_id)).wait()
    assert state.status == "succeeded"
    assert state.tasks[TaskPath("s/x")].outputs == {"v": 5}


async def test_answer_reaches_a_run_that_goes_on(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": broken}
    running = await engine.start(compile_stages(chain(task("x", recovery=["ask"]))))
    while not running.state.waiting:
        await asyncio.sleep(0.01)
    store = SqliteJournal(f"sqlite://{setup.folder / 'noa.db'}")
    await store.open()
    for signal, choice in (("1", "dance"), ("2", "skip")):
        body = {"task": "s/x", "choice": choice}
        await store.put_signal(SignalRecord(signal, running.run_id, "answer", "me", "", body, 1))
    assert (await asyncio.wait_for(running.wait(), 10)).tasks[TaskPath("s/x")].status == "skipped"
    assert await store.signals([running.run_id]) == []
    await store.close()


async def test_cached_outputs_serve_later_runs_until_they_are_too_old(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": lambda a: Succeeded({"double": 2 * a.inputs["n"]})}
    plan = compile_stages(chain(task("x", inputs={"n": "${{ inputs.n }}"}, cache={"ttl": "1h"})))
    for number in (1, 1, 2, 1):
        state = await (await engine.start(plan, {"n": number})).wait()
        assert state.tasks[TaskPath("s/x")].outputs == {"double": 2 * number}
    assert [a.inputs["n"] for a in setup.agents.asked] == [1, 2]
    assert sum(1 for _, _, event in setup.seen if isinstance(event, Recalled) and event.found) == 2


async def test_last_good_outputs_of_an_earlier_run_stand_in(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    plan = compile_stages(chain(task("x", recovery=[{"degrade": {"last_good": True}}])))
    setup.agents.answers = {"x": broken}
    assert (await (await engine.start(plan)).wait()).status == "failed", "there are none yet"
    setup.agents.answers = {"x": give(v=1)}
    good = await engine.start(plan)
    await good.wait()
    setup.agents.answers = {"x": broken}
    state = await (await engine.start(plan)).wait()
    assert (state.status, state.degraded) == ("succeeded", True)
    node = state.tasks[TaskPath("s/x")]
    assert (node.outputs, node.source) == ({"v": 1}, good.run_id)


async def test_circuit_that_opened_in_one_run_spares_the_agent_in_another(
    setup: Setup, compile_stages: Compile
) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": broken}
    breaker = {"circuit_breaker": {"failures": 3, "open_for": "1h"}}
    plan = compile_stages(chain(task("x", recovery=[breaker])))
    for _ in range(5):
        state = await (await engine.start(plan)).wait()
        assert state.status == "failed"
    assert actions(setup.agents) == ["x"] * 3
    codes = [event.failure.code for _, _, event in setup.seen if isinstance(event, AttemptFailed)]
    assert codes == ["BROKEN"] * 3 + ["CIRCUIT_OPEN"] * 2


async def test_slow_attempt_is_hedged_and_the_loser_is_cancelled_and_recorded(
    setup: Setup, compile_stages: Compile
) -> None:
    engine = await setup.engine()
    plan = compile_stages(chain(task("x", idempotent=True, recovery=[{"hedge": {"delay": "20ms"}}]), task("y")))
    running = await engine.start(plan)
    await setup.agents.until_asked(2)
    first, second = setup.agents.asked
    assert (first.attempt, second.attempt, first.idempotency_key) == (1, 2, second.idempotency_key)
    setup.agents.waiting[second.execution_id].set_result(Succeeded({"by": 2}))
    await setup.agents.until_asked(3)
    while first.execution_id in setup.agents.waiting:
        await asyncio.sleep(0.01)
    while not any(isinstance(event, LateResult) for _, _, event in setup.seen):
        await asyncio.sleep(0.01)
    setup.agents.waiting[setup.agents.asked[2].execution_id].set_result(Succeeded({}))
    assert (await running.wait()).tasks[TaskPath("s/x")].outputs == {"by": 2}


@pytest.fixture
def family(setup: Setup, registry: Registry) -> Plan:
    """A parent that books by a child with compensations, and then pays."""
    (setup.folder / "child.yaml").write_text(
        "workflow:\n  name: child\n  version: '1'\n  stages:\n"
        "  - name: s\n    type: sequential\n    tasks:\n"
        "    - {agent: a, action: book, inputs: {}, compensate: {agent: a, action: unbook, inputs: {}, recovery: []}}\n"
        "    - {agent: a, action: mail, inputs: {}}\n"
    )
    (setup.folder / "parent.yaml").write_text(
        "workflow:\n  name: parent\n  version: '1'\n  on_failure: rollback\n  stages:\n"
        "  - name: s\n    type: sequential\n    tasks:\n"
        "    - {name: trip, workflow: child.yaml, inputs: {}}\n"
        "    - {agent: a, action: pay, inputs: {}}\n"
    )
    return load_plan(setup.folder / "parent.yaml", registry=registry)


@pytest.mark.parametrize(
    ("failing", "asked"),
    [("pay", ["book", "mail", "pay", "unbook"]), ("mail", ["book", "mail", "unbook"]), ("book", ["book"])],
)
async def test_sub_workflow_is_undone_with_its_parent(
    setup: Setup, family: Plan, failing: str, asked: list[str]
) -> None:
    engine = await setup.engine()
    setup.agents.answers = {name: give() for name in ("book", "unbook", "mail", "pay")} | {failing: broken}
    state = await asyncio.wait_for((await engine.start(family)).wait(), 10)
    assert state.status == "rolled_back"
    assert actions(setup.agents) == asked
    assert {r.status for r in await engine._journal.runs()} == {"rolled_back"}


async def test_rollback_of_a_sub_workflow_that_stopped_half_way_goes_on(setup: Setup, family: Plan) -> None:
    engine = await setup.engine()
    setup.agents.answers = {name: give() for name in ("book", "mail")} | {"pay": broken}
    setup.agents.answers["unbook"] = lambda _a: Failure("BROKEN", "no", retryable=False)
    running = await engine.start(family)
    state = await asyncio.wait_for(running.wait(), 10)
    assert (state.status, state.left) == ("rollback_failed", ["s/trip"])
    setup.agents.answers["unbook"] = give()
    state = await asyncio.wait_for((await engine.reopen(running.run_id)).wait(), 10)
    assert state.status == "rolled_back"
    assert {r.status for r in await engine._journal.runs()} == {"rolled_back"}


async def test_retried_parent_goes_on_with_the_child_that_it_had(setup: Setup, family: Plan) -> None:
    plan = load_plan(setup.folder / "child.yaml", registry=setup.registry)
    (setup.folder / "plain.yaml").write_text(
        "workflow:\n  name: plain\n  version: '1'\n"
        "  stages: [{name: s, type: sequential, tasks: [{name: trip, workflow: child.yaml, inputs: {}}]}]\n"
    )
    assert plan.name == "child"
    engine = await setup.engine()
    setup.agents.answers = {"book": give(), "mail": broken}
    running = await engine.start(load_plan(setup.folder / "plain.yaml", registry=setup.registry))
    assert (await running.wait()).status == "failed"
    setup.agents.answers["mail"] = give()
    assert (await (await engine.reopen(running.run_id)).wait()).status == "succeeded"
    assert actions(setup.agents) == ["book", "mail", "mail"], "what the child had done is kept"
    assert len(await engine._journal.runs()) == 2


async def test_fork_that_is_undone_leaves_alone_what_the_other_run_did(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {name: give() for name in ("x", "y", "un-x", "un-y")} | {"z": give()}
    tasks = [task(n, compensate={"agent": "a", "action": f"un-{n}", "inputs": {}}) for n in "xy"]
    plan = compile_stages(chain(*tasks, task("z")), on_failure="rollback", timeout="1h")
    running = await engine.start(plan)
    await running.wait()
    history = await engine._journal.read(running.run_id)
    at = next(seq for seq, event in history if getattr(event, "task", "") == "s/y") - 1
    setup.agents.answers["z"] = broken
    state = await (await engine.fork(running.run_id, at=at)).wait()
    assert state.status == "rolled_back"
    assert actions(setup.agents) == ["x", "y", "z", "y", "z", "un-y"]


async def test_fork_of_an_old_run_has_time_of_its_own(setup: Setup, compile_stages: Compile) -> None:
    clock = FakeClock()
    engine = await setup.engine(clock=clock)
    setup.agents.answers = {"x": give(), "y": broken}
    plan = compile_stages({**chain(task("x"), task("y")), "timeout": "1m"}, timeout="2m")
    running = await engine.start(plan)
    await running.wait()
    clock.advance(3_600_000)
    setup.agents.answers["y"] = give()
    at = (await engine._journal.run(running.run_id)).last_seq - 4
    state = await asyncio.wait_for((await engine.fork(running.run_id, at=at)).wait(), 10)
    assert state.status == "succeeded"


async def test_observer_that_raises_does_not_touch_the_run(setup: Setup, compile_stages: Compile) -> None:
    def observe(*_event: object) -> None:
        raise KeyError("a fault of whoever watches")

    engine = await setup.engine(on_event=observe)
    setup.agents.answers = {"x": give()}
    assert (await (await engine.start(compile_stages(chain(task("x"))))).wait()).status == "succeeded"


async def test_run_that_is_being_undone_cannot_be_forked(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": give(), "un-x": give(), "y": broken}
    undo = {"agent": "a", "action": "un-x", "inputs": {}}
    plan = compile_stages(chain(task("x", compensate=undo), task("y")), on_failure="rollback")
    running = await engine.start(plan)
    await running.wait()
    history = await engine._journal.read(running.run_id)
    begun = next(seq for seq, event in history if type(event).__name__ == "RollbackStarted")
    with pytest.raises(UsageError, match="before rollback_started"):
        await engine.fork(running.run_id, at=begun + 1)
    assert (await (await engine.fork(running.run_id, at=begun - 1)).wait()).status == "rolled_back"
    assert actions(setup.agents) == ["x", "y", "un-x"]


async def test_child_that_undid_itself_is_begun_anew_when_its_parent_is_retried(
    setup: Setup, registry: Registry
) -> None:
    (setup.folder / "child.yaml").write_text(
        "workflow:\n  name: child\n  on_failure: rollback\n  stages:\n"
        "  - name: s\n    type: sequential\n    tasks:\n"
        "    - {agent: a, action: book, inputs: {}, compensate: {agent: a, action: unbook, inputs: {}}}\n"
        "    - {agent: a, action: mail, inputs: {}}\n"
    )
    (setup.folder / "plain.yaml").write_text(
        "workflow:\n  name: plain\n"
        "  stages: [{name: s, type: sequential, tasks: [{name: trip, workflow: child.yaml, inputs: {}}]}]\n"
    )
    engine = await setup.engine()
    setup.agents.answers = {"book": give(), "unbook": give(), "mail": broken}
    running = await engine.start(load_plan(setup.folder / "plain.yaml", registry=registry))
    assert (await running.wait()).status == "failed"
    setup.agents.answers["mail"] = give()
    assert (await (await engine.reopen(running.run_id)).wait()).status == "succeeded"
    assert actions(setup.agents) == ["book", "mail", "unbook", "book", "mail"]


async def test_damaged_run_does_not_keep_others_from_being_adopted(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    plan = compile_stages(chain(task("x")))
    runs = [await engine.start(plan) for _ in range(2)]
    await setup.agents.until_asked(2)
    await engine.close()
    store = setup.folder / "noa.db"
    with sqlite3.connect(store) as damaged:
        damaged.execute("UPDATE events SET body = CAST('{}' AS BLOB) WHERE id = (SELECT min(id) FROM events)")
    damaged.close()
    adopted = await (await setup.engine()).adopt()
    assert [running.run_id for running in adopted] == [runs[1].run_id]


async def test_words_that_build_on_each_other_count_in_their_order_on_resume(
    setup: Setup, compile_stages: Compile
) -> None:
    engine = await setup.engine()
    setup.agents.answers = {"x": lambda a: Succeeded(dict(a.inputs))}
    approval = {"approvers": ["ann", "bob"], "quorum": 2}
    running = await engine.start(compile_stages(chain(task("x", inputs={"n": 1}, approval=approval))))
    await held_on_disk(engine, running)
    await engine.close()
    other = await setup.engine()
    said = [("edit", "cid", {"inputs": {"n": 2}}), ("approve", "ann", {}), ("approve", "bob", {})]
    for number, (kind, actor, body) in enumerate(said):
        record = SignalRecord(str(number), running.run_id, kind, actor, "so", {"task": "s/x", **body}, number)
        await other._journal.put_signal(record)
    state = await asyncio.wait_for((await other.resume(running.run_id)).wait(), 10)
    assert state.tasks[TaskPath("s/x")].outputs == {"n": 2}
    assert not [event for _, _, event in setup.seen if isinstance(event, SignalRefused)]


class Grumpy(RecoveryStrategy):
    """A guard that raises when it is told how an attempt ended."""

    name = "grumpy"
    options = RetryOptions
    guards = True

    def recover(self, failure: Failure, past: Attempted, options: Any) -> None:
        return None

    def recalls(self, options: Any) -> bool:
        raise RuntimeError("I do not say")

    def observe(self, memory: Any, failure: Failure | None, now_ms: int, options: Any) -> Any:
        raise RuntimeError("I do not want to know")


@pytest.mark.parametrize("ends", ["succeeded", "failed"])
async def test_guard_that_raises_does_not_lose_the_outcome_of_an_attempt(
    setup: Setup, registry: Registry, compile_stages: Compile, ends: str
) -> None:
    class Plugin:
        @hookimpl
        def noa_recovery_strategies(self) -> list[RecoveryStrategy]:
            return [Grumpy()]

    registry.register(Plugin(), "grumpy")
    engine = await setup.engine()
    setup.agents.answers = {"x": give(v=1) if ends == "succeeded" else broken}
    running = await engine.start(compile_stages(chain(task("x", recovery=["grumpy"]))))
    assert (await asyncio.wait_for(running.wait(), 10)).status == ends


async def test_circuit_hears_of_an_attempt_that_ends_with_its_engine(setup: Setup, compile_stages: Compile) -> None:
    engine = await setup.engine()
    breaker = {"circuit_breaker": {"failures": 3}}
    running = await engine.start(compile_stages(chain(task("x", recovery=[breaker]))))
    await setup.agents.until_asked(1)
    (attempt,) = running.live._attempts.values()
    await engine.close()
    assert attempt.cancelled(), "it ended as what it was, not with an error of its own"


async def test_run_in_a_mode_that_is_not_known_here_does_not_go_on_unheld(
    setup: Setup, registry: Registry, compile_stages: Compile
) -> None:
    class Careful(SupervisedMode):
        name = "careful"

    class Plugin:
        @hookimpl
        def noa_modes(self) -> list[Mode]:
            return [Careful()]

    registry.register(Plugin(), "careful")
    engine = await setup.engine()
    running = await engine.start(compile_stages(chain(task("x", approval=True))), mode="careful")
    await held_on_disk(engine, running)
    await engine.close()
    setup.registry = Registry()
    setup.registry.register(EngineTestPlugin(), "engine-test")
    other = await setup.engine()
    with pytest.raises(UsageError, match="mode 'careful' is not known"):
        await other.resume(running.run_id)
    assert setup.agents.asked == []
