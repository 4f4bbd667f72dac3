"""The factory over real processes, most of which misbehave."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.model.execution import Log, OutputChunk, Progress, Stage, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.model.plan import Timeouts

ECHO = (sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent")


def children() -> set[psutil.Process]:
    """Processes that this one started; agents of other tests may be among them."""
    return set(psutil.Process().children())


def ended(pid: int) -> bool:
    """Whether a process is over, reaped or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_sidecar_of_the_sdk_gives_the_outcome_of_its_action(bench: Any) -> None:
    bench.broken(command=ECHO)
    outcome = await bench.execute("broken", "echo", inputs={"a": [1, None, "ü"]})
    assert outcome.outputs == {"echo": {"a": [1, None, "ü"]}}
    assert bench.seen[:1] == [Stage("starting_agent")]


async def test_inputs_and_outputs_above_the_inline_limit_travel_by_reference(bench: Any) -> None:
    bench.broken(command=ECHO)
    text = "x" * 400_000
    outcome = await bench.execute("broken", "echo", inputs={"text": text})
    assert outcome.outputs == {"echo": {"text": text}}
    assert len(list(bench.artifacts.folder.rglob("*"))) >= 2


async def test_command_that_is_not_found_is_named(bench: Any) -> None:
    bench.broken(command=("no-such-program-anywhere",))
    failure = await bench.execute("broken", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "'no-such-program-anywhere' was not found in PATH" in failure.message
    assert not failure.retryable


async def test_file_that_is_no_program_is_named(bench: Any, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    path.write_bytes(b"\x00not a program")
    bench.broken(command=(str(path),))
    assert "may not be executed" in (await bench.execute("broken", "echo")).message
    path.chmod(0o755)
    bench.broken(command=(str(path),), name="again")
    assert "cannot be started" in (await bench.execute("again", "echo")).message


async def test_agent_that_exits_at_once_is_reported_with_its_status_and_last_lines(bench: Any) -> None:
    bench.broken("exit")
    failure = await bench.execute("broken", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "exited with status 1 before it was ready" in failure.message
    assert "| cannot open the model" in failure.message
    assert "NOA_AGENT_LISTEN=" in failure.message
    assert "cannot open the model" in (bench.folder / "logs/broken-0.log").read_text()


async def test_agent_that_is_never_ready_is_ended_after_its_start_timeout(bench: Any) -> None:
    before = children()
    bench.broken("starting", start_timeout_s=1.5)
    failure = await bench.execute("broken", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "Health says STARTING: loading the model" in failure.message
    assert "start_timeout_s" in failure.message
    assert children() <= before


async def test_agent_that_never_listens_is_ended_after_its_start_timeout(bench: Any) -> None:
    before = children()
    bench.broken("mute", start_timeout_s=0.5)
    failure = await bench.execute("broken", "echo")
    assert failure.code == "AGENT_START_FAILED"
    assert "did not listen on NOA_AGENT_LISTEN=unix:" in failure.message
    assert children() <= before


async def test_agent_that_cannot_work_says_why(bench: Any) -> None:
    bench.broken("not-serving")
    failure = await bench.execute("broken", "echo")
    assert (failure.code, "cannot work: loading the model" in failure.message) == ("AGENT_START_FAILED", True)


@pytest.mark.parametrize(
    ("behaviour", "text"), [("protocol", "speaks protocol 2, 3"), ("exit-64", "speaks protocol 2")]
)
async def test_wrong_protocol_version_is_a_mismatch_and_is_not_tried_again(
    bench: Any, behaviour: str, text: str
) -> None:
    bench.broken(behaviour)
    for _ in range(2):
        failure = await bench.execute("broken", "echo")
        assert failure.code == "AGENT_PROTOCOL_MISMATCH"
        assert text in failure.message
        assert not failure.retryable
    assert bench.states().count("starting") == 1


async def test_agent_that_refuses_the_token_is_unauthenticated(bench: Any) -> None:
    bench.broken("unauthenticated")
    failure = await bench.execute("broken", "echo")
    assert failure.code == "AGENT_UNAUTHENTICATED"
    assert not failure.retryable


async def test_crash_loop_ends_with_a_failed_agent(bench: Any) -> None:
    bench.broken("exit")
    codes = [(await bench.execute("broken", "echo")).code for _ in range(6)]
    assert set(codes) == {"AGENT_START_FAILED"}
    assert bench.states().count("starting") == 5
    assert bench.states()[-1] == "failed"
    failure = await bench.execute("broken", "echo")
    assert "agent 'broken' failed 5 times within 60 s" in failure.message
    assert "cannot open the model" in failure.message


async def test_agent_killed_in_the_middle_of_work_is_lost_at_once_and_started_again(bench: Any) -> None:
    bench.broken()
    began = time.monotonic()
    failure = await bench.execute("broken", "die")
    assert failure.code == "AGENT_LOST"
    assert failure.retryable
    assert "killed by SIGKILL" in failure.message
    assert time.monotonic() - began < 5
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    assert [s for s in bench.states() if s in ("serving", "lost")] == ["serving", "lost", "serving"]


async def test_all_executions_of_a_lost_agent_fail_and_its_last_lines_are_shown(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "echo")
    hanging = [asyncio.create_task(bench.execute("broken", "hang aloud")) for _ in range(3)]
    while sum(isinstance(seen, Log) for seen in bench.seen) < 3:  # what the agent has not got yet goes to its successor
        await asyncio.sleep(0.01)
    failure = await bench.execute("broken", "exit")
    assert "exited with status 7" in failure.message
    assert "| the disk is on fire" in failure.message
    assert {f.code for f in await asyncio.gather(*hanging)} == {"AGENT_LOST"}


@pytest.mark.parametrize("action", ["two", "lingers"])
async def test_first_terminal_message_counts(bench: Any, action: str) -> None:
    bench.broken()
    assert await bench.execute("broken", action) == Succeeded({"n": 1})


async def test_stream_without_a_result_is_a_protocol_error(bench: Any) -> None:
    bench.broken()
    failure = await bench.execute("broken", "none")
    assert failure.code == "AGENT_PROTOCOL_ERROR"
    assert "agent 'broken', action 'none': the stream ended without" in failure.message


async def test_garbage_instead_of_json_is_a_protocol_error_that_says_where(bench: Any) -> None:
    bench.broken()
    failure = await bench.execute("broken", "garbage")
    assert failure.code == "AGENT_PROTOCOL_ERROR"
    assert "byte 9" in failure.message
    assert "must be a JSON object; it is an array" in (await bench.execute("broken", "array")).message


async def test_five_mebibytes_inline_are_refused_with_size_and_limit(bench: Any) -> None:
    bench.broken()
    failure = await bench.execute("broken", "big")
    assert failure.code == "PAYLOAD_TOO_LARGE"
    assert failure.details["limit_bytes"] == 4 * 1024 * 1024
    assert failure.details["size_bytes"] > 5 * 1024 * 1024
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)


async def test_flood_of_progress_is_thinned_out_and_the_last_is_kept(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "echo")
    began = time.monotonic()
    assert isinstance(await bench.execute("broken", "flood"), Succeeded)
    progress = [seen for seen in bench.seen if isinstance(seen, Progress)]
    assert len(progress) <= 20 * (time.monotonic() - began) + 3
    assert progress[-1].done == 20_000


async def test_observations_reach_the_observer(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "observe")
    log = next(seen for seen in bench.seen if isinstance(seen, Log))
    assert (log.level, log.message) == ("warning", "careful")
    assert OutputChunk("piece") in bench.seen


async def test_cancel_ends_work_that_obeys(bench: Any, eventually: Any) -> None:
    bench.broken()
    task = bench.task("broken", "slow")
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    assert "works on 'slow'" in bench.factory.waiting(task.execution_id)
    await bench.factory.cancel(task.execution_id, reason="not wanted")
    failure = await running
    assert (failure.code, failure.message) == ("CANCELLED", "the execution was cancelled: not wanted")
    await bench.factory.cancel(task.execution_id)
    assert bench.factory.waiting(task.execution_id) == ""


@pytest.mark.parametrize(("behaviour", "action"), [("ok", "hang"), ("ignores-cancel", "slow")])
async def test_cancel_ends_within_the_grace_whatever_the_agent_does(
    bench: Any, eventually: Any, behaviour: str, action: str
) -> None:
    bench.broken(behaviour)
    task = bench.task("broken", action)
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    began = time.monotonic()
    await bench.factory.cancel(task.execution_id, grace_s=0.3)
    assert (await running).code == "CANCELLED"
    assert time.monotonic() - began < 1.5


async def test_cancel_ends_an_attempt_that_waits_for_the_start(bench: Any, eventually: Any) -> None:
    bench.broken("starting")
    task = bench.task("broken", "echo")
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: "starting" in bench.states())
    assert "waits for agent 'broken' to start" in bench.factory.waiting(task.execution_id)
    await bench.factory.cancel(task.execution_id)
    assert (await running).code == "CANCELLED"


async def test_execution_timeout_cancels_the_work(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "echo")
    failure = await bench.execute("broken", "slow", timeouts=Timeouts(execution_ms=100))
    assert failure.code == "EXECUTION_TIMEOUT"
    assert failure.retryable
    assert "did not end within 0.1 s" in failure.message


async def test_silence_of_an_execution_is_a_heartbeat_timeout_and_heartbeats_are_not(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "echo")
    failure = await bench.execute("broken", "hang", timeouts=Timeouts(heartbeat_ms=200))
    assert failure.code == "HEARTBEAT_TIMEOUT"
    failure = await bench.execute("broken", "beats", timeouts=Timeouts(heartbeat_ms=1000, execution_ms=1500))
    assert failure.code == "EXECUTION_TIMEOUT"


async def test_agent_that_does_not_answer_health_is_killed_and_started_again(bench: Any) -> None:
    bench.broken(options={"health_interval_s": 0.2, "health_silence_s": 0.6})
    failure = await bench.execute("broken", "freeze")
    assert failure.code == "AGENT_LOST"
    assert "did not answer Health" in failure.message
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)


async def test_broken_stream_of_a_live_agent_is_joined_again_once(bench: Any) -> None:
    bench.broken()
    assert (await bench.execute("broken", "drops")).outputs == {"calls": 2}
    assert (await bench.execute("broken", "drops-always")).code == "AGENT_LOST"


async def test_overloaded_agent_is_asked_again_after_a_while(bench: Any) -> None:
    bench.broken()
    assert (await bench.execute("broken", "overloaded")).outputs == {"calls": 3}


async def test_agent_that_stays_overloaded_is_a_queue_timeout(bench: Any) -> None:
    bench.broken()
    await bench.execute("broken", "echo")
    failure = await bench.execute("broken", "always-overloaded", timeouts=Timeouts(queue_ms=300))
    assert failure.code == "QUEUE_TIMEOUT"
    assert "overloaded" in failure.message


async def test_two_executes_share_one_start(bench: Any) -> None:
    bench.broken()
    outcomes = await asyncio.gather(*(bench.execute("broken", "pid") for _ in range(5)))
    assert len({outcome.outputs["pid"] for outcome in outcomes}) == 1
    assert bench.states() == ["starting", "serving"]


async def test_queue_timeout_says_what_was_waited_for(bench: Any, eventually: Any) -> None:
    bench.broken(env={"TEST_CAPACITY": "1"})
    task = bench.task("broken", "slow")
    running = asyncio.create_task(bench.factory.execute(task, bench.seen.append))
    await eventually(lambda: Stage("running") in bench.seen)
    failure = await bench.execute("broken", "echo", timeouts=Timeouts(queue_ms=100))
    assert failure.code == "QUEUE_TIMEOUT"
    assert "waits for a free slot of agent 'broken'" in failure.message
    await bench.factory.cancel(task.execution_id)
    await running
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)


