"""Supervised runs: what waits for a person, and what people say at a second terminal, whatever dies meanwhile."""

import asyncio
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from noa.cli.app import app
from noa.model.events import RunCreated, RunFinished
from noa.model.ids import RunId
from noa.storage import SqliteJournal

from .conftest import PLUGIN, Done, Noa, wait_for

Define = Callable[..., Path]

NO_PLUGIN = frozenset({"audit", "events", "token", "runs"})


def look(noa: Noa, *args: object, token: str = "", plugin: bool = True) -> Done:
    """Call a command that starts no engine in this process, which is quicker."""
    more = ["--plugin", str(PLUGIN)] if plugin and args[0] not in NO_PLUGIN else []
    command = [*map(str, args), *more, "--home", str(noa.folder / ".noa")]
    done = CliRunner().invoke(app, command, env={"NOA_ACTOR_TOKEN": token or None})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def task(action: str, noa: Noa, name: str = "", **keys: Any) -> dict[str, Any]:
    inputs = {} if action == "greet" else {"folder": str(noa.folder)}
    return {"name": name or action, "action": action, "inputs": inputs, **keys}


def counted(noa: Noa) -> int:
    """How often the action `count` was done."""
    path = noa.folder / "done"
    return len(path.read_text().splitlines()) if path.exists() else 0


def begin(noa: Noa, file: Path, *more: str, subject: str = "") -> subprocess.Popen[str]:
    """Start a run, and wait until something waits for a person."""
    process = noa.start("run", file, "--run-id", "mine", *more)
    read = ""
    while "answer with" not in read or subject not in read:
        line = noa.line(process.stdout)
        assert line, f"it ended:\n{read}"
        read += line
    wait_for(lambda: "waits for a person" in look(noa, "approvals").out)  # it is said a moment before it is on disk
    return process


def left(noa: Noa, file: Path) -> None:
    """A run that waits for people, and that no engine drives."""
    done = noa("run", file, "--run-id", "mine", "--no-wait", "-q")
    assert done.code == 4, done.out + done.err


def signals(noa: Noa, run: str = "mine") -> list[dict[str, Any]]:
    """What was said about a run, by its audit log."""
    return [entry for entry in look(noa, "audit", run, "--people", "--json").json if entry["signal"]]


APPROVAL = {
    "prompt": "Ship ${{ stages.s1.greet.outputs.greeting }}?",
    "show": {"folder": "${{ task.inputs.folder }}", "size": 3},
    "timeout": "2h",
}


# --- approvals


def test_what_waits_is_shown_and_approved_at_a_second_terminal(noa: Noa, definition: Define) -> None:
    process = begin(noa, definition([task("greet", noa)], [task("count", noa, approval=APPROVAL)]))
    shown = look(noa, "approvals").out
    assert "flow (run mine)" in shown
    assert "s2/count waits for a person since" in shown
    assert "Ship Hello, you?" in shown
    assert re.search(rf"does +'count' by agent 'helper', inputs .*{noa.folder}", shown)
    assert re.search(r"size +3\n", shown)
    assert "noa approve mine s2/count   (or: noa reject mine s2/count --reason TEXT)" in shown
    assert re.search(r"otherwise +'reject' counts in 1 h 59 min", shown)
    (entry,) = look(noa, "approvals", "mine", "--json").json
    assert (entry["task"], entry["kind"], entry["driven"]) == ("s2/count", "approval", True)
    assert entry["show"] == {"folder": str(noa.folder), "size": 3}
    why = look(noa, "why", "mine").out
    assert "answer with: noa approve mine s2/count   (or: noa reject mine s2/count --reason TEXT)" in why
    assert counted(noa) == 0
    approved = look(noa, "approve", "mine", "--reason", "tests are green")
    assert (approved.code, approved.out) == (0, "s2/count: approved\n")
    assert noa.end(process).code == 0
    assert counted(noa) == 1
    assert re.search(r"people\n.* approved s2/count: tests are green\n", look(noa, "show", "mine").out)
    assert look(noa, "approvals").out == "nothing waits for a person\n"
    late = look(noa, "approve", "mine")
    assert late.code == 2
    assert "run mine is over (succeeded): nothing can be changed about it" in late.err


