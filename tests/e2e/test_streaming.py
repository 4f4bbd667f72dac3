"""Output in pieces: it is seen while its task still works, complete and in order, and what was dropped is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.e2e.conftest import Noa

from noa.model.execution import OutputChunk
from noa.storage import ObservationStore

PIECES = 20
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    path = tmp_path / "talk.yaml"
    inputs = {"pieces": PIECES, "gate": str(tmp_path / "gate")}
    command = [sys.executable, "-m", "noa.sdk", "streaming_agent:Talker"]
    workflow = {
        "name": "talk",
        "agents": {"talker": {"command": command, "env": {"PYTHONPATH": str(Path(__file__).parent)}}},
        "stages": [
            {"name": "say", "type": "parallel", "tasks": [{"agent": "talker", "action": "talk", "inputs": inputs}]}
        ],
    }
    path.write_text(yaml.safe_dump({"workflow": workflow}))
    return path


@pytest.fixture
def running(noa: Noa, definition: Path) -> Iterator[subprocess.Popen[str]]:
    process = noa.start("run", definition, "--run-id", "r1", "--verbose")
    noa.wait_for_events(1, "run_created")
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def over(noa: Noa) -> bool:
    return bool(noa.events("attempt_succeeded"))


@pytest.mark.parametrize(
    "arguments", [["--output", "--task", "say/talk"], [], ["--json"]], ids=["output", "lines", "json"]
)
def test_first_piece_is_seen_while_the_task_works_and_the_others_follow(
    noa: Noa, running: subprocess.Popen[str], tmp_path: Path, arguments: list[str]
) -> None:
    follower = noa.start("logs", "r1", "--follow", *arguments)
    assert follower.stdout is not None
    seen = []
    while not any("piece 1" in line for line in seen):
        line = follower.stdout.readline()
        assert line, follower.communicate()
        seen.append(line)
    assert not over(noa)
    (tmp_path / "gate").touch()
    # The next ones come one by one as well, not all at the end.
    while not any("piece 5" in line for line in seen):
        seen.append(follower.stdout.readline())
    assert not over(noa)
    (tmp_path / "gate-2").touch()
    rest, err = follower.communicate(timeout=60)
    assert follower.returncode == 0, err
    assert running.wait(timeout=60) == 0
    text = "".join(seen) + rest
    expected = [f"piece {number}" for number in range(1, PIECES + 1)]
    if arguments == ["--json"]:
        chunks = [line for line in map(json.loads, text.splitlines()) if line["kind"] == "output"]
        assert "".join(chunk["text"] for chunk in chunks).splitlines()[:-1] == expected
        assert {(chunk["task"], chunk["attempt"]) for chunk in chunks} == {("say/talk", 1)}
    elif arguments:
        assert text == "\n".join(expected) + "\nthe end, without a newline"
    else:
        lines = text.splitlines()
        assert [line.partition("say/talk ")[2] for line in lines if "piece" in line] == expected
        assert any(line.endswith("say/talk warning: it has begun") for line in lines)
        assert lines[-1].endswith("say/talk the end, without a newline")


def test_verbose_run_shows_the_pieces_as_lines(running: subprocess.Popen[str], tmp_path: Path) -> None:
    assert running.stdout is not None
    lines = []
    while not any("say/talk > piece 1" in line for line in lines):
        line = running.stdout.readline()
        assert line, running.communicate()
        lines.append(line)
    (tmp_path / "gate").touch()
    (tmp_path / "gate-2").touch()
    rest, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    text = "".join(lines) + rest
    assert [line.partition("> ")[2] for line in text.splitlines() if "say/talk > " in line] == [
        *(f"piece {number}" for number in range(1, PIECES + 1)),
        "the end, without a newline",
    ]


def test_what_was_dropped_is_counted(noa: Noa, definition: Path, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    (tmp_path / "gate-2").touch()
    assert noa("run", definition, "--run-id", "r1").returncode == 0
    store = ObservationStore(noa.home / "observations.db", max_rows=100)
    for number in range(500):
        store.add("r1", "say/talk", 1, OutputChunk(f"more {number}\n"), 1_000)
    store.close()
    printed = noa("logs", "r1", "--output")
    assert printed.returncode == 0
    assert "older lines were dropped" in printed.stderr
    assert int(printed.stderr.split()[0].replace(",", "")) >= 400
    assert printed.stdout == "".join(f"more {number}\n" for number in range(400, 500))
