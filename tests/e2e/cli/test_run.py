"""`noa run`: exit codes, output for people and programs, inputs."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import NOA, PLUGIN, Noa

Define = Callable[..., Path]


def test_a_run_that_succeeds_is_told_of_in_lines_and_exits_0(noa: Noa, definition: Define) -> None:
    file = definition(["greet"], ["greet"], outputs={"text": "${{ stages.s1.greet.outputs.greeting }}"})
    done = noa("run", file, "--input", "name=Ann")
    assert (done.code, done.err) == (0, "")
    words = [re.sub(r" in [\d.]+ m?s$", "", line[9:]) for line in done.out.splitlines()]
    assert words[0].startswith("flow started: run ")
    assert words[1:9] == [
        "s1 started (1 task)",
        "s1/greet started on helper",
        "s1/greet succeeded",
        "s1 succeeded",
        "s2 started (1 task)",
        "s2/greet started on helper",
        "s2/greet succeeded",
        "s2 succeeded",
    ]
    assert re.search(
        r"✓ flow succeeded in .*: 2 tasks \(run [\w-]+\)\n  outputs\n    text  Hello, Ann$", done.out.strip()
    )
    assert "\x1b" not in done.out


def test_a_run_that_fails_exits_1_and_says_what_failed_where_and_what_next(noa: Noa, definition: Define) -> None:
    done = noa("run", definition(["greet", "fail"], ["greet"]))
    assert done.code == 1
    summary = done.out[done.out.index("✗") :]
    assert "task s1/fail failed: action 'fail' of agent 'helper', 1 attempt" in summary
    assert "error[BROKEN]: the widget is bent; straighten it" in summary
    assert re.search(r"noa logs [\w-]+ ", summary)


def test_json_is_all_that_stdout_gets(noa: Noa, definition: Define) -> None:
    done = noa("run", definition(["greet"]), "--json", "--run-id", "mine")
    assert done.code == 0
    assert done.json["status"] == "succeeded"
    assert done.json["tasks"] == {"s1/greet": "succeeded"}
    assert done.json["run_id"] == "mine"
    assert "s1/greet succeeded" in done.err
    quiet = noa("run", definition(["fail"], name="bad"), "--json", "--quiet")
    assert (quiet.code, quiet.err) == (1, "")
    assert quiet.json["failure"]["code"] == "BROKEN"


def test_quiet_says_nothing_but_why_it_failed(noa: Noa, definition: Define) -> None:
    done = noa("run", definition(["greet"]), "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = noa("run", definition(["fail"], name="bad"), "-q")
    assert (done.code, done.out) == (1, "")
    assert "error[BROKEN]" in done.err


def test_inputs_are_read_as_declared_from_options_files_and_stdin(noa: Noa, definition: Define) -> None:
    inputs = {"name": {"type": "string"}, "n": {"type": "integer", "default": 1}, "any": {}}
    outputs = {"name": "${{ inputs.name }}", "n": "${{ inputs.n }}", "any": "${{ inputs.any }}"}
    file = definition(["greet"], inputs=inputs, outputs=outputs)
    done = noa("run", file, "--json", "-i", "name=5", "-i", "n=7", "-i", 'any={"a": [1]}')
    assert done.json["outputs"] == {"name": "5", "n": 7, "any": {"a": [1]}}
    done = noa("run", file, "--json", "--inputs", "-", "-i", "any=text", given='{"name": "Ann"}')
    assert done.json["outputs"] == {"name": "Ann", "n": 1, "any": "text"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "input 'name' is missing"),
        (["-i", "name=x", "-i", "n=many"], "input 'n': expected a whole number, got 'many'"),
        (["-i", "name=x", "-i", "nn=1"], "input 'nn' is not known. Known: n, name. Did you mean 'n'?"),
        (["-i", "name"], "expected NAME=VALUE"),
        (["--inputs", "nowhere.json"], "cannot be read: No such file"),
        (["-i", "name=x", "--run-id", "a/b"], "expected 1 to 100 letters"),
    ],
)
def test_inputs_that_do_not_fit_are_a_usage_error_and_nothing_runs(
    noa: Noa, definition: Define, args: list[str], words: str
) -> None:
    file = definition(["greet"], inputs={"name": {"type": "string"}, "n": {"type": "integer", "default": 1}})
    done = noa("run", file, *args)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert re.match(r"error\[[A-Z_]+\]: ", done.err)
    assert noa("runs", "--json").json == []


def test_every_mistake_of_a_definition_is_shown_with_its_line_and_nothing_runs(noa: Noa) -> None:
    text = "workflow:\n  name: w\n  version: '1'\n  stages:\n    - name: a\n      type: serial\n      taks: []\n"
    file = noa.write("bad.yaml", text)
    done = noa("run", file.name)
    assert (done.code, done.out) == (2, "")
    assert "bad.yaml:6:13: " in done.err
    assert "      type: serial\n                ^" in done.err
    assert "error[INVALID_DEFINITION]" in done.err
    done = noa("run", file.name, "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "INVALID_DEFINITION"


def test_a_run_id_is_taken_once(noa: Noa, definition: Define) -> None:
    file = definition(["greet"])
    assert noa("run", file, "--run-id", "mine").code == 0
    done = noa("run", file, "--run-id", "mine")
    assert done.code == 2
    assert "run 'mine' exists already" in done.err


def test_state_lives_where_home_says(noa: Noa, definition: Define) -> None:
    file = definition(["greet"])
    assert noa("run", file, "--home", "a").code == 0
    assert noa("run", file, NOA_HOME="b").code == 0
    assert [len(noa("runs", "--json", "--home", name).json) for name in ("a", "b")] == [1, 1]
    assert not (noa.folder / ".noa").exists()
    done = noa("run", file, "--home", file)
    assert done.code == 2
    assert "cannot be made" in done.err


def test_a_reader_that_goes_away_does_not_end_the_run(noa: Noa, definition: Define) -> None:
    file = definition([{"action": "hold", "inputs": {"folder": str(noa.folder)}}])
    process = noa.start("run", file, "--run-id", "mine")
    noa.wait_file("held")
    assert process.stdout is not None
    process.stdout.close()
    noa.write("go", "")
    process.stdout = None
    assert noa.end(process).code == 0
    assert noa("show", "mine", "--json").json["status"] == "succeeded"


def test_output_that_nobody_reads_ends_without_a_traceback(noa: Noa, definition: Define) -> None:
    assert noa("run", definition(["greet"]), "-q").code == 0
    done = subprocess.run(
        f"{NOA} schema | head -c 10; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=noa.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(done.stdout) == 10
    assert done.stderr == ""


def test_output_to_a_full_device_is_one_line_and_exits_1(noa: Noa, definition: Define) -> None:
    with Path("/dev/full").open("w") as full:
        for args in (["run", definition(["greet"]), "--run-id", "mine"], ["runs"], ["show", "mine", "--json"]):
            done = noa.end(noa.start(*args, stdout=full))
            assert done.code == 1
            assert done.err == "error: the output could not be written: No space left on device\n"
    assert noa("show", "mine", "--json").json["status"] == "succeeded", "the run itself went on to its end"


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_gets_a_live_drawing_and_colours_where_they_are_wanted(
    noa: Noa, definition: Define, no_color: bool
) -> None:
    file = definition(["greet"])
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **({"NO_COLOR": "1"} if no_color else {})}
    process = subprocess.Popen(
        [NOA, "run", file, "--plugin", PLUGIN], cwd=noa.folder, env=env, stdout=follower, stderr=follower
    )
    os.close(follower)
    screen = b""
    try:
        while part := os.read(leader, 65_536):
            screen += part
    except OSError:
        pass  # the terminal's other end was closed
    finally:
        os.close(leader)
    assert process.wait(30) == 0
    text = screen.decode()
    assert re.search(r"✓.*s1", text)
    assert "\x1b[?25l" in text, "the cursor is hidden while it draws"
    assert "\x1b[?25h" in text, "and shown again"
    assert bool(re.search(r"\x1b\[[\d;]*3[26]m", text)) != no_color


def test_progress_and_logs_are_kept_and_printed_by_logs(noa: Noa, definition: Define) -> None:
    noa.write("go", "")
    file = definition(["greet", {"action": "hold", "inputs": {"folder": str(noa.folder)}}])
    done = noa("run", file)
    assert "s1/hold warning: careful" in done.out
    assert "greeting" not in done.out
    assert "s1/greet info: greeting you" in noa("run", file, "-v").out
    logs = noa("logs", "latest")
    assert [line.split(" ", 1)[1] for line in logs.out.splitlines()] == [
        "s1/greet greeting you",
        "s1/hold warning: careful",
    ]
    lines = [json.loads(line) for line in noa("logs", "latest", "--task", "s1/hold", "--json").out.splitlines()]
    assert {line["task"] for line in lines} == {"s1/hold"}
    assert {"log", "progress"} <= {line["kind"] for line in lines}
    assert "nothing was logged by task s1/none" in noa("logs", "latest", "--task", "s1/none").err