def test_a_rejected_task_fails_and_its_chain_is_not_asked(noa: Noa, definition: Define) -> None:
    held = task("count", noa, approval=True, recovery=[{"retry": {"max_attempts": 5}}])
    process = begin(noa, definition([held]))
    for args in (["reject", "mine"], ["reject", "mine", "--reason", ""]):
        refused = look(noa, *args)
        assert refused.code in (1, 2)
        assert "eason" in refused.err
    rejected = look(noa, "reject", "mine", "s1/count", "--reason", "not on a Friday", "--json")
    assert (rejected.code, rejected.json["status"]) == (0, "applied")
    done = noa.end(process)
    assert done.code == 1
    assert re.search(r"REJECTED\]: 's1/count' was rejected by .*: not on a Friday", done.out)
    assert counted(noa) == 0


def test_only_those_named_approve_by_their_tokens_as_many_as_are_needed_and_not_who_began(
    noa: Noa, definition: Define
) -> None:
    tokens = {name: look(noa, "token", "add", name).out.strip() for name in ("ann", "bob", "eve")}
    kept = noa.folder / ".noa" / "tokens.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert not [text for text in tokens.values() if text in kept.read_text()]
    rule = {"approvers": ["ann", "bob", "cid"], "quorum": 2, "four_eyes": True}
    process = begin(noa, definition([task("count", noa, approval=rule)]))
    shown = look(noa, "approvals").out
    assert re.search(r"may approve +ann, bob, cid; 0 of 2 did", shown)
    wrong = look(noa, "approve", "mine", token="noa_wrong")
    assert wrong.code == 2
    assert "NOA_ACTOR_TOKEN is no token" in wrong.err
    assert signals(noa) == []
    for token, words in ((tokens["eve"], "'eve' is not among those who may answer: ann, bob, cid"), ("", "not among")):
        refused = look(noa, "approve", "mine", token=token)
        assert (refused.code, refused.out) == (1, "")
        assert words in refused.err
    first = look(noa, "approve", "mine", token=tokens["ann"])
    assert first.out == "s1/count: approved, 1 of 2: others have to approve, too\n"
    again = look(noa, "approve", "mine", token=tokens["ann"])
    assert (again.code, "'ann' has approved it already" in again.err) == (1, True)
    assert "1 of 2 did (ann)" in look(noa, "approvals").out
    look(noa, "token", "remove", "bob")
    assert look(noa, "approve", "mine", token=tokens["bob"]).code == 2
    fresh = look(noa, "token", "add", "bob", "--json").json["token"]
    assert look(noa, "approve", "mine", token=fresh).out == "s1/count: approved\n"
    assert noa.end(process).code == 0
    said = [(entry["by"], entry["refused"] is None) for entry in signals(noa)]
    assert said[0] == ("eve", False)
    assert said[2:] == [("ann", True), ("ann", False), ("bob", True)]


def test_who_began_the_run_or_changed_the_task_does_not_approve_it(noa: Noa, definition: Define) -> None:
    token = look(noa, "token", "add", "ann").out.strip()
    process = begin(noa, definition([task("greet", noa, approval={"four_eyes": True})]))
    began = look(noa, "approve", "mine")
    assert (began.code, "began the run, and somebody else must approve" in began.err) == (1, True)
    assert look(noa, "edit", "mine", "s1/greet", "-i", "name=ann", token=token).code == 0
    changed = look(noa, "approve", "mine", token=token)
    assert (changed.code, "'ann' changed the task" in changed.err) == (1, True)
    shown = look(noa, "approvals").out
    assert re.search(r'inputs \{"name": "ann"\}', shown)
    assert re.search(r"may approve +anybody but \S+ and \S+\n", shown)
    assert look(noa, "mode", "mine", "auto").code == 0
    assert noa.end(process).code == 1


def test_a_stage_waits_for_its_approval_and_so_does_what_a_rule_names(noa: Noa, definition: Define) -> None:
    file = definition([task("greet", noa)], [task("count", noa), task("gated", noa)])
    whole = json.loads(file.read_text())
    whole["workflow"]["stages"][1]["approval"] = "open the second stage?"
    whole["workflow"]["supervise"] = {"when": "task.action.startsWith('gate')", "prompt": "by the rule"}
    file.write_text(json.dumps(whole))
    (noa.folder / "open").touch()
    process = begin(noa, file, subject="open the second")
    (entry,) = look(noa, "approvals", "--json").json
    assert (entry["task"], entry["inputs"], entry["question"]) == ("s2", None, "open the second stage?")
    assert look(noa, "approve", "mine", "s2").code == 0
    entry = wait_for(lambda: next((e for e in look(noa, "approvals", "--json").json if e["kind"] == "policy"), None))
    assert (entry["task"], entry["question"]) == ("s2/gated", "by the rule")
    assert look(noa, "approve", "mine").code == 0
    assert noa.end(process).code == 0


