"""Runs that are answered, tried again, forked, rolled back, begun once, taken over: what a person types and reads."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from noa.cli.app import app

from .conftest import PLUGIN, Done, Noa

Define = Callable[..., Path]

pytestmark = pytest.mark.timeout(400)  # each starts several programs, which takes seconds on a busy machine


def task(action: str, noa: Noa, **keys: Any) -> dict[str, Any]:
    return {"action": action, "inputs": {"folder": str(noa.folder)}, **keys}


def marked(noa: Noa, mark: str, **keys: Any) -> dict[str, Any]:
    """A task that leaves a line in a file of this name each time that it is done."""
    return {"agent": "helper", "action": "count", "inputs": {"folder": str(noa.folder), "mark": mark}, **keys}


def undone(noa: Noa, mark: str, gate: str = "") -> dict[str, Any]:
    """A task with what undoes it; with a gate, only once that is open."""
    undo = {"agent": "helper", "action": "gated" if gate else "count", "recovery": []}
    inputs = {"folder": str(noa.folder), **({"gate": gate} if gate else {"mark": f"un{mark}"})}
    return marked(noa, mark, name=mark, compensate={**undo, "inputs": inputs})


def look(noa: Noa, *args: object) -> Done:
    """Call a command that starts no engine in this process, which is quicker."""
    more = ["--plugin", str(PLUGIN)] if args[0] in ("answer", "show", "why") else []
    done = CliRunner().invoke(app, [*map(str, args), *more, "--home", str(noa.folder / ".noa")])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def lines_of(noa: Noa, mark: str) -> int:
    path = noa.folder / mark
    return len(path.read_text().splitlines()) if path.exists() else 0


def read_until(noa: Noa, process: subprocess.Popen[str], words: str) -> str:
    """What a process printed up to the line with these words."""
    read = ""
    while words not in read:
        line = noa.line(process.stdout)
        assert line, f"it ended before it said '{words}':\n{read}"
        read += line
    return read


ASKS = [{"ask": {"question": "Is it open now? ${{ failure.message }}"}}]


# --- people


def test_a_task_that_waits_for_a_person_is_answered_from_another_process(noa: Noa, definition: Define) -> None:
    file = definition([task("gated", noa, recovery=ASKS), "greet"])
    process = noa.start("run", file, "--run-id", "mine")
    said = read_until(noa, process, "answer with")
    assert "s1/gated waits for a person: Is it open now? the gate 'open' is shut" in said
    assert "noa answer mine s1/gated retry   (or: skip, override, fail, rollback)" in said
    why = look(noa, "why", "mine").out
    assert re.search(r"s1/gated is held for a person since [\d.]+ s: Is it open now\?", why)
    assert "answer with: noa answer mine s1/gated retry" in why
    assert "s1/greet waits for s1/gated (since" in why
    again = noa("answer", "mine", "s1/gated", "retry", "--reason", "looks open")
    assert (again.code, again.out) == (0, "s1/gated: 'retry' is taken\n")
    read_until(noa, process, "answer with")
    noa.write("open", "")
    assert noa("answer", "mine", "retry", "--json").json["status"] == "applied"
    done = noa.end(process)
    assert done.code == 0, done.out
    shown = look(noa, "show", "mine").out
    assert re.search(r"people\n.* answered 'retry' for s1/gated: looks open\n", shown)
    assert re.search(r"s1/gated +succeeded .*attempt 3", shown)
    over = look(noa, "answer", "mine", "skip")
    assert over.code == 2
    assert "run mine is over (succeeded): nothing of it waits for an answer" in over.err


def test_without_waiting_a_held_run_is_left_with_4_and_goes_on_once_it_is_answered(
    noa: Noa, definition: Define
) -> None:
    file = definition([task("gated", noa, recovery=ASKS)], outputs={"n": "${{ stages.s1.gated.outputs.number }}"})
    left = noa("run", file, "--run-id", "mine", "--no-wait", "--json")
    assert left.code == 4, left.err
    assert left.json["status"] == "waiting"
    assert [(q["task"], q["answer_with"]) for q in left.json["questions"]] == [
        ("s1/gated", "noa answer mine s1/gated retry")
    ]
    assert "answer what is asked, then go on with `noa resume mine`" in look(noa, "why", "mine").out
    listed = look(noa, "answer", "mine").out
    assert re.match(r"s1/gated waits for a person since .*: Is it open now\?", listed)
    assert "no process drives the run: an answer is recorded" in listed
    for args, words in (
        (["perhaps"], "choice 'perhaps' is not known. Known: retry, skip, override, fail, rollback"),
        (["override"], "the choice override needs the outputs that the task is to have"),
        (["override", "--outputs", "{number: 1}"], "--outputs:1:2: not JSON"),
        (["override", "--outputs", '{"number": "many"}'], "--outputs do not fit what action 'gated'"),
        (["s1/other", "skip"], "task 's1/other' does not wait for a person. Tasks that do: s1/gated"),
    ):
        refused = look(noa, "answer", "mine", *args)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err
    file = noa.write("outputs.json", '{"number": 12}')
    given = look(noa, "answer", "mine", "override", "--outputs", f"@{file}", "--reason", "by hand")
    assert (given.code, given.out) == (
        0,
        "recorded: 'override' for s1/gated; `noa resume mine` goes on with it\n",
    )
    done = noa("resume", "mine")
    assert done.code == 0, done.err
    assert re.search(r"n +12", done.out)
    assert re.search(r"s1/gated +outputs given by .*: by hand; after SHUT: the gate 'open' is shut", done.out)


def test_what_a_sub_workflow_asks_is_answered_by_the_run_that_one_knows(noa: Noa, definition: Define) -> None:
    definition([task("gated", noa, recovery=ASKS)], name="inner")
    file = definition([{"agent": "helper", "action": "greet"}], name="outer")
    outer = json.loads(file.read_text())
    outer["workflow"]["mode"] = "supervised"
    outer["workflow"]["stages"][0]["tasks"] = [{"name": "sub", "workflow": "inner.json", "inputs": {}}]
    file.write_text(json.dumps(outer))
    left = noa("run", file, "--run-id", "mine", "--no-wait")
    assert left.code == 4, left.out + left.err
    assert "noa answer mine." in left.out
    why = look(noa, "why", "mine").out
    assert "sub-workflow inner (run mine." in why
    assert look(noa, "answer", "mine", "skip").code == 0
    assert noa("resume", "mine", "-q").code == 0


# --- tried again, forked, undone


def test_a_failed_run_is_tried_again_without_doing_twice_what_succeeded(noa: Noa, definition: Define) -> None:
    file = definition([marked(noa, "first"), task("gated", noa)], [marked(noa, "last")])
    failed = noa("run", file, "--run-id", "mine")
    assert failed.code == 1
    assert "noa retry mine    tries again what failed, and keeps what succeeded" in failed.out
    noa.write("open", "")
    done = noa("retry", "mine", "--reason", "it is open")
    assert done.code == 0, done.out + done.err
    assert re.search(r"flow goes on: run mine, 1 task done before; .* had the run tried again: it is open", done.out)
    assert (lines_of(noa, "first"), lines_of(noa, "last")) == (1, 1)
    refused = noa("retry", "mine")
    assert refused.code == 2
    assert "it succeeded; name a task to do again with --from TASK" in refused.err
    assert "it has no task 's1/frist'" in noa("retry", "mine", "--from", "s1/frist").err
    again = noa("retry", "mine", "--from", "s1/gated", "--json")
    assert again.json["status"] == "succeeded"
    assert (lines_of(noa, "first"), lines_of(noa, "last")) == (1, 2)


def test_a_rollback_says_what_was_undone_what_is_left_and_goes_on_when_tried_again(
    noa: Noa, definition: Define
) -> None:
    file = definition([undone(noa, "one"), undone(noa, "two", gate="bank"), undone(noa, "three"), "fail"],
                      on_failure="rollback")  # fmt: skip
    failed = noa("run", file, "--run-id", "mine")
    assert failed.code == 1
    summary = failed.out[failed.out.index("✗") :]
    assert "flow rollback failed" in summary
    assert re.search(r"undone\n +s1/three +by helper · count", summary)
    assert re.search(r"not undone\n(.*\n)?.* s1/two  SHUT: the gate 'bank' is shut", summary)
    assert "s1/one  not begun, as what came after it could not be undone" in summary
    assert re.search(r"noa retry mine +goes on undoing what is left", summary)
    why = look(noa, "why", "mine").out
    assert "it was rolled back in part" in why
    assert "`noa retry mine` goes on undoing what is left" in why
    noa.write("bank", "")
    done = noa("retry", "mine")
    assert done.code == 1, "a run that is rolled back did not do what was asked of it"
    assert "↶ flow rolled back" in done.out
    assert [lines_of(noa, mark) for mark in ("unone", "unthree")] == [1, 1]
    shown = look(noa, "show", "mine", "--json").json
    assert shown["rollback"]["status"] == "succeeded"
    assert {t["undoes"]: t["status"] for t in shown["rollback"]["tasks"]} == {
        "s1/one": "succeeded",
        "s1/two": "succeeded",
        "s1/three": "succeeded",
    }
    assert shown["left"] == []
    refused = noa("retry", "mine")
    assert refused.code == 2
    assert "it was undone" in refused.err


def test_a_run_that_succeeded_is_undone_by_hand(noa: Noa, definition: Define) -> None:
    assert noa("run", definition([undone(noa, "one")]), "--run-id", "mine", "-q").code == 0
    done = noa("rollback", "mine", "--reason", "ordered twice")
    assert done.code == 0, done.out + done.err
    assert "s1/one undone in" in done.out
    assert lines_of(noa, "unone") == 1
    assert re.search(r"mine +flow +rolled back", look(noa, "runs").out)


def test_a_fork_shares_the_past_and_leaves_the_old_run_alone(noa: Noa, definition: Define) -> None:
    greet = {"action": "greet", "inputs": {"name": "${{ inputs.name }}"}}
    file = definition([marked(noa, "first"), greet], inputs={"name": {"type": "string"}},
                      outputs={"text": "${{ stages.s1.greet.outputs.greeting }}"})  # fmt: skip
    old = noa("run", file, "--run-id", "mine", "--json", "-i", "name=Ann")
    before = look(noa, "events", "mine", "--json").out
    forked = noa("fork", "mine", "--at", "s1/greet", "-i", "name=Bob", "--json")
    assert forked.code == 0, forked.err
    assert (old.json["outputs"], forked.json["outputs"]) == ({"text": "Hello, Ann"}, {"text": "Hello, Bob"})
    assert lines_of(noa, "first") == 1, "what is shared is not done again"
    assert look(noa, "events", "mine", "--json").out == before
    assert re.search(r"forked from +run mine at event \d+", look(noa, "show", forked.json["run_id"]).out)
    assert noa("fork", "mine", "--at", "start", "-q").code == 0
    assert lines_of(noa, "first") == 2
    for at, words in (("99", "run mine has the events 1 to"), ("s1/gret", "Did you mean 's1/greet'?")):
        refused = noa("fork", "mine", "--at", at)
        assert (refused.code, refused.out) == (2, "")
        assert words in refused.err


# --- begun once


def test_the_same_key_gives_the_same_run(noa: Noa, definition: Define) -> None:
    file = definition([task("hold", noa), marked(noa, "first")], inputs={"n": {"type": "integer", "default": 1}})
    key = ("--run-key", "bill-11")
    first = noa.start("run", file, *key, "--run-id", "mine")
    noa.wait_file("held")
    second = noa.start("run", file, *key, "--json")
    assert "run mine was begun under the key 'bill-11' before: another process drives it" in noa.line(second.stderr)
    other = noa("run", file, *key, "-i", "n=2")
    assert (other.code, other.out) == (2, "")
    assert "run mine was started under the key 'bill-11' before, with other inputs" in other.err
    first.kill()
    noa.end(first)
    noa.write("go", "")
    followed = noa.end(second)
    assert followed.code == 0, followed.err
    assert (followed.json["run_id"], followed.json["status"]) == ("mine", "succeeded"), "it was taken over"
    third = noa("run", file, *key)
    assert third.code == 0
    assert "it is over, and this is its result" in third.err
    assert "✓ flow succeeded" in third.out
    assert [r["run_id"] for r in look(noa, "runs", "--json").json] == ["mine"]
    assert lines_of(noa, "first") == 1


# --- taken over


def kill_held(noa: Noa, file: Path, run: str) -> None:
    process = noa.start("run", file, "--run-id", run)
    noa.wait_file("held")
    process.kill()
    noa.end(process)
    (noa.folder / "held").unlink()


def test_every_abandoned_run_goes_on_and_the_worst_code_counts(noa: Noa, definition: Define) -> None:
    kill_held(noa, definition([task("hold", noa)]), "good")
    kill_held(noa, definition([task("hold", noa), "fail"], name="other"), "bad")
    noa.write("go", "")
    done = noa("resume", "--all")
    assert done.code == 1, done.err
    assert {re.sub(r"after [\d.]+ \w+", "after", line) for line in done.out.splitlines()} == {
        "run good (flow) goes on",
        "run bad (other) goes on",
        "run good (flow) succeeded after",
        "run bad (other) failed after: BROKEN: the widget is bent; straighten it",
    }
    nothing = noa("resume", "--all")
    assert (nothing.code, nothing.out) == (0, "no run is abandoned: each is over, or a live process drives it\n")
    for args in ([], ["good", "--all"], ["good", "--adopt"]):
        assert noa("resume", *args).code == 2


def test_a_resume_of_all_that_is_stopped_does_not_say_that_nothing_was_abandoned(noa: Noa, definition: Define) -> None:
    kill_held(noa, definition([task("hold", noa)]), "left")
    process = noa.start("resume", "--all")
    noa.wait_file("held")
    process.send_signal(signal.SIGTERM)
    stopped = noa.end(process)
    assert stopped.code == 3, stopped.err
    assert stopped.out.splitlines() == [
        "run left (flow) goes on",
        "stopped; 1 of the runs are not over. Go on with: noa resume --all",
    ]


@pytest.mark.parametrize("own", [False, True])
def test_a_process_that_adopts_takes_over_what_is_abandoned_later(noa: Noa, definition: Define, own: bool) -> None:
    waits = {"action": "hold", "inputs": {"folder": str(noa.folder / "own")}}
    (noa.folder / "own").mkdir()
    args = ["run", definition([waits], name="own"), "--adopt"] if own else ["resume", "--all", "--adopt"]
    keeper = noa.start(*args)
    if own:
        noa.wait_file("own/held")
    kill_held(noa, definition([task("hold", noa)]), "mine")
    read_until(noa, keeper, "took over run mine (flow)" if own else "run mine (flow) goes on")
    noa.write("go", "")
    read_until(noa, keeper, "run mine (flow) succeeded")
    noa.write("own/go", "") if own else keeper.send_signal(signal.SIGINT)
    done: Done = noa.end(keeper)
    assert done.code == 0, done.err
    assert look(noa, "show", "mine", "--json").json["status"] == "succeeded"
