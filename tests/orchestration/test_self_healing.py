"""A replica that is worse than none is replaced, work that ends its replicas is stopped, and neither without an end."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa.model.events import AttemptFailed
from noa.model.execution import Stage, Succeeded
from noa.orchestration import healing
from noa.orchestration.healer import Healer
from noa.orchestration.healing import FAULTS, Budget, Losses, Record, judge
from noa.plugin import AgentDeclaration
from noa.runtime import Runtime

HERE = Path(__file__).parent
WORKER = (sys.executable, "-m", "noa.sdk", "scaled_worker:Worker")


def record(outcomes: str, code: str = "AGENT_PROTOCOL_ERROR", *, tasks: int = 100, every_s: float = 0.0) -> Record:
    """Of `+` for what ended well and `-` for faults, of so many different tasks, from second 0 on."""
    made = Record()
    numbers = itertools.cycle(range(tasks))
    for number, outcome in enumerate(outcomes):
        if outcome == "+":
            made.well()
        else:
            made.fault(number * every_s, f"task-{next(numbers)}", code)
    return made


# --- the judgement


def test_replica_that_fails_more_than_its_siblings_is_replaced() -> None:
    reason = judge(record("+-+-+-+-+-", "INTERNAL"), [record("+" * 20), record("+" * 19 + "-")], 1.0)
    assert reason == "5 of its last 10 executions failed by INTERNAL, 1 of 40 of the others'"
    assert judge(record("+-+-+-+-+-", "INTERNAL"), [record("+-" * 10)], 1.0) == "", "they are no better: it is the work"


def test_replica_that_does_nothing_right_is_replaced_whatever_its_siblings_do() -> None:
    timeouts = record("-" * 10, "EXECUTION_TIMEOUT", every_s=2.0)
    assert judge(timeouts, [], 20.0) == "10 of its last 10 executions failed by EXECUTION_TIMEOUT"
    assert judge(timeouts, [timeouts], 20.0)
    assert judge(record("+++" + "-" * 10, every_s=2.0), [], 26.0) == ""
    assert judge(record("-" * 9, every_s=2.0), [], 18.0) == ""
    assert judge(record("-" * 20, every_s=0.5), [], 10.0) == "", "it may be over in a moment"


def test_action_that_raises_is_not_blamed_on_the_only_replica() -> None:
    assert judge(record("-" * 20, "INTERNAL", every_s=2.0), [], 40.0) == ""


def test_few_tasks_or_few_faults_or_old_ones_are_no_proof() -> None:
    well = [record("+" * 20)]
    assert judge(record("-" * 20, tasks=2), well, 1.0) == "", "a task that fails wherever it runs"
    assert judge(record("----"), well, 1.0) == ""
    assert judge(record("-----"), well, 61.0) == ""


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(sorted(FAULTS)), st.integers(0, 30), st.floats(0, 5)), max_size=80
    )
)
def test_replica_most_of_whose_work_ends_well_is_never_replaced(outcomes: list[tuple[bool, str, int, float]]) -> None:
    one, other, at_s, last = Record(), record("+" * 20), 0.0, []
    for well, code, task, step_s in outcomes:
        at_s += step_s
        last = [*last, well][-20:]
        if well:
            one.well()
        else:
            one.fault(at_s, str(task), code)
        if sum(last) > len(last) / 2:
            assert judge(one, [other], at_s) == ""


@given(st.lists(st.floats(0.1, 300.0), max_size=200))
def test_replacing_that_does_not_help_becomes_rare(steps: list[float]) -> None:
    budget, at_s, taken = Budget(), 0.0, []
    for step in steps:
        at_s += step
        if budget.take(at_s):
            taken.append(at_s)
    pauses = [after - before for before, after in itertools.pairwise(taken)]
    assert all(pause >= 60 for pause in pauses)
    for before, after in itertools.pairwise(pauses):
        assert after >= 60 if before > 600 else after >= 120


def test_budget_is_new_after_a_long_calm() -> None:
    budget = Budget()
    assert [budget.take(at_s) for at_s in (0, 59, 60, 179, 180, 419)] == [True, False, True, False, True, False]
    assert budget.take(420 + 600)
    assert budget.take(420 + 600 + 60)


def test_task_is_blamed_for_the_replicas_that_it_was_alone_on_and_less_for_those_that_it_shared() -> None:
    losses, forgiven = Losses(), []
    assert [losses.add("bad", at_s, 1, lambda: forgiven.append(1)) for at_s in (0, 1, 2)] == [1, 2, 3]
    assert [losses.add("beside", at_s, 4, lambda: None) for at_s in (0, 1, 2)] == [0.5, 1, 1.5]
    losses.acquit("beside")
    assert losses.add("beside", 3, 1, lambda: None) == 1
    assert losses.add("late", 0, 1, lambda: None) == losses.add("late", 601, 1, lambda: None) == 1
    assert (losses.convict("bad"), forgiven) == (3, [1, 1, 1])
    assert losses.convict("bad") == 0


def test_bad_address_gets_no_work_for_a_while_where_another_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing, "LASTING_S", 0.0)
    bad, good = (SimpleNamespace(index=i, state="serving", record=Record()) for i in range(2))
    healer: Any = Healer(AgentDeclaration("far", addresses=("a:1", "b:1")), [bad, good])  # type: ignore[list-item]
    verdicts = [healer.worked(bad, f"task-{i}", "AGENT_LOST") for i in range(10)]
    assert verdicts == [False] * 9 + [True]
    assert len(bad.record) == 0, "it is judged anew"
    good.state = "waiting_to_restart"
    assert not any(healer.worked(bad, f"task-{i}", "AGENT_LOST") for i in range(20)), "it is the last one"


# --- real agents


async def test_sick_replica_is_replaced_and_its_sibling_goes_on(bench: Any, tmp_path: Path, eventually: Any) -> None:
    bench.broken(name="worker", command=WORKER, cwd=str(HERE), min_replicas=2, max_replicas=2)
    sick = tmp_path / "sick"

    async def both() -> list[Any]:
        works = [bench.execute("worker", "sicken", inputs={"sick": str(sick)}) for _ in range(2)]
        return await asyncio.gather(*works)

    await both()
    first, second = bench.factory._pools["worker"].replicas
    await eventually(lambda: first.state == second.state == "serving")
    bad, good = first.pid, second.pid
    sick.write_text(str(bad))
    for _ in range(60):
        await both()
        if "draining" in bench.states("worker"):
            break
    [event] = [event for event in bench.events if event.state == "draining"]
    assert event.replica == 0
    assert "executions failed by INTERNAL" in event.detail
    await eventually(lambda: first.state == "serving")
    assert second.pid == good
    assert first.pid not in (None, bad)
    assert all(isinstance(outcome, Succeeded) for outcome in await both())
    await eventually(lambda: not psutil.pid_exists(bad))


async def test_replaced_replica_ends_its_work_first_and_a_second_time_is_not_at_once(
    bench: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing, "LASTING_S", 0.0)
    bench.broken()
    pid = (await bench.execute("broken", "pid")).outputs["pid"]
    work = bench.task("broken", "slow")
    running = asyncio.create_task(bench.factory.execute(work, bench.seen.append))
    await eventually(lambda: bench.seen.count(Stage("running")) == 2)
    while "draining" not in bench.states():
        assert (await bench.execute("broken", "none")).code == "AGENT_PROTOCOL_ERROR"
    new = (await bench.execute("broken", "pid")).outputs["pid"]
    assert new != pid
    assert not running.done()
    await bench.factory.cancel(work.execution_id)
    assert (await running).code == "CANCELLED"
    await eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    for _ in range(12):
        await bench.execute("broken", "none")
    assert bench.states().count("draining") == 1, "it did not help, so it is not done again soon"
    assert (await bench.execute("broken", "pid")).outputs["pid"] == new
    assert "lost" not in bench.states()


async def test_idle_replica_near_its_memory_limit_is_replaced_before_it_is_killed(bench: Any, eventually: Any) -> None:
    limit = 300 * 2**20
    bench.broken(name="worker", command=WORKER, cwd=str(HERE), resources={"memory": limit})
    await bench.execute("worker", "work")
    [replica] = bench.factory._pools["worker"].replicas
    await eventually(lambda: replica.memory_bytes)
    grown = await bench.execute("worker", "grow", inputs={"to_bytes": int(limit * 0.94)})
    assert isinstance(grown, Succeeded)
    await eventually(lambda: "draining" in bench.states("worker"))
    [event] = [event for event in bench.events if event.state == "draining"]
    assert "it does nothing, and its memory grew to 9" in event.detail
    assert isinstance(await bench.execute("worker", "work"), Succeeded)
    assert "lost" not in bench.states("worker")


async def again(bench: Any, task: Any, attempt: int) -> Any:
    """A further attempt of the same task."""
    changed = msgspec.structs.replace(task, attempt=attempt, execution_id=f"{task.execution_id}{attempt}")
    return await bench.factory.execute(changed, bench.seen.append)


async def test_task_that_ends_three_replicas_is_stopped_and_the_agent_is_not_given_up_for_it(bench: Any) -> None:
    bench.broken()
    for _ in range(2):
        poison = bench.task("broken", "die")
        failures = [await again(bench, poison, attempt) for attempt in (1, 2, 3)]
        assert [failure.code for failure in failures] == ["AGENT_LOST", "AGENT_LOST", "POISON_TASK"]
        assert not failures[-1].retryable
        assert "3 replicas of agent 'broken' went away while they worked on it" in failures[-1].message
        assert "killed by SIGKILL" in failures[-1].message
    assert "failed" not in bench.states(), "six deaths, and still it is started: they were not its fault"
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)


async def test_poison_is_looked_for_as_the_declaration_says(bench: Any) -> None:
    bench.broken(options={"poison_after": 1})
    assert (await bench.execute("broken", "die")).code == "POISON_TASK"
    bench.broken(name="patient", options={"poison_after": 0})
    poison = bench.task("patient", "die")
    assert {(await again(bench, poison, attempt)).code for attempt in (1, 2, 3, 4)} == {"AGENT_LOST"}


@pytest.mark.timeout(120)
async def test_poison_ends_the_retries_of_a_run_and_the_others_are_done(tmp_path: Path) -> None:
    seen: list[Any] = []
    command = [sys.executable, str(HERE / "broken_agents.py")]
    definition = {
        "workflow": {
            "name": "poison",
            "agents": {"broken": {"command": command, "capacity": 1}},
            "recovery": [{"retry": {"max_attempts": 10, "delay_s": 0.01}}],
            "stages": [
                {
                    "name": "mixed",
                    "type": "parallel",
                    "fail_fast": False,
                    "tasks": [
                        {"name": "poison", "agent": "broken", "action": "die"},
                        *({"name": f"good{i}", "agent": "broken", "action": "echo"} for i in range(5)),
                    ],
                }
            ],
        }
    }
    async with Runtime(home=tmp_path, on_event=lambda _run, _seq, event: seen.append(event)) as runtime:
        result = await runtime.run(definition)
        outputs = [result.task_outputs(f"mixed/good{i}") for i in range(5)]
    assert not result.succeeded
    assert len(outputs) == 5
    codes = [event.failure.code for event in seen if isinstance(event, AttemptFailed)]
    assert codes == ["AGENT_LOST", "AGENT_LOST", "POISON_TASK"]
