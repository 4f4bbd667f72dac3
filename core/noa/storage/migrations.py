"""The schema of the SQLite journal, as numbered migrations. A released migration is never edited.

Migration number n brings a store from version n - 1 to n; the version is SQLite's `user_version`.
"""

from __future__ import annotations

import sqlite3

from noa.errors import JournalError, JournalVersionError

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "OVER",
    "RUNS_WITH_LAST_EVENT",
    "SEQ_BITS",
    "SEQ_MASK",
    "VERSION",
    "migrate",
]

APPLICATION_ID = 0x4E4F414A
"""Marks an SQLite file as a journal of noa ("NOAJ")."""

SEQ_BITS = 32
"""`events.id` is `runs.id << SEQ_BITS | seq`: the events of a run stand side by side in one B-tree, in order."""

SEQ_MASK = (1 << SEQ_BITS) - 1

OVER = frozenset({"succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"})
"""Statuses of a run that is over, unless it is reopened."""

RUNS_WITH_LAST_EVENT = (
    "runs JOIN events ON events.id = (SELECT max(last.id) FROM events AS last "
    f"WHERE last.id BETWEEN runs.id << {SEQ_BITS} AND runs.id << {SEQ_BITS} | {SEQ_MASK})"
)
"""Each run with its last event: an append writes events only, so that it touches one page."""

# `last_seq` and `last_hash` of a run are where its history ended when it was last sealed (lease renewed or given up,
# run ended, journal closed). Events may follow; none up to there may be missing.
_INITIAL = (
    """
    CREATE TABLE runs (
        id             INTEGER PRIMARY KEY,
        run_id         TEXT    NOT NULL UNIQUE,
        workflow       TEXT    NOT NULL,
        status         TEXT    NOT NULL,
        created_at_ms  INTEGER NOT NULL,
        last_seq       INTEGER NOT NULL,
        last_hash      BLOB    NOT NULL,
        owner          TEXT    NOT NULL,
        fence          INTEGER NOT NULL,
        lease_until_ms INTEGER NOT NULL,
        parent         TEXT    NOT NULL,
        degraded       INTEGER NOT NULL
    )
    """,
    "CREATE INDEX runs_by_status ON runs (status)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB NOT NULL, hash BLOB NOT NULL)",
    "CREATE TABLE definitions (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID",
    """
    CREATE TABLE signals (
        id            INTEGER PRIMARY KEY,
        signal_id     TEXT    NOT NULL UNIQUE,
        run_id        TEXT    NOT NULL REFERENCES runs (run_id),
        kind          TEXT    NOT NULL,
        actor         TEXT    NOT NULL,
        reason        TEXT    NOT NULL,
        body          TEXT    NOT NULL,
        created_at_ms INTEGER NOT NULL,
        applied_seq   INTEGER NOT NULL
    )
    """,
    "CREATE INDEX signals_waiting ON signals (run_id) WHERE applied_seq = 0",
    # For people with an SQLite shell; noa itself does not read it.
    f"""
    CREATE VIEW history AS
    SELECT runs.run_id, events.id & {SEQ_MASK} AS seq,
           json_extract(CAST(body AS TEXT), '$.type') AS type,
           json_extract(CAST(body AS TEXT), '$.at_ms') AS at_ms,
           CAST(body AS TEXT) AS body
    FROM events JOIN runs ON runs.id = events.id >> {SEQ_BITS}
    """,
)

# The key under which a run was started, outputs that are kept for later runs, and an index for the deletion of runs.
_KEYS_AND_KEPT = (
    "ALTER TABLE runs ADD COLUMN run_key TEXT NOT NULL DEFAULT ''",
    "CREATE UNIQUE INDEX runs_by_key ON runs (run_key) WHERE run_key <> ''",
    "CREATE INDEX signals_by_run ON signals (run_id)",
    """
    CREATE TABLE kept (
        key           TEXT    PRIMARY KEY,
        outputs       BLOB    NOT NULL,
        run_id        TEXT    NOT NULL,
        made_at_ms    INTEGER NOT NULL,
        expires_at_ms INTEGER NOT NULL
    )
    """,
)

# What earlier runs teach of a workflow; see noa.modes.learning for what is in a body.
_LEARNED = (
    """
    CREATE TABLE learned (
        workflow TEXT    PRIMARY KEY,
        revision INTEGER NOT NULL,
        body     BLOB    NOT NULL
    )
    """,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_INITIAL, _KEYS_AND_KEPT, _LEARNED)
VERSION = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring a store to this version, in one transaction. Two processes may do it at once.

    Raises:
        JournalVersionError: The store is newer; nothing was changed.
        JournalError: It is an SQLite file of something else; nothing was changed.
        sqlite3.Error: SQLite failed; nothing was changed.
    """
    if _version_of_one_moment(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_version(connection, path), VERSION):
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version_of_one_moment(connection: sqlite3.Connection, path: str) -> int:
    # In a transaction, because it takes several reads: between two of them another process may create the store.
    connection.execute("BEGIN")
    try:
        return _version(connection, path)
    finally:
        connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: str) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if application != APPLICATION_ID:
        if version or application or connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise JournalError(f"{path} is an SQLite file, but not a journal of noa; nothing was changed", path=path)
        return 0
    if version > VERSION:
        raise JournalVersionError(
            f"{path} was written by a newer version of noa: its format is {version}, this version knows up to "
            f"{VERSION}. Upgrade noa, or use another store",
            path=path,
            found=version,
            known=VERSION,
        )
    return version
