"""Each check of the doctor: the fault is planted for real, seen, mended where it can be, and then no longer seen."""

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from noa.model.events import AttemptSucceeded, Event, RunReopened
from noa.model.ids import RunId, TaskPath
from noa.model.payload import KEPT_VALUE, Artifact
from noa.storage import FileArtifactStore, SqliteJournal, new_owner
from noa.storage.finding import Finding
from noa.storage.home_checks import (
    check_damage,
    check_free_space,
    check_permissions,
    check_sockets,
    check_stale_agents,
    check_write_ahead_logs,
)
from noa.storage.store_checks import StoreChecks
from noa.storage.upkeep import Upkeep
from noa.testing.journal_events import ELSEWHERE, LEASE_MS, created, end, finished, noted, signalled

MIB = 1 << 20


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Patient:
    """A state folder with a store, and the checks of it."""

    upkeep: Upkeep

    def __init__(self, home: Path) -> None:
        self.home = home
        self.journal = SqliteJournal(home / "noa.db")
        self.artifacts = FileArtifactStore(home / "artifacts")

    async def checks(self) -> StoreChecks:
        return StoreChecks(
            self.journal, self.upkeep, await self.journal.runs(limit=None), self.home / "artifacts", now_ms()
        )

    async def everything(self, *, deep: bool = False) -> dict[str, Finding]:
        checks = await self.checks()
        found = [
            await checks.abandoned(), await checks.histories(deep=deep), checks.statuses(), checks.children(),
            checks.signals(), checks.missing_artifacts(), checks.orphaned_artifacts(),
        ]  # fmt: skip
        return {finding.check: finding for finding in found if finding is not None}

    async def going_on(self, run: str, *events: Event, parent: str = "", lease_ms: int = LEASE_MS) -> None:
        """A run that is not over, which this process drives."""
        first = created(run, parent=parent, at_ms=now_ms())
        lease = await self.journal.create(RunId(run), first, owner=new_owner(), lease_ms=lease_ms, texts={"00": "text"})
        if events:
            await self.journal.append(lease, events, expected_seq=1)

    def execute(self, sql: str, *values: object) -> None:
        """Change the store as a program does that is no noa."""
        with closing(sqlite3.connect(self.journal.path, timeout=10)) as connection, connection:
            connection.execute(sql, values)

    def path(self, artifact: Artifact) -> Path:
        return self.home / "artifacts" / artifact.sha256[:2] / artifact.sha256


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    made = Patient(tmp_path / "home")
    await made.journal.open()
    with Upkeep(made.journal.path) as made.upkeep:
        yield made
    await made.journal.close()


def gave(*artifacts: Artifact) -> Event:
    outputs = {f"file{index}": artifact.to_json() for index, artifact in enumerate(artifacts)}
    return AttemptSucceeded(at_ms=1_000, task=TaskPath("s/t"), attempt=1, outputs=outputs)


def mend(finding: Finding) -> None:
    assert finding.mend is not None
    assert finding.mending
    assert finding.mend()


async def test_a_sound_store_has_no_finding(patient: Patient) -> None:
    await end(patient.journal, "over")
    reopened = await end(patient.journal, "reopened")
    lease = await patient.journal.acquire(reopened.run_id, owner=new_owner(), lease_ms=LEASE_MS)
    await patient.journal.append(lease, [RunReopened(at_ms=now_ms())], expected_seq=2)
    await patient.going_on("live", gave(patient.artifacts.put(b"data", "text/plain")))
    await patient.going_on("child", parent="live:s/t:1")
    await patient.journal.put_signal(signalled("live", "s-1"))
    assert await patient.everything(deep=True) == {}


async def test_runs_that_nobody_drives(patient: Patient) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "from noa.storage import new_owner; print(new_owner())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    await patient.journal.create(RunId("dead"), created("dead"), owner=dead, lease_ms=LEASE_MS, texts={})
    await patient.journal.create(RunId("late"), created("late"), owner=ELSEWHERE, lease_ms=0, texts={})
    found = (await patient.everything())["abandoned"]
    assert found.what == "2 runs are not over, and no process drives them"
    assert f"process {dead.split(':')[2]} on" in found.items[0]
    assert "is dead" in found.items[0]
    assert "late (pipeline): process 1 on elsewhere lost its lease" in found.items[1]
    assert "noa resume RUN" in found.means
    assert found.mend is None
    for run in ("dead", "late"):
        lease = await patient.journal.acquire(RunId(run), owner=ELSEWHERE, lease_ms=LEASE_MS)
        await patient.journal.append(lease, [finished()], expected_seq=1)
    assert await patient.everything() == {}