def test_what_waits_in_a_sub_workflow_is_found_by_the_run_that_one_knows(noa: Noa, definition: Define) -> None:
    definition([task("count", noa, approval="from within?")], name="inner")
    file = definition([task("greet", noa)], name="outer", mode="supervised")
    outer = json.loads(file.read_text())
    outer["workflow"]["stages"][0]["tasks"] = [{"name": "sub", "workflow": "inner.json", "inputs": {}}]
    file.write_text(json.dumps(outer))
    process = begin(noa, file, subject="from within?")
    for args in ([], ["mine"]):
        (entry,) = look(noa, "approvals", *args, "--json").json
        assert (entry["root"], entry["workflow"], entry["task"]) == ("mine", "inner", "s1/count")
    child = entry["run_id"]
    assert f"inner (run {child}, a sub-workflow of run mine)" in look(noa, "approvals").out
    assert look(noa, "pause", "mine").code == 0
    assert {(e["run_id"], e["kind"]) for e in look(noa, "approvals", "--json").json} == {
        ("mine", "paused"), (child, "paused"), (child, "approval"),
    }  # fmt: skip
    assert look(noa, "unpause", "mine").code == 0
    assert look(noa, "approve", "mine", "--json").json["run_id"] == child
    assert noa.end(process).code == 0
    audit = look(noa, "audit", "mine", "--json").json
    assert [entry["run_id"] for entry in audit if entry["kind"] == "approve"] == [child]


def test_without_the_plugin_a_run_is_shown_and_answered_all_the_same(noa: Noa, definition: Define) -> None:
    left(noa, definition([task("count", noa, approval={"prompt": "blind?", "quorum": 2})]))
    shown = look(noa, "approvals", plugin=False).out
    assert "s1/count waits for a person" in shown
    assert "may approve   anybody; 0 of 2 did" in shown
    assert f'inputs {{"folder": "{noa.folder}"}}' in shown
    done = look(noa, "approve", "mine", plugin=False)
    assert (done.code, done.out[:30]) == (0, "recorded: s1/count: approved. ")


# --- nothing that was said is lost


def test_what_is_said_while_no_engine_runs_is_kept_and_counts_in_its_order(noa: Noa, definition: Define) -> None:
    file = definition([task("count", noa, approval=True), task("greet", noa), task("gated", noa), task("hold", noa)])
    left(noa, file)
    assert (
        "no engine drives it: what you answer is kept, and counts once `noa resume mine` goes on"
        in look(noa, "approvals").out
    )
    kept = look(noa, "approve", "mine", "--reason", "by phone")
    assert kept.out == (
        "recorded: s1/count: approved. No engine drives the run: it counts once `noa resume mine` goes on\n"
    )
    assert "not taken yet: 1 word of people" in look(noa, "approvals").out
    for args, words in (
        (["approve", "mine", "s1/count"], "waits for no such answer"),
        (["reject", "mine", "s1/count", "--reason", "no"], "waits for no such answer"),
        (["edit", "mine", "s1/greet", "--inputs", '{"name": 5}'], "these inputs are not what 'greet'"),
        (["override", "mine", "s1/gated", "--outputs", '{"number": "x"}', "--reason", "r"], "are not what 'gated'"),
        (["reassign", "mine", "s1/greet", "helpre"], "agent 'helpre' is not known"),
        (["skip", "mine", "s1/gatde"], "Did you mean 's1/gated'?"),
        (["unpause", "mine"], "the run is not paused"),
        (["mode", "mine", "atuo"], "mode 'atuo' is not known"),
        (["mode", "mine", "supervised"], "in mode 'supervised' already"),
        (["cancel", "mine", "--stage", "s9"], "no task 's9'"),
    ):
        refused = look(noa, *args)
        assert (refused.code, refused.out) == (1, ""), args
        assert words in refused.err, refused.err
        assert "No engine drives the run; it will record that once one goes on with it" in refused.err
    assert look(noa, "edit", "mine", "s1/greet", "-i", "name=12").code == 0
    outputs = noa.write("outputs.json", '{"number": 41}')
    for args in (
        ["override", "mine", "s1/gated", "--outputs", f"@{outputs}", "--reason", "known"],
        ["skip", "mine", "s1/hold", "--reason", "too slow"],
    ):
        assert look(noa, *args).code == 0
    waiting = [entry for entry in look(noa, "audit", "mine", "--json").json if entry["seq"] is None]
    assert waiting[0]["kind"] == "approve"
    assert len(waiting) == 14
    done = noa("resume", "mine", "--json")
    assert done.code == 0, done.err
    assert done.json["tasks"] == {
        "s1/count": "succeeded", "s1/greet": "succeeded", "s1/gated": "succeeded", "s1/hold": "skipped",
    }  # fmt: skip
    assert counted(noa) == 1
    tasks = {t["path"]: t for t in look(noa, "show", "mine", "--json").json["stages"][0]["tasks"]}
    assert tasks["s1/greet"]["outputs"] == {"greeting": "Hello, 12"}
    assert tasks["s1/gated"]["outputs"] == {"number": 41}
    said = signals(noa)
    assert [entry["refused"] is None for entry in said] == [True, *[False] * 10, True, True, True]


