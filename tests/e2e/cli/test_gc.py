"""`noa gc` as a person calls it, also beside a process that runs a workflow."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from noa.storage import FileArtifactStore

from .conftest import Noa

Define = Callable[..., Path]


def listed(noa: Noa) -> list[str]:
    return [run["run_id"] for run in noa("runs", "--json").json]


def test_gc_without_a_rule_is_refused_and_says_which_there_are(noa: Noa) -> None:
    done = noa("gc", "--outputs")
    assert done.code == 2
    assert "--older-than 30d" in done.err
    assert "--keep 20" in done.err
    assert "expected a duration such as 30d" in noa("gc", "--older-than", "30").err
    assert "does not exist" in noa("gc", "--keep", "1").err
    assert not (noa.folder / ".noa").exists(), "it makes nothing"


def test_old_runs_go_with_all_that_they_left(noa: Noa, definition: Define) -> None:
    file = definition(["greet"])
    for run in ("one", "two", "three"):
        noa("run", file, "-q", "--run-id", run)
        folder = noa.folder / ".noa" / "output" / run
        folder.mkdir(parents=True)
        (folder / "report.txt").write_text("12345")
    shown = noa("gc", "--keep", "2", "--outputs", "--dry-run")
    assert shown.out.splitlines()[0].split()[:3] == ["one", "flow", "succeeded"]
    assert "would remove 1 run (" in shown.out
    assert "1 output folder (5 B)" in shown.out
    done = noa("gc", "--keep", "2", "--json").json
    assert [run["run_id"] for run in done["runs"]] == ["one"]
    assert (noa.folder / ".noa" / "output" / "one").exists(), "only with --outputs"
    assert "1 output folder (5 B)" in noa("gc", "--keep", "1", "--outputs").out
    assert not (noa.folder / ".noa" / "output" / "two").exists()
    assert noa("gc", "--keep", "0", "--workflow", "nothing").out == "nothing to remove\n"
    assert listed(noa) == ["three"]
    with closing(sqlite3.connect(noa.folder / ".noa" / "observations.db")) as connection:
        assert {row[0] for row in connection.execute("SELECT run_id FROM observations")} == {"three"}
    assert noa("show", "three").code == 0


def test_gc_leaves_a_run_alone_that_another_process_drives(noa: Noa, definition: Define) -> None:
    noa("run", definition(["greet"]), "-q", "--run-id", "old")
    file = definition(["greet"], [{"action": "hold", "inputs": {"folder": str(noa.folder)}}, "greet"], name="held")
    process = noa.start("run", file, "--run-id", "live", "-q")
    noa.wait_file("held")
    done = noa("gc", "--keep", "0", "--outputs", "--vacuum")
    assert "removed 1 run" in done.out
    assert "not vacuumed: run live goes on" in done.err
    assert noa("gc", "--keep", "0").out == "nothing to remove\n"
    assert listed(noa) == ["live"]
    noa.write("go", "")
    assert noa.end(process).code == 0
    assert noa("gc", "--keep", "0", "--vacuum", "--json").json["vacuumed"]
    assert listed(noa) == []


def test_artifacts_stay_where_another_store_uses_them_too(noa: Noa, definition: Define) -> None:
    noa("run", definition(["greet"]), "-q")
    folder = noa.folder / ".noa" / "artifacts"
    artifact = FileArtifactStore(folder).put(b"of the other store", "text/plain")
    path = folder / artifact.sha256[:2] / artifact.sha256
    os.utime(path, (1, 1))
    elsewhere = f"sqlite://{noa.folder}/other.db"
    noa("run", definition(["greet"]), "-q", NOA_JOURNAL=elsewhere)
    done = noa("gc", "--keep", "0", NOA_JOURNAL=elsewhere)
    assert "removed 1 run" in done.out
    assert "was not looked at" in done.err
    assert path.exists()
    assert "knows stores in SQLite files only" in noa("gc", "--keep", "0", NOA_JOURNAL="memory://").err