async def test_a_history_that_was_changed(patient: Patient) -> None:
    await patient.going_on("live", noted(2), noted(3), noted(4))
    await end(patient.journal, "over")
    patient.execute("UPDATE events SET body = replace(body, 'timer-3', 'timer-8') WHERE id = (1 << 32) + 3")
    found = (await patient.everything())["history"]
    assert found.items == ["live (pipeline): event 3 is not what was written, or is missing"]
    assert found.mend is None
    patient.execute("UPDATE events SET body = replace(body, 'timer-8', 'timer-3') WHERE id = (1 << 32) + 3")
    patient.execute("DELETE FROM events WHERE id = (2 << 32) + 1")
    assert await patient.everything() == {}, "runs that are over are looked at with --deep only"
    deep = await patient.everything(deep=True)
    assert [item.split(":")[0] for item in deep["history"].items] == ["over (pipeline)"]


async def test_a_history_that_is_no_json_is_told_and_breaks_no_other_check(patient: Patient) -> None:
    await patient.going_on("live", noted(2))
    patient.execute("UPDATE events SET body = x'00ff' WHERE id = (1 << 32) + 2")
    found = await patient.everything()
    assert found["history"].items == ["live (pipeline): event 2 is not what was written, or is missing"]
    assert list(found) == ["history"]


@pytest.mark.parametrize(
    ("listed", "right"), [("running", "failed, degraded"), ("succeeded", "failed, degraded"), ("failed", None)]
)
async def test_a_run_that_is_listed_wrong(patient: Patient, listed: str, right: str | None) -> None:
    lease = await end(patient.journal, "run")
    lease = await patient.journal.acquire(lease.run_id, owner=ELSEWHERE, lease_ms=LEASE_MS)
    await patient.journal.append(
        lease, [RunReopened(at_ms=1), finished("failed", degraded=right is not None)], expected_seq=2
    )
    await patient.journal.release(lease)
    patient.execute("UPDATE runs SET status = ?, degraded = ? WHERE run_id = 'run'", listed, listed == "succeeded")
    found = (await patient.everything()).get("status")
    if right is None:
        assert found is None
        return
    assert found is not None
    assert found.items[0].endswith(f"its events say {right}")
    mend(found)
    assert await patient.everything() == {}
    record = await patient.journal.run(RunId("run"))
    assert (record.status, record.degraded) == ("failed", True)


async def test_a_run_that_is_listed_as_over_and_goes_on(patient: Patient) -> None:
    await patient.going_on("run", noted(2), lease_ms=0)
    patient.execute("UPDATE runs SET status = 'succeeded' WHERE run_id = 'run'")
    mend((await patient.everything())["status"])
    assert list(await patient.everything()) == ["abandoned"]


async def test_sub_workflows_that_did_not_end_with_their_parent(patient: Patient) -> None:
    await end(patient.journal, "over")
    await patient.going_on("child", parent="over:s/t:1", lease_ms=0)
    await patient.going_on("lost", parent="gone:s/t:1", lease_ms=0)
    await patient.going_on("ending", parent="over:s/t:2")
    found = (await patient.everything())["children"]
    assert found.items == [
        "lost (pipeline): its parent gone is gone", "child (pipeline): its parent over is succeeded"
    ]  # fmt: skip
    assert found.mend is None
    for run in ("child", "lost"):
        lease = await patient.journal.acquire(RunId(run), owner=ELSEWHERE, lease_ms=0)
        await patient.journal.append(lease, [finished("cancelled")], expected_seq=1)
    assert await patient.everything() == {}


async def test_signals_that_came_too_late(patient: Patient) -> None:
    await end(patient.journal, "over", status="failed")
    await patient.going_on("live")
    for run in ("over", "live"):
        await patient.journal.put_signal(signalled(run, f"for {run}"))
    found = (await patient.everything())["signals"]
    assert found.items == ["over: cancel (for over), the run is failed"]
    mend(found)
    assert await patient.everything() == {}
    runs = [RunId("over"), RunId("live")]
    assert [signal.signal_id for signal in await patient.journal.signals(runs)] == ["for live"]