async def test_full_queue_is_overloaded(bench: Any, eventually: Any) -> None:
    bench.broken(capacity=1, options={"queue_limit": 1})
    await bench.execute("broken", "echo")
    bench.seen.clear()
    tasks = [bench.task("broken", "slow") for _ in range(2)]
    running = [asyncio.create_task(bench.factory.execute(task, bench.seen.append)) for task in tasks]
    await eventually(lambda: Stage("running") in bench.seen and bench.factory.waiting(tasks[1].execution_id))
    failure = await bench.execute("broken", "echo")
    assert (failure.code, failure.retryable) == ("OVERLOADED", True)
    for task in tasks:
        await bench.factory.cancel(task.execution_id)
    assert {outcome.code for outcome in await asyncio.gather(*running)} == {"CANCELLED"}


async def test_replicas_are_added_up_to_the_maximum_when_all_are_busy(bench: Any, eventually: Any) -> None:
    bench.broken(capacity=1, max_replicas=2)
    tasks = [bench.task("broken", "slow") for _ in range(3)]
    running = [asyncio.create_task(bench.factory.execute(task, bench.seen.append)) for task in tasks]
    await eventually(lambda: bench.seen.count(Stage("running")) == 2)
    assert bench.states().count("serving") == 2
    status = next(s for s in await bench.factory.status() if s.name == "broken")
    assert [r.in_flight for r in status.replicas] == [1, 1]
    assert status.waiting == 1
    assert status.health is not None
    for task in tasks:
        await bench.factory.cancel(task.execution_id)
    await asyncio.gather(*running)


