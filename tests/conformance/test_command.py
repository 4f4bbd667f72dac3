"""`noa agent check`: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from noa.cli import main
from noa.testing.conformance import CASES, Target
from noa.testing.conformance.process import AgentProcess

FOLDER = Path(__file__).parent
NOA = (sys.executable, "-c", "from noa.cli import main; main()")
ECHO = (sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent")
QUICK = ("--only", "health.manifest", "--only", "cancel.t*")
SAMPLES = ("--env", f"PYTHONPATH={FOLDER}")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short private folder that is TMPDIR of the program; at the end nothing of an agent is in it."""
    with tempfile.TemporaryDirectory(prefix="noa-") as made:
        yield Path(made)
        assert [path.name for path in Path(made).glob("noa-*")] == []


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(place), "NO_COLOR": "1"}


def check(place: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NOA, "agent", "check", *words],
        env=environment(place) | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def launched_below(place: Path) -> list[int]:
    """Processes whose TMPDIR lies in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("TMPDIR", "").startswith(f"{place}/") and process.status() != "zombie":
                found.append(process.pid)
    return found


def test_cases_are_listed_with_what_they_require(place: Path) -> None:
    listed = json.loads(check(place, "--list", "--format", "json").stdout)
    assert [row["id"] for row in listed] == list(CASES)
    text = check(place, "--list", "--only", "cancel.*").stdout
    assert "cancel.grace\n    " in text
    assert "launch.unix" not in text


def test_an_agent_that_passes_is_told_line_by_line(place: Path) -> None:
    done = check(place, *QUICK, "--command", shlex.join(ECHO))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        ["✓", "health.manifest"],
        ["✓", "cancel.twice"],
        ["✓", "cancel.target"],
    ]
    assert lines[-1].startswith("3 passed, 0 failed, 0 skipped in ")
    assert "echo 1 (python)" in lines[-1]


def test_json_stands_alone_on_stdout(place: Path) -> None:
    done = check(place, *QUICK, "--format", "json", "--", *ECHO)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["passed"], report["failed"], report["skipped"]) == (3, 0, 0)
    assert report["agent"] == "echo 1 (python)"
    assert report["cases"][0]["requirement"] == CASES["health.manifest"].requirement
    assert "✓ health.manifest" in done.stderr


def test_an_agent_that_ends_at_once_fails_with_its_last_words_and_what_to_change(place: Path) -> None:
    words = (sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)")
    done = check(place, "--only", "launch.unix", "--only", "calls.*", "--", *words)
    assert done.returncode == 1, done.stderr
    assert "✗ launch.unix" in done.stdout
    assert "status 3" in done.stdout
    assert "| no luck" in done.stdout
    assert "to change: Bind the path" in done.stdout
    assert "skipped: the agent cannot be reached" in done.stdout


def test_junit_goes_to_a_file(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.xml"
    words = ("--format", "junit", "--output", str(file))
    done = check(place, "--only", "health.manifest", "--only", "execute.capacity", *words, "--", *ECHO)
    assert done.returncode == 0, done.stderr
    assert "✓ health.manifest" in done.stdout
    suite = ElementTree.parse(file).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "0", "1")
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        ("conformance.health", "manifest"),
        ("conformance.execute", "capacity"),
    ]


def test_an_agent_without_echo_is_checked_with_another_action(place: Path) -> None:
    words = ("--env", "NOA_AGENT_CONFORMANCE=0", *SAMPLES, "--only", "execute.*")
    asked = ("--action", "greet", "--input", '{"name": "you"}')
    done = check(place, *words, *asked, "--", sys.executable, "-m", "noa.sdk", "sample_agents:Greeter")
    assert done.returncode == 0, done.stdout
    for name in ("output", "terminal", "repeat", "input-schema", "id-length"):
        assert f"✓ execute.{name}" in done.stdout
    assert "- execute.panic              skipped: the agent has no action 'echo'" in done.stdout


def test_a_process_that_dies_in_one_case_does_not_fail_the_next_one(place: Path) -> None:
    words = ("--only", "execute.accepted", "--only", "execute.output", "--only", "execute.deadline-met")
    done = check(place, *words, *SAMPLES, "--", sys.executable, "-m", "noa.sdk", "sample_agents:Fragile")
    assert done.returncode == 1, done.stderr
    assert "✗ execute.output" in done.stdout
    assert "had ended with status 7" in done.stdout
    assert "✓ execute.deadline-met" in done.stdout


def test_a_declared_sidecar_is_checked_by_its_name(place: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "declares.py"
    plugin.write_text(
        "from noa.plugin import AgentDeclaration, hookimpl\n\n\n@hookimpl\ndef noa_agents():\n"
        f"    return [AgentDeclaration(name='parrot', kind='sidecar', command={ECHO!r}),\n"
        "            AgentDeclaration(name='inside', factory=dict)]\n"
    )
    done = check(place, *QUICK, "--plugin", str(plugin), "parrot")
    assert done.returncode == 0, done.stdout + done.stderr
    done = check(place, *QUICK, "--plugin", str(plugin), "inside")
    assert done.returncode == 2
    assert "there is nothing to launch" in done.stderr


def test_an_agent_at_an_address_is_checked_with_its_token(place: Path) -> None:
    process = AgentProcess(Target(command=ECHO), tcp=True)
    try:
        words = (*QUICK, "--only", "launch.tcp", "--address", process.listen)
        done = check(place, *words, "--token-env", "THE_TOKEN", THE_TOKEN=process.token)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "- launch.tcp                 skipped: the agent was not launched by the checker" in done.stdout
        done = check(place, *words, "--token", "wrong")
        assert done.returncode == 1
        assert "UNAUTHENTICATED" in done.stdout
        assert process.status is None
        again = ("--only", "execute.*", "--address", process.listen, "--token", process.token)
        for _ in range(2):
            done = check(place, *again)
            assert done.returncode == 0, "an agent that goes on is checked anew: " + done.stdout
    finally:
        process.end()


def test_why_an_address_cannot_be_reached_is_said(place: Path) -> None:
    done = check(place, "--address", "127.0.0.1:1", "--timeout", "1")
    assert done.returncode == 1
    assert "127.0.0.1:1: nothing listens there (connection refused)" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say which agent is to be checked"),
        (("--command", "x", "--address", "y:1"), "say which agent is to be checked"),
        (("no-such-agent",), "neither a declared agent nor a program"),
        (("--command", "./no-such-agent"), "does not exist"),
        (("--command", "no-such-agent --flag"), "was not found in PATH"),
        (("--command", "'x"), "cannot be split"),
        (("--only", "nothing.*", "--", *ECHO), "no case matches 'nothing.*'"),
        (("--env", "X", "--", *ECHO), "expected NAME=VALUE"),
        (("--env", "NOA_AGENT_TOKEN=x", "--", *ECHO), "is set by the check itself"),
        (("--address", "nowhere"), "expected HOST:PORT"),
        (("--address", "localhost:99999"), "expected HOST:PORT"),
        (("--timeout", "nan", "--", *ECHO), "expected a number of seconds"),
        (("--timeout", "inf", "--", *ECHO), "expected a number of seconds"),
        (("--input", "{}", "--", *ECHO), "name the action too"),
        (("--action", "a", "--input", "[]", "--", *ECHO), "is not a JSON object"),
        (("--token", "x", "--", *ECHO), "go with --address"),
        (("--address", "127.0.0.1:1", "--token-env", "NO_SUCH_VARIABLE"), "is not set"),
        (("--address", "127.0.0.1:1", "--ca-file", "/no/such.pem"), "cannot be read"),
        (("--address", "127.0.0.1:1", "--ca-file", __file__), "is not PEM: expected a certificate"),
        (("--action", "nosuch", "--", *ECHO), "the agent has no action 'nosuch'. It has: echo"),
        (("--output", "/no/such/file", "--", *ECHO), "its folder does not exist"),
    ],
)
def test_a_wrong_call_is_explained_with_status_2(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["agent", "check", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 3), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_and_every_process(place: Path, number: signal.Signals, status: int) -> None:
    words = [*NOA, "agent", "check", "--only", "execute.*", "--", *ECHO]
    with subprocess.Popen(words, env=environment(place), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("✓ execute.accepted")
        assert launched_below(place)
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(30) == status
    assert launched_below(place) == []