async def test_artifacts_that_a_run_needs_and_that_cannot_be_read(patient: Patient) -> None:
    artifacts = [patient.artifacts.put(data, "text/plain") for data in (b"missing", b"damaged", b"nested", b"sound")]
    kept = patient.artifacts.put(b'{"x": %s}' % _json(artifacts[2]), KEPT_VALUE)
    await patient.going_on("live", gave(artifacts[0], artifacts[1], artifacts[3]), gave(artifacts[0], kept))
    await end(patient.journal, "over")
    backup = patient.home / "backup"
    shutil.copytree(patient.home / "artifacts", backup)
    patient.path(artifacts[0]).unlink()
    patient.path(artifacts[1]).write_bytes(b"DAMAGED")
    patient.path(artifacts[2]).unlink()
    found = (await patient.everything())["missing-artifacts"]
    assert found.what == "3 artifacts of runs that are not over cannot be read"
    told = "\n".join(found.items)
    assert told.count("is missing") == 2
    assert told.count("is damaged") == 1
    assert all(artifact.sha256 in told for artifact in artifacts[:3])
    assert found.mend is None
    shutil.copytree(backup, patient.home / "artifacts", dirs_exist_ok=True)
    assert await patient.everything() == {}


def _json(artifact: Artifact) -> bytes:
    import msgspec

    return msgspec.json.encode(artifact.to_json())


async def test_artifacts_that_nothing_refers_to(patient: Patient) -> None:
    named, orphan, young = (patient.artifacts.put(data, "text/plain") for data in (b"named", b"orphan", b"young"))
    temporary = [patient.home / "artifacts" / name for name in (".tmp-old", ".tmp-young")]
    for path in temporary:
        path.write_bytes(b"x" * 7)
    for path in (patient.path(named), patient.path(orphan), temporary[0]):
        os.utime(path, (1, 1))
    lease = await patient.journal.create(RunId("run"), created("run"), owner=ELSEWHERE, lease_ms=0, texts={})
    await patient.journal.append(lease, [gave(named), finished()], expected_seq=1)
    found = (await patient.everything())["orphaned-artifacts"]
    assert found.what == "nothing refers to 2 files of the artifact store"
    assert found.items == ["1 artifact, 6 bytes", "1 artifact that was never finished, 7 bytes"]
    live = created("live", at_ms=now_ms())
    lease = await patient.journal.create(RunId("live"), live, owner=new_owner(), lease_ms=LEASE_MS, texts={})
    assert found.mend is not None
    assert not found.mend(), "a run that goes on may name them"
    assert await patient.everything() == {}
    await patient.journal.append(lease, [finished()], expected_seq=1)
    mend((await patient.everything())["orphaned-artifacts"])
    assert await patient.everything() == {}
    assert [patient.path(artifact).exists() for artifact in (named, orphan, young)] == [True, False, True]
    assert [path.exists() for path in temporary] == [False, True]


