"""Observations of runs (progress, logs, output): a bounded side store that never holds a run up.

Facts are in the journal. What is here may be lost: when the queue is full, when a run has more than its share, when the
disk fails. It is lost oldest first, and counted.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from noa.errors import JournalError
from noa.model.execution import Log, Observation, OutputChunk, Progress
from noa.storage.connection import connect, file_path, journal_error

__all__ = ["ObservationRecord", "ObservationStore"]

_EVERY_S = 0.1
_BATCH = 500
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS observations (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
    "task TEXT NOT NULL, attempt INTEGER NOT NULL, at_ms INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS observations_by_run ON observations (run_id, id)",
    "CREATE TABLE IF NOT EXISTS totals (run_id TEXT PRIMARY KEY, kept INTEGER NOT NULL, dropped INTEGER NOT NULL)",
)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Observation).decode
_Item = tuple[str, str, int, Observation, int]


@dataclass(frozen=True, slots=True)
class ObservationRecord:
    """An observation as it was kept. `id` grows over all runs; `at_ms` is UTC epoch milliseconds."""

    id: int
    run_id: str
    task: str
    attempt: int
    at_ms: int
    observation: Observation


class ObservationStore:
    """Keeps observations in an SQLite file of its own.

    Args:
        path: The file (or `sqlite://` URL); missing folders are created. A file that cannot be used is no error: all
            observations are then dropped and counted.
        max_rows: Kept for each run.
        max_queued: Waiting for the disk, over all runs.
        max_queued_bytes: Of their texts, likewise.
        max_bytes: On disk for each run.

    Safe to use from any thread. `add` never blocks on the disk.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_rows: int = 20_000,
        max_queued: int = 10_000,
        max_queued_bytes: int = 32 << 20,
        max_bytes: int = 128 << 20,
    ) -> None:
        self.path = file_path(str(path), "sqlite")
        self._max_rows = max_rows
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._queued_bytes = 0
        self._max_bytes = max_bytes
        self._bytes: dict[str, int] = {}  # on disk, of the runs that this store wrote to
        self._queue: deque[_Item] = deque()
        self._lost: Counter[str] = Counter()  # dropped, not yet in the file
        self._lock = threading.Lock()  # queue and counts; never held over I/O
        self._disk = threading.Lock()  # the connection
        self._some = threading.Event()  # something waits
        self._enough = threading.Event()  # write it now
        self._ending = self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None

    def add(self, run_id: str, task: str, attempt: int, observation: Observation, at_ms: int) -> None:
        """Keep an observation if there is room; returns at once and never raises."""
        with self._lock:
            if self._ending:
                self._lost[run_id] += 1
                return
            self._queue.append((run_id, task, attempt, observation, at_ms))
            self._queued_bytes += _size(observation)
            while len(self._queue) > self._max_queued or self._queued_bytes > self._max_queued_bytes:
                dropped = self._queue.popleft()
                self._lost[dropped[0]] += 1
                self._queued_bytes -= _size(dropped[3])
            waiting = len(self._queue)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="noa-observations", daemon=True)
                self._thread.start()
        if waiting == 1:
            self._some.set()
        elif waiting >= _BATCH or self._queued_bytes > self._max_queued_bytes // 4:
            self._enough.set()

    def read(
        self, run_id: str, *, after_id: int = 0, task: str | None = None, limit: int = 1000
    ) -> list[ObservationRecord]:
        """Observations of a run after `after_id`, oldest first, with everything that was added before this call.

        Raises:
            JournalError: The file cannot be read.
        """
        self.flush()
        sql = "SELECT id, run_id, task, attempt, at_ms, body FROM observations WHERE run_id = ? AND id > ?"
        values: list[str | int] = [run_id, after_id]
        if task is not None:
            sql += " AND task = ?"
            values.append(task)
        with self._disk:
            try:
                rows = self._opened().execute(f"{sql} ORDER BY id LIMIT ?", (*values, limit)).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise journal_error(error, str(self.path), "read observations") from error
        return [ObservationRecord(*(*row[:5], _decode(row[5]))) for row in rows]

    def dropped(self, run_id: str) -> int:
        """How many observations of a run were not kept, or no longer are."""
        kept = None
        with self._disk, contextlib.suppress(sqlite3.Error, OSError, JournalError):  # unreadable: what memory knows
            kept = self._opened().execute("SELECT dropped FROM totals WHERE run_id = ?", (run_id,)).fetchone()
        with self._lock:
            return self._lost[run_id] + (kept[0] if kept else 0)

    def runs(self) -> list[str]:
        """Runs of which something is kept or was dropped. Raises JournalError."""
        sql = "SELECT run_id FROM totals"
        with self._disk:
            try:
                return [row[0] for row in self._opened().execute(sql)]
            except (sqlite3.Error, OSError) as error:
                raise journal_error(error, str(self.path), "read observations") from error

    def delete(self, runs: Sequence[str]) -> int:
        """Remove everything of these runs; how many observations that were. Each run is a transaction.

        Raises:
            JournalError: The file cannot be written; those of some runs may be gone.
        """
        deleted = 0
        with self._disk:
            try:
                connection = self._opened()
                for run in runs:
                    connection.execute("BEGIN IMMEDIATE")
                    try:
                        deleted += connection.execute("DELETE FROM observations WHERE run_id = ?", (run,)).rowcount
                        connection.execute("DELETE FROM totals WHERE run_id = ?", (run,))
                        connection.execute("COMMIT")
                    finally:
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
            except (sqlite3.Error, OSError) as error:
                raise journal_error(error, str(self.path), "remove observations") from error
        return deleted

    def flush(self) -> None:
        """Write what waits. What the disk refuses is dropped and counted."""
        with self._disk:
            self._write()

    def close(self) -> None:
        """Write what waits and end. Idempotent; later additions are dropped and counted."""
        with self._lock:
            self._ending = True
            thread, self._thread = self._thread, None
        self._some.set()
        self._enough.set()
        if thread is not None:
            thread.join()
        with self._disk:
            self._write()
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _serve(self) -> None:
        while not self._ending:
            self._some.wait()
            self._some.clear()
            self._enough.wait(_EVERY_S)
            self._enough.clear()
            self.flush()

    def _write(self) -> None:
        with self._lock:
            items = list(self._queue)
            self._queue.clear()
            self._queued_bytes = 0
            lost, self._lost = self._lost, Counter()
        if not items and not lost:
            return
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._store(connection, items, lost)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except Exception:  # a failing disk or a value that cannot be encoded: never the run's concern
            with self._lock:
                self._lost.update(lost)
                self._lost.update(item[0] for item in items)

    def _store(self, connection: sqlite3.Connection, items: list[_Item], lost: Counter[str]) -> None:
        rows = [(run_id, task, attempt, at_ms, _encode(body)) for run_id, task, attempt, body, at_ms in items]
        connection.executemany(
            "INSERT INTO observations (run_id, task, attempt, at_ms, body) VALUES (?, ?, ?, ?, ?)", rows
        )
        added = Counter(item[0] for item in items)
        grown: Counter[str] = Counter()
        for row in rows:
            grown[row[0]] += len(row[4])
        for run_id in added.keys() | lost.keys():
            row = connection.execute("SELECT kept, dropped FROM totals WHERE run_id = ?", (run_id,)).fetchone()
            kept, dropped = row or (0, 0)
            kept += added[run_id]
            excess = max(0, kept - self._max_rows, self._too_many(connection, run_id, grown[run_id]))
            if excess:
                connection.execute(
                    "DELETE FROM observations WHERE id IN "
                    "(SELECT id FROM observations WHERE run_id = ? ORDER BY id LIMIT ?)",
                    (run_id, excess),
                )
            connection.execute(
                "INSERT OR REPLACE INTO totals VALUES (?, ?, ?)",
                (run_id, kept - excess, dropped + excess + lost[run_id]),
            )

    def _too_many(self, connection: sqlite3.Connection, run_id: str, grown: int) -> int:
        """How many of the oldest must go so that the run's bodies fit, with some room so that it is not asked often."""
        of_run = "FROM observations WHERE run_id = ?"
        if run_id not in self._bytes:
            (found,) = connection.execute(f"SELECT coalesce(sum(length(body)), 0) {of_run}", (run_id,)).fetchone()
            self._bytes[run_id] = found
        else:
            self._bytes[run_id] += grown
        if self._bytes[run_id] <= self._max_bytes:
            return 0
        left = connection.execute(f"SELECT sum(length(body)) {of_run}", (run_id,)).fetchone()[0]
        count = 0
        for (length,) in connection.execute(f"SELECT length(body) {of_run} ORDER BY id", (run_id,)):
            if left <= self._max_bytes * 3 // 4:
                break
            left -= length
            count += 1
        self._bytes[run_id] = left
        return count

    def _opened(self) -> sqlite3.Connection:
        if self._closed:
            raise JournalError(f"{self.path}: the observations are closed", path=str(self.path))
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = connect(self.path, synchronous="OFF")
            try:
                for statement in _SCHEMA:
                    connection.execute(statement)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _size(observation: Observation) -> int:
    """Characters of its text, which is what can be long."""
    if isinstance(observation, OutputChunk):
        return len(observation.text)
    return len(observation.message) if isinstance(observation, Log | Progress) else 0
