"""Runs that are interrupted, killed, cancelled from elsewhere and resumed: nothing lost, nothing twice, nobody left."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Noa, alive, wait_for

Define = Callable[..., Path]


def task(action: str, noa: Noa, agent: str = "helper", **inputs: Any) -> dict[str, Any]:
    return {"agent": agent, "action": action, "inputs": {"folder": str(noa.folder), **inputs}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_cancelled_and_leaves_no_process(
    noa: Noa, definition: Define, sidecar: dict[str, Any], number: signal.Signals
) -> None:
    process = noa.start("run", definition([task("hold", noa, "aside")], **sidecar), "--run-id", "mine")
    agent = int(noa.wait_file("held"))
    assert agent != process.pid
    process.send_signal(number)
    done = noa.end(process)
    assert done.code == 3
    assert "■ flow cancelled" in done.out
    assert "reason: interrupted" in done.out
    assert not alive(agent)
    cancelled = [
        json.loads(line) for line in noa("events", "mine", "--type", "cancel_requested", "--json").out.splitlines()
    ]
    assert [event["reason"] for event in cancelled] == ["interrupted"]


def test_a_second_interrupt_stops_at_once_and_the_run_can_be_resumed(
    noa: Noa, definition: Define, sidecar: dict[str, Any]
) -> None:
    process = noa.start("run", definition([task("deaf", noa, "aside")], **sidecar), "--run-id", "mine")
    agent = int(noa.wait_file("held"))
    process.send_signal(signal.SIGINT)
    said = noa.line(process.stderr)
    assert "again (Ctrl-C) stops at once, and `noa resume mine` then finishes the cancellation" in said
    wait_for(lambda: noa("events", "mine", "--type", "cancel_requested").out)
    process.send_signal(signal.SIGINT)
    done = noa.end(process)
    assert done.code == 3
    assert "the cancellation of run mine is recorded and not finished. Finish it with: noa resume mine" in done.err
    why = noa("why", "mine").out
    assert "its cancellation is recorded (interrupted): finish it with `noa resume mine`" in why
    assert "a resume ends it" in why
    wait_for(lambda: not alive(agent))
    assert noa("resume", "mine").code == 3, "the cancellation was recorded, so going on ends it"


def test_a_killed_run_goes_on_without_doing_anything_twice(
    noa: Noa, definition: Define, sidecar: dict[str, Any]
) -> None:
    file = definition([task("count", noa), task("hold", noa, "aside")], [task("count", noa, mark="after")], **sidecar)
    process = noa.start("run", file, "--run-id", "mine")
    agent = int(noa.wait_file("held"))
    process.kill()
    noa.end(process)
    wait_for(lambda: not alive(agent))
    why = noa("why", "mine")
    assert "no engine drives this run: go on with `noa resume mine`" in why.out
    assert "s1/hold was going on with agent 'aside'" in why.out
    assert not noa("why", "mine", "--json").json["driven"]
    noa.write("go", "")
    file.write_text("changed since")
    done = noa("resume", "mine")
    assert done.code == 0, done.err
    assert "flow goes on: run mine, 1 task done before" in done.out
    assert (noa.folder / "done").read_text() == "x\n"
    assert (noa.folder / "after").read_text() == "x\n"
    shown = noa("show", "mine", "--json").json
    assert (shown["status"], shown["resumed"]) == ("succeeded", 1)


def test_a_run_is_cancelled_from_another_process(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa), "greet"]), "--run-id", "mine")
    noa.wait_file("held")
    done = noa("cancel", "mine", "--reason", "wrong folder")
    assert (done.code, done.out) == (0, "run mine: cancelled\n")
    ended = noa.end(process)
    assert ended.code == 3
    assert "reason: wrong folder" in ended.out
    assert "wrong folder" in noa("show", "mine").out
    assert noa("show", "mine", "--json").json["cancel_reason"] == "wrong folder"
    again = noa("cancel", "mine", "--json")
    assert (again.code, again.json) == (0, {"run_id": "mine", "status": "cancelled"})


def test_a_run_that_nobody_drives_is_cancelled_without_executing_anything_again(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa)]), "--run-id", "mine")
    noa.wait_file("held")
    process.kill()
    noa.end(process)
    (noa.folder / "held").unlink()
    done = noa("cancel", "mi", "--reason", "given up")
    assert (done.code, done.out) == (0, "run mine: cancelled\n")
    assert not (noa.folder / "held").exists()


def test_a_dead_run_without_its_plugin_says_that_the_plugin_is_needed(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa)]), "--run-id", "mine")
    noa.wait_file("held")
    process.kill()
    noa.end(process)
    why = noa("why", "mine", plugin=False)
    assert why.code == 0
    assert "no engine drives this run: go on with `noa resume mine --plugin FILE.py`" in why.out
    assert "s1/hold is not over (attempt 1); its engine went away" in why.out
    for command in ("resume", "cancel"):
        done = noa(command, "mine", plugin=False)
        assert (done.code, done.out) == (2, "")
        assert "without the plugins with which it was begun: name each by --plugin FILE.py" in done.err
        assert "declare it under" not in done.err
    assert "its cancellation is recorded (cancelled)" in noa("why", "mine", plugin=False).out


def test_a_run_that_a_live_process_drives_is_not_taken_over(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa)]), "--run-id", "mine")
    noa.wait_file("held")
    done = noa("resume", "mine")
    assert done.code == 2
    assert "error[RUN_OWNED]" in done.err
    assert re.search(r"mine .* running .*ago +[1-9][\d.]* (ms|s)$", noa("runs").out, re.M)
    why = noa("why", "latest").out
    assert "it is driven by a live process" in why
    assert "s1/hold runs 'hold' on agent 'helper' since" in why
    noa.write("go", "")
    assert noa.end(process).code == 0
    assert "waits for nothing: it succeeded" in noa("why", "mine").out


def test_what_is_over_is_neither_resumed_nor_cancelled(noa: Noa, definition: Define) -> None:
    assert noa("run", definition(["greet"]), "--run-id", "mine").code == 0
    for command in ("resume", "cancel"):
        done = noa(command, "mine")
        assert (done.code, done.out) == (2, "")
        assert "error[RUN_STATE]: run mine is over: it succeeded" in done.err


def test_following_events_and_logs_ends_with_the_run(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa), "greet"]), "--run-id", "mine")
    noa.wait_file("held")
    events = noa.start("events", "mine", "--follow", "--json")
    logs = noa.start("logs", "mine", "--follow")
    first = json.loads(noa.line(events.stdout))
    assert (first["seq"], first["type"]) == (1, "run_created")
    noa.write("go", "")
    assert noa.end(process).code == 0
    rest = [json.loads(line) for line in noa.end(events).out.splitlines()]
    assert [event["seq"] for event in rest] == list(range(2, len(rest) + 2))
    assert rest[-1]["type"] == "run_finished"
    assert "s1/greet greeting you" in noa.end(logs).out
