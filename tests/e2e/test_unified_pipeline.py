"""`definitions/unified-pipeline.yaml` on real files, through four kinds of agent, undisturbed and killed."""

import json
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from tests.e2e.conftest import ROOT, Noa, descendants, kill, wait_gone

PIPELINE = ROOT / "definitions" / "unified-pipeline.yaml"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of many kinds, with known faults: duplicates, a disguised executable, a wrong extension, an empty file."""
    made = tmp_path / "files"
    (made / "deep" / "er").mkdir(parents=True)
    chance = random.Random(5)
    for number in range(40):
        source = f"def function_{number}(value):\n    '''Adds {number}.'''\n    return value + {number}\n" * 9
        (made / f"module_{number:02}.py").write_text("import os\nimport sys\n\n" + source)
    (made / "deep" / "data.json").write_text(json.dumps({"numbers": [chance.random() for _ in range(50)]}))
    (made / "deep" / "page.html").write_text(
        "<!doctype html><html><head><title>t</title></head><body><p>x</p></body></html>"
    )
    (made / "deep" / "er" / "copy.py").write_bytes((made / "module_00.py").read_bytes())
    (made / "holiday.jpg").write_bytes(Path(sys.executable).resolve().read_bytes()[:400_000])
    (made / "empty.txt").write_bytes(b"")
    (made / "one.bin").write_bytes(b"\x00")
    (made / "notes.md").write_text("# Notes\n\n* one\n* two\n\nSome *text* of a person, with `code`.\n" * 5)
    return made


def report_of(home: Path, run: str) -> dict:
    return json.loads((home / "output" / run / "report.json").read_text())


def test_definition_is_the_one_of_the_design_without_any_more_keys() -> None:
    workflow = yaml.safe_load(PIPELINE.read_text())["workflow"]
    assert set(workflow) == {"name", "version", "stages"}
    actions = [(t["agent"], t["action"]) for s in workflow["stages"] for t in s["tasks"]]
    assert actions == [
        ("python", "data_preprocessing"),
        ("rust", "resource_allocation"),
        ("go", "service_startup"),
        ("ai_model", "inference"),
        ("worker", "post_processing"),
        ("storage", "persist_results"),
        ("notification", "send_alerts"),
    ]
    assert all(set(task) == {"agent", "action"} for s in workflow["stages"] for task in s["tasks"])


def test_pipeline_audits_a_folder_and_leaves_no_process(noa: Noa, folder: Path) -> None:
    process = noa.start("run", PIPELINE, "--input", f"path={folder}", "--run-id", "r1", "--json")
    noa.wait_for_events(1, "attempt_succeeded")
    started = descendants(process)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert result["status"] == "succeeded"
    assert len(started) >= 2, "the sidecars are processes of their own"
    assert wait_gone(started) == []

    report = report_of(noa.home, "r1")
    output = noa.home / "output" / "r1"
    rows = pyarrow.parquet.read_table(output / "results.parquet").to_pylist()
    assert len(rows) == 47
    findings = json.dumps(report)
    assert "holiday.jpg" in findings, "the executable that is called a picture is found"
    assert "copy.py" in findings, "the duplicate is found"
    page = (output / "report.html").read_text()
    assert "<svg" in page
    alerts = [json.loads(line) for line in (output / "alerts.jsonl").read_text().splitlines()]
    assert alerts, "the inbox of the Go agent has recorded what the notification agent sent"


def test_labels_equal_those_of_the_magika_command(noa: Noa, folder: Path) -> None:
    done = noa("run", PIPELINE, "--input", f"path={folder}", "--run-id", "r1", "--json")
    assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(noa.home / "output" / "r1" / "results.parquet").to_pylist()
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    magika = Path(sys.executable).parent / "magika"
    printed = subprocess.run([magika, "--json", *map(str, files)], check=True, capture_output=True, text=True).stdout
    wanted = {
        Path(each["path"]).relative_to(folder).as_posix(): each["result"]["value"]["output"]["label"]
        for each in json.loads(printed)
    }
    got = {}
    for row in rows:
        path = Path(row["path"])
        got[(path.relative_to(folder) if path.is_absolute() else path).as_posix()] = row["label"]
    assert got == wanted


def test_second_run_on_the_same_folder_gives_the_same_report(noa: Noa, folder: Path) -> None:
    for run in ("r1", "r2"):
        done = noa("run", PIPELINE, "--input", f"path={folder}", "--run-id", run, "--json")
        assert done.returncode == 0, done.stderr
    assert report_of(noa.home, "r1") == report_of(noa.home, "r2")


def test_killed_at_any_event_and_resumed_it_gives_the_same_report(noa: Noa, folder: Path) -> None:
    """kill -9 of the engine each time when one more event is on disk, until the run is over."""
    done = noa("run", PIPELINE, "--input", f"path={folder}", "--run-id", "whole", "--json")
    assert done.returncode == 0, done.stderr
    whole = len(noa.events())
    process = noa.start("run", PIPELINE, "--input", f"path={folder}", "--run-id", "killed")
    kills = 0
    seen = whole
    agents = []
    while process.poll() is None:
        try:
            noa.wait_for_events(seen + 2, timeout_s=20)
        except AssertionError:
            process.wait(60)
            break
        agents += descendants(process)
        kill(process)
        kills += 1
        seen = len(noa.events())
        if any(event["type"] == "run_finished" for event in noa.events()[whole:]):
            break
        process = noa.start("resume", "killed")
    if process.poll() is None:
        process.communicate(timeout=60)
    assert kills >= 5
    status = noa.json("show", "killed")["status"]
    assert status == "succeeded"
    assert wait_gone(agents) == []
    assert report_of(noa.home, "killed") == report_of(noa.home, "whole")
    finished = [e["task"] for e in noa.events("attempt_succeeded")[7:]]
    assert len(finished) == len(set(finished)) == 7, "no finished task ran again"


@pytest.mark.parametrize(
    ("path", "said"), [("nowhere", "INPUT_NOT_FOUND"), ("file.txt", "INPUT_NOT_A_FOLDER")], ids=["missing", "a-file"]
)
def test_folder_that_cannot_be_read_fails_with_the_reason(noa: Noa, tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    done = noa("run", PIPELINE, "--input", f"path={tmp_path / path}")
    assert done.returncode == 1
    text = done.stdout + done.stderr
    assert said in text
    assert path in text
    assert "Traceback" not in text


def test_failed_run_leaves_no_process(noa: Noa, tmp_path: Path) -> None:
    process = noa.start("run", PIPELINE, "--input", f"path={tmp_path / 'nowhere'}")
    started = []
    while process.poll() is None:
        started += [each for each in descendants(process) if each not in started]
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    assert started, "a sidecar was started"
    assert wait_gone(started) == []


def test_empty_folder_is_a_report_of_nothing(noa: Noa, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = noa("run", PIPELINE, "--input", f"path={tmp_path / 'empty'}", "--run-id", "r1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert pyarrow.parquet.read_table(noa.home / "output" / "r1" / "results.parquet").num_rows == 0


def test_missing_input_fails_and_names_it(noa: Noa) -> None:
    done = noa("run", PIPELINE)
    assert done.returncode == 1
    assert "path" in done.stdout + done.stderr


def test_output_folder_that_cannot_be_written_fails_with_its_name(noa: Noa, folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    done = noa("run", PIPELINE, "--input", f"path={folder}", "--input", f"output_dir={blocked}")
    assert done.returncode == 1
    assert str(blocked) in done.stdout + done.stderr
    assert "OUTPUT_NOT_WRITABLE" in done.stdout + done.stderr


def test_unreadable_file_is_listed_with_its_reason_and_is_not_fatal(noa: Noa, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to(folder / "gone")
    assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
    done = noa("run", PIPELINE, "--input", f"path={folder}", "--run-id", "r1", "--json")
    assert done.returncode == 0, done.stderr
    skipped = noa.events("attempt_succeeded")
    listed = next(e["outputs"]["skipped"] for e in skipped if e["task"] == "init/data_preprocessing")
    assert any("pipe" in each["path"] and each["reason"] for each in listed)
