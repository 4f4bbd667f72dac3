"""What goes wrong with disks, files and other programs, and what is true after it."""

import asyncio
import pickle
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from noa.errors import ConflictError, JournalError, JournalVersionError, UsageError
from noa.model.events import AttemptSucceeded, Event, RunFinished
from noa.model.ids import RunId, TaskPath
from noa.plugin import Lease
from noa.storage import SqliteJournal
from noa.storage.connection import file_path, journal_error
from noa.storage.migrations import SEQ_BITS, VERSION
from noa.testing.journal_suite import begin, created, noted

RUN = RunId("run-1")


def large(number: int, size_bytes: int = 100_000) -> Event:
    return AttemptSucceeded(at_ms=number, task=TaskPath("s/t"), attempt=number, outputs={"x": "y" * size_bytes})


async def opened(path: Path) -> SqliteJournal:
    journal = SqliteJournal(path)
    await journal.open()
    return journal


async def fill(journal: SqliteJournal, lease: Lease, seq: int) -> int:
    """Append until the disk is full; the last sequence number that was acknowledged."""
    refused: JournalError | None = None
    while refused is None:
        assert seq < 1_000, "100 MB went into a small store"
        try:
            seq = await journal.append(lease, [large(seq)], expected_seq=seq)
        except JournalError as error:
            refused = error
    assert "disk is full" in str(refused)
    assert str(journal.path) in str(refused)
    assert refused.sqlite == "SQLITE_FULL"
    assert isinstance(refused.__cause__, sqlite3.Error)
    return seq


async def test_a_full_store_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    lease = await begin(journal)
    assert journal._connections is not None
    pages = journal._connections[0].execute("PRAGMA page_count").fetchone()[0]
    journal._connections[0].execute(f"PRAGMA max_page_count = {pages + 100}")
    seq = await fill(journal, lease, 1)
    assert (await journal.run(RUN)).last_seq == seq
    assert await journal.verify(RUN) is None
    assert await journal.append(lease, [noted(1)], expected_seq=seq) == seq + 1  # a small one still fits
    journal._connections[0].execute("PRAGMA max_page_count = 1000000")
    assert await journal.append(lease, [large(1)], expected_seq=seq + 1) == seq + 2
    assert await journal.verify(RUN) is None
    await journal.close()


async def test_what_does_not_fit_does_not_lose_the_batch(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    leases = [await begin(journal, f"run-{number}") for number in range(10)]
    assert journal._connections is not None
    pages = journal._connections[0].execute("PRAGMA page_count").fetchone()[0]
    journal._connections[0].execute(f"PRAGMA max_page_count = {pages + 20}")
    appends = [
        journal.append(lease, [large(1, 500_000 if number == 4 else 10)], expected_seq=1)
        for number, lease in enumerate(leases)
    ]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if outcome != 2] == [4]
    assert isinstance(outcomes[4], JournalError)
    assert [await journal.verify(lease.run_id) for lease in leases] == [None] * 10
    await journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_loses_nothing_and_is_usable_again_with_space(small_disk: Path) -> None:
    journal = await opened(small_disk / "journal.db")
    lease = await begin(journal)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    seq = await fill(journal, lease, 1)
    assert [number for number, _ in await journal.read(RUN)] == list(range(1, seq + 1))
    ballast.unlink()
    assert await journal.append(lease, [large(1)], expected_seq=seq) == seq + 1
    assert await journal.verify(RUN) is None
    await journal.close()


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"file/journal\.db: cannot open"):
        await opened(tmp_path / "file" / "journal.db")


async def test_a_store_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalVersionError, match=rf"999.*{VERSION}") as caught:
        await opened(path)
    assert (caught.value.found, caught.value.known) == (999, VERSION)
    assert path.read_bytes() == before


async def test_a_file_that_is_not_sqlite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("workflow:\n" * 1000)
    with pytest.raises(JournalError, match="not an SQLite file"):
        await opened(path)
    assert path.read_text() == "workflow:\n" * 1000


async def test_an_sqlite_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(JournalError, match="not a journal of noa"):
        await opened(path)


async def test_a_store_that_another_program_keeps_locked_is_an_error_and_then_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noa.storage.writer.BUSY_TIMEOUT_S", 0.05)
    journal = await opened(tmp_path / "journal.db")
    leases = [await begin(journal, f"run-{number}") for number in range(3)]
    seq = 1
    for _ in range(20):  # enough for a lone chain to be committed on the loop's thread
        seq = await journal.append(leases[0], [noted(1)], expected_seq=seq)
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="SQLITE_BUSY"):
        await journal.append(leases[0], [noted(1)], expected_seq=seq)
    appends = [journal.append(lease, [noted(1)], expected_seq=1) for lease in leases[1:]]
    assert [type(outcome) for outcome in await asyncio.gather(*appends, return_exceptions=True)] == [JournalError] * 2
    assert len(await journal.read(RUN)) == 1  # readers are not stopped
    other.execute("COMMIT")
    other.close()
    assert await journal.append(leases[0], [noted(1)], expected_seq=seq) == seq + 1
    await journal.close()


