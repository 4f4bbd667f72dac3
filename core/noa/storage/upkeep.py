"""What `noa doctor` and `noa gc` ask of a store beside the journal, and mend in it.

Nothing here appends to a history. Each call is one transaction, so that it may stand beside live engines.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from noa.model.events import decode_event
from noa.model.ids import RunId
from noa.storage.connection import BUSY_TIMEOUT_S, connect, journal_error
from noa.storage.migrations import OVER, SEQ_BITS, SEQ_MASK
from noa.storage.ownership import is_dead, is_held
from noa.storage.sqlite import status_after

__all__ = ["LostSignal", "Upkeep", "WrongStatus", "quick_check"]

T = TypeVar("T")

_CHECKPOINT_WAIT_MS = 1_000

_LAST_TURN = (
    f"SELECT body FROM events WHERE id BETWEEN :number << {SEQ_BITS} AND :number << {SEQ_BITS} | {SEQ_MASK} "
    "AND CASE WHEN json_valid(CAST(body AS TEXT)) THEN json_extract(CAST(body AS TEXT), '$.type') END "
    "IN ('run_finished', 'run_reopened') ORDER BY id DESC LIMIT 1"
)
_LOST_SIGNALS = (
    "SELECT signal_id, signals.run_id, kind, status FROM signals JOIN runs USING (run_id) "
    "WHERE applied_seq = 0 AND status IN (SELECT value FROM json_each(?))"
)


@dataclass(frozen=True, slots=True)
class WrongStatus:
    """A run that is listed otherwise than its events say."""

    run_id: RunId
    listed: str
    right: str


@dataclass(frozen=True, slots=True)
class LostSignal:
    """A signal of a run that ended before it was applied."""

    signal_id: str
    run_id: RunId
    kind: str
    status: str


class Upkeep:
    """A connection of its own to the file of a journal that exists and is of this version. A context manager.

    Raises:
        JournalError: From each method: SQLite failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = msgspec.json.encode(sorted(OVER)).decode()
        with self._told("open the store"):
            self._connection = connect(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def iter_texts(self, without: Sequence[str] = (), *, expired_ms: int) -> Iterator[bytes]:
        """Everything in which artifacts can be named: events of all runs but some, definitions, signals, kept outputs.

        All of one moment: take it to its end, for the write-ahead log cannot be emptied meanwhile.

        Args:
            without: Runs that do not count.
            expired_ms: Nor do kept outputs whose time was over then.
        """
        left_out = msgspec.json.encode(list(without)).decode()
        with self._told("read the events"):
            self._connection.execute("BEGIN")
            try:
                for (number,) in self._connection.execute(
                    "SELECT id FROM runs WHERE run_id NOT IN (SELECT value FROM json_each(?))", (left_out,)
                ).fetchall():
                    yield from self._bodies(number)
                yield from self._column("SELECT text FROM definitions")
                yield from self._column("SELECT body FROM signals WHERE applied_seq = 0")
                yield from self._column(
                    f"SELECT outputs FROM kept WHERE expires_at_ms NOT BETWEEN 1 AND {expired_ms:d}"
                )
            finally:
                self._connection.execute("ROLLBACK")

    def bodies(self, run: RunId) -> list[bytes]:
        """The events of a run as they are kept."""
        with self._told(f"read run '{run}'"):
            row = self._connection.execute("SELECT id FROM runs WHERE run_id = ?", (run,)).fetchone()
            return list(self._bodies(row[0])) if row else []

    def size_bytes(self, runs: Sequence[RunId]) -> int:
        """Bytes of the events of these runs."""
        wanted = msgspec.json.encode(list(runs)).decode()
        sql = (
            "SELECT coalesce(sum(length(body) + length(hash)), 0) FROM runs JOIN events "
            f"ON events.id BETWEEN runs.id << {SEQ_BITS} AND runs.id << {SEQ_BITS} | {SEQ_MASK} "
            "WHERE run_id IN (SELECT value FROM json_each(?))"
        )
        with self._told("measure runs"):
            return int(self._connection.execute(sql, (wanted,)).fetchone()[0])

    def driven(self) -> list[RunId]:
        """Runs that are not over and whose engine may live, whatever became of its lease."""
        sql = "SELECT run_id, owner FROM runs WHERE owner <> '' AND status NOT IN (SELECT value FROM json_each(?))"
        with self._told("list the runs"):
            rows = self._connection.execute(sql, (self._over,)).fetchall()
        return [RunId(run) for run, owner in rows if not is_dead(owner)]

    def watch(self) -> Callable[[], bool]:
        """Asks whether an engine drives a run now, or anybody else wrote to the store since this call."""
        before = self._data_version()
        return lambda: bool(self.driven()) or self._data_version() != before

    def wrong_statuses(self) -> list[WrongStatus]:
        """Runs that are listed otherwise than their events say."""

        def work() -> list[WrongStatus]:
            rows = self._connection.execute("SELECT id, run_id, status, degraded FROM runs").fetchall()
            found = []
            for number, run, status, degraded in rows:
                right = self._right_status(number)
                if right is not None and not _same(status, bool(degraded), right):
                    listed = f"{status}, degraded" if degraded else status
                    found.append(WrongStatus(run, listed, f"{right[0]}, degraded" if right[1] else right[0]))
            return found

        return self._in_transaction(work, "compare the runs with their events", write=False)

    def mend_statuses(self, runs: Sequence[RunId], now_ms: int) -> int:
        """List runs as their events say; how many. One that a live engine holds is left alone."""

        def work() -> int:
            mended = 0
            for run in runs:
                row = self._connection.execute(
                    "SELECT id, owner, lease_until_ms FROM runs WHERE run_id = ?", (run,)
                ).fetchone()
                if row is None or is_held(row[1], row[2], now_ms) or (right := self._right_status(row[0])) is None:
                    continue
                mended += self._connection.execute(
                    "UPDATE runs SET status = ?, degraded = ? WHERE id = ?", (*right, row[0])
                ).rowcount
            return mended

        return self._in_transaction(work, "mend the list of runs", write=True)

    def lost_signals(self) -> list[LostSignal]:
        """Signals of runs that are over, which were never applied."""
        with self._told("read signals"):
            rows = self._connection.execute(_LOST_SIGNALS, (self._over,)).fetchall()
            return [LostSignal(*row) for row in rows]

    def close_signals(self, signals: Sequence[str]) -> int:
        """Mark signals as seen by the last event of their run, where that is over still; how many."""
        wanted = msgspec.json.encode(list(signals)).decode()
        sql = (
            f"UPDATE signals SET applied_seq = (SELECT max(events.id) & {SEQ_MASK} FROM runs JOIN events ON events.id "
            f"BETWEEN runs.id << {SEQ_BITS} AND runs.id << {SEQ_BITS} | {SEQ_MASK} "
            "WHERE runs.run_id = signals.run_id) WHERE applied_seq = 0 "
            "AND signal_id IN (SELECT value FROM json_each(?)) "
            "AND run_id IN (SELECT run_id FROM runs WHERE status IN (SELECT value FROM json_each(?)))"
        )
        return self._in_transaction(
            lambda: self._connection.execute(sql, (wanted, self._over)).rowcount, "close signals", write=True
        )

    def expired_kept(self, now_ms: int) -> tuple[int, int]:
        """Kept outputs whose time is over: how many, and their bytes."""
        sql = "SELECT count(*), coalesce(sum(length(outputs)), 0) FROM kept WHERE expires_at_ms BETWEEN 1 AND ?"
        with self._told("read kept outputs"):
            count, size = self._connection.execute(sql, (now_ms,)).fetchone()
            return count, size

    def delete_expired_kept(self, now_ms: int) -> int:
        """Remove kept outputs whose time is over; how many."""
        sql = "DELETE FROM kept WHERE expires_at_ms BETWEEN 1 AND ?"
        return self._in_transaction(
            lambda: self._connection.execute(sql, (now_ms,)).rowcount, "remove kept outputs", write=True
        )

    def checkpoint(self) -> bool:
        """Bring the write-ahead log into the file and empty it; False where somebody reads or writes just now."""
        with self._told("empty the write-ahead log"):
            # Those that write wait as long as this waits for those that read: not long enough to fail.
            self._connection.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT_MS}")
            try:
                return not self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}")

    def vacuum(self) -> None:
        """Write the file anew without its unused pages. Others that write wait, and fail where it takes too long."""
        with self._told("vacuum the store"):
            self._connection.execute("VACUUM")
        self.checkpoint()

    def _data_version(self) -> int:
        with self._told("look for changes"):
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _right_status(self, number: int) -> tuple[str, bool] | None:
        """What the events of a run say; None where they cannot be read."""
        row = self._connection.execute(_LAST_TURN, {"number": number}).fetchone()
        try:
            return status_after([decode_event(row[0])] if row else [])
        except msgspec.ValidationError:
            return None

    def _bodies(self, number: int) -> Iterator[bytes]:
        base = number << SEQ_BITS
        return self._column(f"SELECT body FROM events WHERE id BETWEEN {base} AND {base | SEQ_MASK} ORDER BY id")

    def _column(self, sql: str) -> Iterator[bytes]:
        for (value,) in self._connection.execute(sql):
            yield value.encode() if isinstance(value, str) else value

    def _in_transaction(self, work: Callable[[], T], doing: str, *, write: bool) -> T:
        with self._told(doing):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                found = work()
                self._connection.execute("COMMIT")
                return found
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise journal_error(error, str(self.path), doing) from error


def quick_check(path: Path, *, most: int = 5) -> list[str]:
    """What SQLite finds wrong with a file; empty where it is sound or not there.

    The lines are SQLite's own. Without SQLite's index checks, so that it takes as long as reading the file.
    """
    if not path.exists():
        return []
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            lines = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({most})")]
    except sqlite3.Error as error:
        return [str(error)]
    return [] if lines == ["ok"] else lines


def _same(status: str, degraded: bool, right: tuple[str, bool]) -> bool:
    if right[0] in OVER or status in OVER:
        return (status, degraded) == right
    return True  # what a run that goes on does just now is not in its events