async def test_sidecar_gets_an_allow_list_of_variables_only(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_ENGINE", "x")
    bench.broken(env={"EXTRA": "1"})
    names = (await bench.execute("broken", "environment")).outputs["names"]
    assert "SECRET_OF_THE_ENGINE" not in names
    assert {"PATH", "EXTRA", "NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL"} <= set(names)


async def test_long_runtime_folder_falls_back_to_a_short_one(bench: Any) -> None:
    folder = bench.folder / ("x" * 100)
    bench.factory._places = (folder, *bench.factory._places[1:])
    bench.broken()
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    assert not list(folder.iterdir())


async def test_tcp_is_used_where_it_is_asked_for(bench: Any) -> None:
    bench.broken(options={"listen": "tcp"})
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)


async def test_release_reaches_started_agents_only(bench: Any) -> None:
    bench.broken()
    bench.broken(name="idle")
    await bench.execute("broken", "echo")
    await bench.factory.release(RunId("r1"), ["broken", "idle", "unknown"])
    assert (await bench.execute("broken", "released")).outputs == {"runs": ["r1"]}
    assert bench.states("idle") == []


async def test_release_takes_bounded_time(bench: Any) -> None:
    bench.broken("ignores-cancel")
    await bench.execute("broken", "echo")
    began = time.monotonic()
    await bench.factory.release(RunId("r1"), ["broken"], grace_s=0.2)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("behaviour", ["ok", "stubborn"])