@pytest.mark.parametrize("damage", ["body", "hash", "removed", "inserted", "tail", "swapped"])
async def test_an_edit_of_the_history_shows(tmp_path: Path, damage: str) -> None:
    journal = await opened(tmp_path / "journal.db")
    await begin(journal, "run-0")
    lease = await begin(journal)
    await journal.append(lease, [noted(number) for number in range(2, 11)], expected_seq=1)
    await journal.close()
    base = 2 << SEQ_BITS
    sixth = f"(SELECT body FROM events WHERE id = {base + 6})"
    with sqlite3.connect(journal.path) as connection:
        script = {
            "body": f"UPDATE events SET body = replace(body, 'timer-5', 'timer-6') WHERE id = {base + 5}",
            "hash": f"UPDATE events SET hash = zeroblob(32) WHERE id = {base + 5}",
            "removed": f"DELETE FROM events WHERE id = {base + 5}",
            "inserted": f"INSERT INTO events SELECT {base + 11}, body, hash FROM events WHERE id = {base + 5}",
            "tail": f"DELETE FROM events WHERE id = {base + 10}",
            "swapped": f"UPDATE events SET body = {sixth} WHERE id = {base + 5}",
        }[damage]
        connection.execute(script)
    connection.close()
    journal = await opened(journal.path)
    assert await journal.verify(RUN) == {"inserted": 11, "tail": 10}.get(damage, 5)
    assert await journal.verify(RunId("run-0")) is None
    await journal.close()


@pytest.mark.parametrize("sealing", ["renew", "release", "finish"])
async def test_events_cut_off_show_once_the_run_was_sealed(tmp_path: Path, sealing: str) -> None:
    journal = await opened(tmp_path / "journal.db")
    lease = await begin(journal)
    await journal.append(lease, [noted(2), noted(3)], expected_seq=1)
    if sealing == "renew":
        await journal.renew([lease], lease_ms=1000)
    elif sealing == "release":
        await journal.release(lease)
    else:
        await journal.append(lease, [RunFinished(at_ms=1, status="failed")], expected_seq=3)
    last = (await journal.run(RUN)).last_seq
    other = sqlite3.connect(journal.path)  # this journal does not get to seal again
    other.execute(f"DELETE FROM events WHERE id = {1 << SEQ_BITS | last}")
    other.commit()
    other.close()
    assert await journal.verify(RUN) == last
    await journal.close()


async def test_an_unreadable_event_is_named(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    await begin(journal)
    assert journal._connections is not None
    journal._connections[0].execute('UPDATE events SET body = \'{"type": "from the future"}\'')
    with pytest.raises(JournalError, match="event 1 of run 'run-1'"):
        await journal.read(RUN)
    await journal.close()


async def test_the_history_can_be_read_with_an_sqlite_shell(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    lease = await begin(journal)
    await journal.append(lease, [noted(2)], expected_seq=1)
    await journal.close()
    connection = sqlite3.connect(journal.path)
    rows = connection.execute("SELECT run_id, seq, type, at_ms FROM history").fetchall()
    connection.close()
    assert rows == [("run-1", 1, "run_created", 1000), ("run-1", 2, "timer_fired", 2002)]


async def test_changed_tells_what_another_journal_wrote(tmp_path: Path) -> None:
    mine, other = await opened(tmp_path / "journal.db"), await opened(tmp_path / "journal.db")
    assert not await mine.changed()
    lease = await begin(other)
    assert await mine.changed()
    assert not await mine.changed()
    assert not await other.changed()
    with pytest.raises(ConflictError):
        await mine.append(lease, [noted(2)], expected_seq=0)
    await mine.append(lease, [noted(2)], expected_seq=1)
    assert await other.changed()
    with pytest.raises(ConflictError):
        await other.append(lease, [noted(2)], expected_seq=1)
    assert await other.append(lease, [noted(3)], expected_seq=2) == 3  # read again after the conflict
    await mine.close()
    await other.close()


def test_every_exception_of_sqlite3_has_an_answer() -> None:
    kinds = [kind for kind in vars(sqlite3).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert sqlite3.Warning in kinds
    assert sqlite3.NotSupportedError in kinds
    for kind in kinds:
        error = journal_error(kind("it broke"), "/some/journal.db", "append")
        assert type(error) is JournalError
        assert "/some/journal.db" in str(error)
        assert "it broke" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_every_error_code_of_sqlite_has_an_answer() -> None:
    names = [name for name in vars(sqlite3) if name.startswith("SQLITE_") and isinstance(getattr(sqlite3, name), int)]
    for name in names:
        foreign = sqlite3.OperationalError("it broke")
        foreign.sqlite_errorcode, foreign.sqlite_errorname = getattr(sqlite3, name), name
        assert journal_error(foreign, "journal.db", "append").sqlite == name


def test_paths_of_urls() -> None:
    assert file_path("sqlite:///abs/journal.db", "sqlite") == Path("/abs/journal.db")
    assert file_path("sqlite://rel/journal.db", "sqlite") == Path("rel/journal.db")
    assert file_path("plain.db", "sqlite") == Path("plain.db")
    for wrong in ("postgresql://x", "sqlite://", ""):
        with pytest.raises(UsageError):
            SqliteJournal(wrong)


async def test_opening_twice_is_harmless(tmp_path: Path) -> None:
    journal = await opened(tmp_path / "journal.db")
    await journal.open()
    await journal.create(RUN, created("run-1"), owner="", lease_ms=0, texts={})
    await journal.close()
