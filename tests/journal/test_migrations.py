"""Stores of earlier versions, brought up to date."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from noa.errors import RunKeyError
from noa.model.events import RunFinished, encode_event
from noa.model.ids import RunId
from noa.storage import SqliteJournal
from noa.storage.migrations import APPLICATION_ID, MIGRATIONS, SEQ_BITS, VERSION
from noa.storage.writer import chain_hash
from noa.testing.journal_events import ELSEWHERE, LEASE_MS, begin, created, kept, signalled


def store_of_version_1(path: Path) -> None:
    """A store as version 1 wrote it, with a run that goes on and a signal."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        body = encode_event(created("run-1"))
        last_hash = chain_hash(b"", body)
        connection.execute(
            "INSERT INTO runs (run_id, workflow, status, created_at_ms, last_seq, last_hash, owner, fence, "
            "lease_until_ms, parent, degraded) VALUES ('run-1', 'pipeline', 'running', 1000, 1, ?, '', 1, 0, '', 0)",
            (last_hash,),
        )
        connection.execute("INSERT INTO events VALUES (?, ?, ?)", (1 << SEQ_BITS | 1, body, last_hash))
        connection.execute("INSERT INTO definitions VALUES ('00', 'text')")
        connection.execute("INSERT INTO signals VALUES (1, 's-1', 'run-1', 'cancel', 'ada', '', '{}', 1, 0)")


async def test_a_store_of_version_1_goes_on_with_keys_and_kept_outputs(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store_of_version_1(path)
    journal = SqliteJournal(path)
    await journal.open()
    assert await journal.read(RunId("run-1")) == [(1, created("run-1"))]
    assert len(await journal.signals([RunId("run-1")])) == 1
    lease = await journal.acquire(RunId("run-1"), owner=ELSEWHERE, lease_ms=LEASE_MS)
    await journal.append(lease, [kept("k", {"x": 1}), RunFinished(at_ms=9, status="succeeded")], expected_seq=1)
    assert await journal.recall("k") is not None
    assert await journal.verify(RunId("run-1")) is None
    await begin(journal, "run-2")  # beside a run that has no key either
    await journal.create(RunId("run-3"), created("run-3", key="k"), owner="", lease_ms=0, texts={})
    with pytest.raises(RunKeyError):
        await journal.create(RunId("run-4"), created("run-4", key="k"), owner="", lease_ms=0, texts={})
    await journal.release(lease)
    assert await journal.put_signal(signalled("run-1", "s-2"))
    assert await journal.delete([RunId("run-1")]) == 1
    await journal.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert connection.execute("SELECT count(*) FROM signals").fetchone() == (0,)


def schema(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT m.name, c.name, c.type, c.[notnull], c.dflt_value, c.pk FROM sqlite_master AS m "
            "LEFT JOIN pragma_table_info(m.name) AS c WHERE m.type <> 'view' ORDER BY m.name, c.cid"
        ).fetchall()


async def test_a_migrated_store_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    store_of_version_1(old)
    for path in (old, new):
        journal = SqliteJournal(path)
        await journal.open()
        await journal.close()
    assert schema(old) == schema(new)
    assert ("kept", "expires_at_ms", "INTEGER", 1, None, 0) in schema(new)
    assert ("learned", "body", "BLOB", 1, None, 0) in schema(new)