async def test_close_leaves_no_process(bench: Any, eventually: Any, behaviour: str) -> None:
    bench.broken(behaviour)
    pid = (await bench.execute("broken", "pid")).outputs["pid"]
    child = (await bench.execute("broken", "child")).outputs["pid"]
    await bench.factory.close(grace_s=0.5)
    assert not psutil.pid_exists(pid)
    # Killed before `close` returns, but nobody's child any more: the system takes it away in its own time.
    await eventually(lambda: ended(child))
    assert not list((bench.folder / "run").iterdir())


async def test_close_cancels_what_goes_on(bench: Any, eventually: Any) -> None:
    bench.broken()
    running = asyncio.create_task(bench.execute("broken", "hang"))
    await eventually(lambda: Stage("running") in bench.seen)
    await bench.factory.close(grace_s=0.2)
    assert (await running).code == "CANCELLED"


async def test_status_shows_process_and_its_memory(bench: Any, eventually: Any) -> None:
    bench.broken()
    pid = (await bench.execute("broken", "pid")).outputs["pid"]
    pool = bench.factory._pools["broken"]
    await eventually(lambda: pool.replicas[0].memory_bytes)
    status = next(s for s in await bench.factory.status() if s.name == "broken")
    assert (status.state, status.replicas[0].pid) == ("serving", pid)
    assert status.replicas[0].memory_bytes > 1_000_000


@pytest.mark.parametrize("code", ["UNKNOWN", "UNIMPLEMENTED", "INVALID_ARGUMENT", "PERMISSION_DENIED"])
async def test_status_of_a_call_is_mapped(bench: Any, code: str) -> None:
    bench.broken()
    failure = await bench.execute("broken", f"status-{code}")
    expected = "AGENT_UNAUTHENTICATED" if code == "PERMISSION_DENIED" else "AGENT_PROTOCOL_ERROR"
    assert isinstance(failure, Failure)
    assert failure.code == expected


async def test_engine_killed_with_9_leaves_no_agent(tmp_path: Path, eventually: Any) -> None:
    script = Path(__file__).with_name("engine_to_kill.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    agent = int(await process.stdout.readline())
    assert psutil.pid_exists(agent)
    os.kill(process.pid, 9)
    await process.wait()
    await eventually(lambda: ended(agent))
