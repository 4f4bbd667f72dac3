"""`noa doctor` as a person calls it; what each check finds is tested in tests/journal/test_doctor_checks.py."""

import os
import signal
import socket
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from noa.storage import FileArtifactStore

from .conftest import Noa

Define = Callable[..., Path]


def test_nothing_is_wrong_with_a_new_store_nor_beside_a_process_that_runs(noa: Noa, definition: Define) -> None:
    done = noa("doctor")
    assert done.code == 2
    assert "does not exist" in done.err
    assert not (noa.folder / ".noa").exists(), "it makes nothing"
    noa("run", definition(["greet"]), "-q")
    file = definition([{"action": "hold", "inputs": {"folder": str(noa.folder)}}], name="held")
    process = noa.start("run", file, "--run-id", "live", "-q")
    noa.wait_file("held")
    done = noa("doctor", "--deep", "--fix")
    assert (done.code, done.out) == (0, "everything is in order\n")
    noa.write("go", "")
    assert noa.end(process).code == 0
    assert noa("doctor", "--json").json == {"ok": True, "mended": [], "found": []}


def test_what_is_found_is_told_and_mended_once(noa: Noa, definition: Define) -> None:
    for run in ("one", "two"):
        noa("run", definition(["greet"]), "-q", "--run-id", run)
    home = noa.folder / ".noa"
    home.chmod(0o750)
    with closing(sqlite3.connect(home / "noa.db")) as connection, connection:
        connection.execute("UPDATE runs SET status = 'running' WHERE run_id = 'two'")
    artifact = FileArtifactStore(home / "artifacts").put(b"orphan", "text/plain")
    os.utime(home / "artifacts" / artifact.sha256[:2] / artifact.sha256, (1, 1))
    (home / "run").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(os.path.relpath(home / "run" / "dead.sock"))
    os.utime(home / "run" / "dead.sock", (1, 1))

    found = noa("doctor", "--json")
    assert found.code == 1
    checks = {finding["check"]: finding for finding in found.json["found"]}
    assert set(checks) == {"permissions", "status", "abandoned", "orphaned-artifacts", "sockets"}
    assert [name for name, finding in checks.items() if not finding["fixable"]] == ["abandoned"]
    assert all(finding["what"] and finding["means"] and finding["items"] for finding in checks.values())

    told = noa("doctor")
    assert told.code == 1
    assert "two: listed as running, its events say succeeded" in told.out
    assert "noa doctor --fix removes them" in told.out
    assert told.out.endswith("5 problems; --fix mends 4\n")

    # The run stood in the list of abandoned ones only because it was listed wrong.
    mended = noa("doctor", "--fix")
    assert mended.code == 0
    assert mended.out.count("mended") == 4
    assert mended.out.endswith("everything else is in order\n")
    assert (noa("doctor").code, stat.S_IMODE(home.stat().st_mode)) == (0, 0o700)
    assert {run["status"] for run in noa("runs", "--json").json} == {"succeeded"}


def test_a_run_whose_process_was_killed_is_told_and_not_begun_again(noa: Noa, definition: Define) -> None:
    file = definition([{"action": "hold", "inputs": {"folder": str(noa.folder)}}])
    process = noa.start("run", file, "--run-id", "live", "-q")
    noa.wait_file("held")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = noa("doctor", "--fix")
    assert done.code == 1
    assert f"live (flow): process {process.pid} on" in done.out
    assert "is dead" in done.out
    assert "noa resume RUN" in done.out
    assert done.out.endswith("1 problem\n")
    noa.write("go", "")
    assert noa("resume", "live", "-q").code == 0
    assert noa("doctor").code == 0


def test_a_damaged_store_is_told_and_no_traceback(noa: Noa, definition: Define) -> None:
    noa("run", definition(["greet"]), "-q")
    store = noa.folder / ".noa" / "noa.db"
    store.write_bytes(b"no database at all" * 1000)
    done = noa("doctor", "--fix")
    assert done.code == 1
    assert "SQLite finds a store damaged" in done.out
    assert "restore noa.db from a backup" in done.out
    assert "knows stores in SQLite files only" in noa("doctor", NOA_JOURNAL="memory://").err