def test_an_engine_that_is_killed_while_it_waits_loses_nothing(noa: Noa, definition: Define) -> None:
    process = begin(noa, definition([task("count", noa, approval=APPROVAL | {"prompt": "go?"})]))
    process.send_signal(signal.SIGSTOP)  # it lives, and hears nothing
    saying = subprocess.Popen(
        [*noa._command(("approve", "mine"), plugin=False), "--plugin", str(PLUGIN), "--reason", "yes"],
        cwd=noa.folder, env=noa._env({}), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    noa.started.append(saying)
    wait_for(lambda: [entry for entry in signals(noa) if entry["seq"] is None])
    process.kill()
    noa.end(process)
    out, _ = saying.communicate(timeout=60)
    assert saying.returncode == 0
    assert "recorded: s1/count: approved. No engine drives the run" in out
    assert noa("resume", "mine", "-q").code == 0
    assert counted(noa) == 1
    (said,) = signals(noa)
    assert (said["kind"], said["reason"], said["after"]) == ("approve", "yes", "1 of 1 approved")


ENGINE = """
import asyncio, os, signal, sys
from noa import Runtime
from noa.model.events import SignalApplied

when, file, plugin, home = sys.argv[1:]

def die(*events):
    if any(isinstance(event, SignalApplied) for event in events):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    from pathlib import Path
    on_event = (lambda run, seq, event: die(event)) if when == "between" else None
    async with Runtime(home=Path(home), plugins=(plugin,), on_event=on_event) as runtime:
        append = runtime.journal.append
        async def dying(lease, events, *, expected_seq):
            if when == "applying":
                die(*events)
            return await append(lease, events, expected_seq=expected_seq)
        runtime.journal.append = dying
        await (await runtime.start(file, run_id="mine")).wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["applying", "between"])
def test_an_engine_that_is_killed_while_it_applies_an_approval_or_before_it_acts_on_it(
    noa: Noa, definition: Define, when: str
) -> None:
    """`applying`: judged and not on disk. `between`: on disk, and the task not dispatched."""
    file = definition([task("count", noa, approval=True)])
    script = noa.write("engine.py", ENGINE)
    home = noa.folder / ".noa"
    process = subprocess.Popen([sys.executable, str(script), when, str(file), str(PLUGIN), str(home)], env=noa._env({}))
    wait_for(lambda: (home / "noa.db").exists() and "s1/count waits" in look(noa, "approvals").out)
    approved = look(noa, "approve", "mine")
    assert approved.code == 0, approved.err
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert counted(noa) == 0
    assert noa("resume", "mine", "-q").code == 0
    assert counted(noa) == 1, "approved once, done once"
    assert [entry["after"] for entry in signals(noa)] == ["1 of 1 approved"]


# --- interventions


def test_a_run_that_goes_on_is_changed_from_outside(noa: Noa, definition: Define) -> None:
    held = task("count", noa, approval=True)
    also = task("greet", noa, name="other")
    file = definition(
        [task("hold", noa)], [held, also, task("gated", noa), task("fail", noa, inputs={}, optional=True)]
    )
    process = noa.start("run", file, "--run-id", "mine", "--quiet")
    noa.wait_file("held")
    for args, words in (
        (["edit", "mine", "s1/hold", "-i", "folder=x"], "task 's1/hold' is running: wait for its end"),
        (["reassign", "mine", "s1/hold", "helper"], "task 's1/hold' is running"),
        (["approve", "mine", "s1/hold"], "waits for no such answer, it is running"),
        (["cancel", "mine", "--stage", "s2"], "stage 's2' has not begun"),
    ):
        refused = look(noa, *args)
        assert (refused.code, refused.out) == (1, ""), args
        assert words in refused.err
    for args, words in (
        (["edit", "mine", "s1/hold"], "say what is to change"),
        (["edit", "mine", "s1/hold", "-i", "x"], "expected NAME=VALUE"),
        (["edit", "mine", "s1/hold", "--inputs", "[1]"], "--inputs: expected a JSON object"),
        (["override", "mine", "s1/hold", "--outputs", "{x", "--reason", "r"], "--outputs:1:2: not JSON"),
        (["override", "mine", "s1/hold", "--outputs", "@nowhere.json", "--reason", "r"], "cannot be read"),
        (["override", "mine", "s1/hold", "--outputs", "{}"], "Missing option '--reason'"),
        (["cancel", "mine", "--task", "s1/hold", "--stage", "s1"], "either --task or --stage"),
        (["skip", "nosuch", "s1/hold"], "nosuch"),
        (["approve", "mine"], "nothing waits for an approval"),
    ):
        refused = look(noa, *args)
        assert (refused.code, refused.out) == (2, ""), args
        assert words in refused.err, refused.err
    done = look(noa, "override", "mine", "s1/hold", "--outputs", '{"held": false}', "--reason", "I know")
    assert (done.code, done.out) == (0, "s1/hold: has the outputs that you gave\n")
    wait_for(lambda: "s2/count waits" in look(noa, "approvals").out)
    for args, words in (
        (["edit", "mine", "s2/other", "--inputs", '{"name": 5}'], "these inputs are not what 'greet'"),
        (["override", "mine", "s2/gated", "--outputs", '{"number": "x"}', "--reason", "r"], "are not what 'gated'"),
        (["reassign", "mine", "s2/other", "helpre"], "Did you mean 'helper'?"),
        (["skip", "mine", "s1/hold"], "task 's1/hold' is over: it succeeded"),
    ):
        refused = look(noa, *args)
        assert (refused.code, refused.out) == (1, ""), args
        assert words in refused.err, refused.err
    for args in (
        ["cancel", "mine", "--task", "s2/fail", "--reason", "pointless"],
        ["skip", "mine", "s2/gated"],
        ["edit", "mine", "s2/other", "-i", "name=eve"],
        ["reassign", "mine", "s2/count", "helper", "greet", "--reason", "lighter"],
    ):
        done = look(noa, *args)
        assert done.code == 0, done.err
    assert re.search(r"does +'greet' by agent 'helper'", look(noa, "approvals").out)
    assert look(noa, "approve", "mine").code == 0
    assert noa.end(process).code == 0
    assert counted(noa) == 0
    shown = look(noa, "show", "mine", "--json").json
    tasks = {t["path"]: t for stage in shown["stages"] for t in stage["tasks"]}
    assert {path: t["status"] for path, t in tasks.items()} == {
        "s1/hold": "succeeded", "s2/count": "succeeded", "s2/other": "succeeded", "s2/gated": "skipped",
        "s2/fail": "cancelled",
    }  # fmt: skip
    assert (tasks["s1/hold"]["outputs"], tasks["s2/other"]["outputs"]) == ({"held": False}, {"greeting": "Hello, eve"})


def test_a_task_that_waits_for_its_next_attempt_is_tried_at_once(noa: Noa, definition: Define) -> None:
    slow = task("gated", noa, recovery=[{"ask": {"question": "open?"}}])
    process = begin(noa, definition([slow, task("greet", noa)], mode="supervised"))
    refused = look(noa, "retry", "mine", "--task", "s1/greet")
    assert (refused.code, "task 's1/greet' has not failed, it is pending" in refused.err) == (1, True)
    (noa.folder / "open").touch()
    done = look(noa, "retry", "mine", "--task", "s1/gated", "--reason", "it is open")
    assert (done.code, done.out) == (0, "s1/gated: is tried again\n")
    assert noa.end(process).code == 0


def test_a_paused_run_begins_nothing_and_says_how_it_goes_on(noa: Noa, definition: Define) -> None:
    process = noa.start("run", definition([task("hold", noa), task("count", noa)]), "--run-id", "mine", "--quiet")
    noa.wait_file("held")
    paused = look(noa, "pause", "mine", "--reason", "lunch")
    assert (paused.code, paused.out) == (0, "run mine: paused; it goes on with: noa unpause mine\n")
    assert "the run is paused already" in look(noa, "pause", "mine").err
    (noa.folder / "go").touch()
    wait_for(lambda: look(noa, "show", "mine", "--json").json["stages"][0]["tasks"][0]["status"] == "succeeded")
    (entry,) = look(noa, "approvals", "--json").json
    assert (entry["kind"], entry["answer_with"]) == ("paused", "noa unpause mine")
    assert "has paused it, and nothing more begins until `noa unpause mine`" in look(noa, "why", "mine").out
    assert re.search(r"status +paused\n", look(noa, "show", "mine").out)
    resumed = noa("resume", "mine")
    assert (resumed.code, "Let it go on with: noa unpause mine" in resumed.err) == (2, True)
    process.kill()
    noa.end(process)
    again = noa("resume", "mine", "--no-wait")
    assert again.code == 4, "who paused it is asked"
    assert "noa unpause mine" in again.out
    assert counted(noa) == 0
    assert look(noa, "unpause", "mine").code == 0
    assert noa("resume", "mine", "-q").code == 0
    assert counted(noa) == 1


@pytest.mark.parametrize(("answer", "code"), [("approve", 0), ("reject", 1)])
def test_in_mode_auto_nobody_is_waited_for_and_the_mode_changes_on_the_way(
    noa: Noa, definition: Define, answer: str, code: int
) -> None:
    file = definition([task("count", noa, approval={"timeout": "1h", "on_timeout": answer})])
    assert noa("run", file, "--mode", "auto", "-q").code == code
    process = begin(noa, file)
    assert look(noa, "show", "mine", "--json").json["mode"] == "supervised"
    assert look(noa, "mode", "mine", "auto", "--reason", "night").code == 0
    assert noa.end(process).code == code
    kinds = [(e["kind"], e["by"], e["before"], e["after"]) for e in look(noa, "audit", "mine", "--json").json]
    assert ("resolve", "mode auto", "held", answer) in kinds
    unknown = noa("run", file, "--mode", "atuo")
    assert (unknown.code, "mode 'atuo' is not known. Known: auto, debug, supervised" in unknown.err) == (2, True)


# --- cost


def test_what_waits_is_found_quickly_among_a_thousand_runs_that_are_over(noa: Noa, definition: Define) -> None:
    left(noa, definition([task("count", noa, approval=True)]))
    asyncio.run(fill(noa.folder / ".noa" / "noa.db"))
    began = time.process_time()
    (entry,) = look(noa, "approvals", "--json").json
    assert entry["run_id"] == "mine"
    assert time.process_time() - began < 3, "it reads only runs that are not over"


async def fill(path: Path) -> None:
    journal = SqliteJournal(path)
    await journal.open()

    async def over(number: int) -> None:
        run = RunId(f"over-{number}")
        created = RunCreated(at_ms=1, run_id=run, workflow="w", version="1", definitions={})
        lease = await journal.create(run, created, owner="", lease_ms=1, texts={})
        await journal.append(lease, [RunFinished(at_ms=2, status="succeeded")], expected_seq=1)

    await asyncio.gather(*(over(number) for number in range(1_000)))
    await journal.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="reads the processor time that Linux counts")
def test_a_run_that_is_held_costs_next_to_nothing(noa: Noa, definition: Define) -> None:
    import psutil

    process = noa.start("run", definition([task("count", noa, approval=True)]), "--run-id", "mine", "--quiet")
    assert process.stderr is not None
    assert "waits for a person" in noa.line(process.stderr)
    watched = psutil.Process(process.pid)
    used = [sum(watched.cpu_times()[:2])]
    for _ in range(3):  # what it still does of its start does not count
        time.sleep(2)
        used.append(sum(watched.cpu_times()[:2]))
    least = min(after - before for before, after in itertools.pairwise(used))
    assert least / 2 < 0.025, "measured: 0.003 of a core; a busy loop is far beyond"