def test_sockets_of_dead_engines(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    assert check_sockets(folder) is None
    paths = [folder / "dead.sock", folder / "deep" / "s", folder / "live.sock", folder / "starting.sock"]
    bound = [socket.socket(socket.AF_UNIX) for _ in paths]
    for path, one in zip(paths, bound, strict=True):
        one.bind(str(path))
    bound[2].listen()
    for index in (0, 1, 3):
        bound[index].close()
    for path in (*paths[:3], folder / "deep"):
        os.utime(path, (1, 1))
    found = check_sockets(folder)
    assert found is not None
    assert found.items == [str(paths[1]), str(paths[0])] or found.items == [str(paths[0]), str(paths[1])]
    mend(found)
    assert check_sockets(folder) is None
    assert sorted(path.name for path in folder.iterdir()) == ["live.sock", "starting.sock"]
    bound[2].close()
    assert check_sockets(tmp_path / "nothing here") is None


# Starts an agent that does not listen to its stdin, says its pid, and dies when told.
ENGINE = """
import os, subprocess, sys
agent = subprocess.Popen(
    [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, "NOA_AGENT_LISTEN": sys.argv[1]},
)
agent.stdout.readline()
print(agent.pid, flush=True)
sys.stdin.readline()
"""


def test_agents_whose_engine_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, f"unix:{folder}/agent-1.sock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert engine.stdout is not None
    agent = psutil.Process(int(engine.stdout.readline()))
    try:
        assert check_stale_agents(folder) is None, "its engine lives"
        engine.communicate("\n")
        found = check_stale_agents(folder)
        assert found is not None
        assert [item.split()[1] for item in found.items] == [f"{agent.pid}:"]
        assert found.mend is None
        assert check_stale_agents(tmp_path / "other") is None
    finally:
        agent.kill()
    psutil.wait_procs([agent], timeout=30)
    assert check_stale_agents(folder) is None


# Leaves a write-ahead log of 70 MiB by dying before it can be emptied.
WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("CREATE TABLE ballast (x BLOB)")
with connection:
    connection.execute("INSERT INTO ballast VALUES (zeroblob(?))", (int(sys.argv[2]),))
os._exit(0)
"""


async def test_a_write_ahead_log_that_grew(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "noa.db")
    await journal.open()
    await end(journal, "run")
    assert check_write_ahead_logs(journal.path) is None
    subprocess.run([sys.executable, "-c", WRITER, journal.path, str(70 * MIB)], check=True)
    found = check_write_ahead_logs(journal.path, tmp_path / "nothing.db")
    assert found is not None
    assert "70 MiB" in found.items[0]
    mend(found)
    assert check_write_ahead_logs(journal.path) is None
    assert await journal.verify(RunId("run")) is None
    await journal.close()


async def test_a_write_ahead_log_that_somebody_reads_is_not_called_mended(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "noa.db")
    await journal.open()
    await end(journal, "run")
    with closing(sqlite3.connect(journal.path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchone()
        subprocess.run([sys.executable, "-c", WRITER, journal.path, str(2 * MIB)], check=True)
        found = check_write_ahead_logs(journal.path, most_bytes=MIB)
        assert found is not None
        assert found.mend is not None
        assert not found.mend()
    assert found.mend()
    await journal.close()


async def test_a_damaged_store(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "noa.db")
    await journal.open()
    for number in range(50):
        await end(journal, f"run-{number}")
    assert check_damage(journal.path) is None, "also beside a process that uses it"
    await journal.close()
    assert check_damage(journal.path, tmp_path / "nothing.db") is None
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:8192] + os.urandom(4096 * 4) + whole[8192 + 4096 * 4 :])
    found = check_damage(journal.path)
    assert found is not None
    assert str(journal.path) in found.items[0]
    assert found.mend is None
    journal.path.write_bytes(b"no database at all" * 100)
    assert check_damage(journal.path) is not None
    journal.path.write_bytes(whole)
    assert check_damage(journal.path) is None


def test_a_home_that_others_may_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = check_permissions(tmp_path)
    assert found is not None
    assert "0755, expected 0700" in found.what
    mend(found)
    assert check_permissions(tmp_path) is None


def test_a_disk_without_room(tmp_path: Path) -> None:
    """A file system of 16 MB of its own; where none can be had, more is demanded than this one has."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    try:
        found = check_free_space(tmp_path) if mounted else check_free_space(tmp_path, least_bytes=1 << 60)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", tmp_path], check=True)
    assert found is not None
    assert "noa gc" in found.means
    assert found.mend is None
    assert check_free_space(tmp_path, least_bytes=1) is None


async def test_a_store_of_1000_runs_is_examined_quickly(patient: Patient) -> None:
    async def one(number: int) -> None:
        run = RunId(f"run-{number:04}")
        lease = await patient.journal.create(run, created(run), owner=ELSEWHERE, lease_ms=0, texts={})
        await patient.journal.append(lease, [*map(noted, range(2, 50)), finished()], expected_seq=1)
        await patient.journal.release(lease)

    await asyncio.gather(*map(one, range(1_000)))
    orphan = patient.artifacts.put(b"orphan", "text/plain")
    os.utime(patient.path(orphan), (1, 1))
    began_s = time.perf_counter()
    assert list(await patient.everything()) == ["orphaned-artifacts"]
    assert time.perf_counter() - began_s < 10
