"""The one writer of a journal, with group commit on its own thread.

What waits when the thread is free goes into one transaction, so concurrent runs share the cost of the disk. Each piece
of work has its own outcome: one that is refused or breaks does not take the others with it.

A lone chain of appends shares with nobody, and handing each to a thread and back costs half as much again as the commit
itself. While appends come one by one and the disk answers at once (`INLINE_LIMIT_S`), they are committed on the loop's
thread, which would only wait for them; the first sign of company or of a slow disk goes back to the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from noa.errors import ConflictError, JournalError, NoaError, RunNotFoundError
from noa.storage.connection import BUSY_TIMEOUT_S, journal_error
from noa.storage.migrations import RUNS_WITH_LAST_EVENT, SEQ_BITS, SEQ_MASK

__all__ = ["INLINE_LIMIT_S", "Append", "Work", "Writer", "chain_hash", "insert_events"]

INLINE_LIMIT_S = 0.001
"""Commits that recently took longer than this are made on the thread only."""

_LONE = 3
"""So many appends must have come one by one before the next is committed on the loop's thread."""

_CHUNK = 32
"""Rows for each statement. One statement of many rows gives the GIL away once, not once a row."""

_INSERT = tuple(f"INSERT INTO events VALUES {', '.join(['(?, ?, ?)'] * count)}" for count in range(1, _CHUNK + 1))


@dataclass(slots=True, eq=False)
class Append:
    """Encoded events for one run, and what they change beside its history.

    Attributes:
        status: New status of the run; None where no event changes it. `degraded` belongs to it.
        signals: Signals that were applied or refused, with the sequence number of the event that says so.
        kept: Rows for the table of kept outputs.
    """

    future: asyncio.Future[Any]
    run_id: str
    fence: int
    expected_seq: int
    bodies: Sequence[bytes]
    at_ms: int
    status: str | None = None
    degraded: bool = False
    signals: Sequence[tuple[str, int]] = ()
    kept: Sequence[tuple[str, bytes, str, int, int]] = ()


@dataclass(slots=True, eq=False)
class Work:
    """Anything else to do in a transaction.

    `run` must raise its NoaErrors before it writes: what it wrote is committed with the rest.
    """

    future: asyncio.Future[Any]
    run: Callable[[sqlite3.Connection], Any]
    doing: str


Job: TypeAlias = Append | Work
Outcome: TypeAlias = tuple[Job, Any, Exception | None]


def chain_hash(previous: bytes, body: bytes) -> bytes:
    """The hash of an event that follows the one with the hash `previous` (empty for the first)."""
    return hashlib.sha256(previous + body).digest()


def insert_events(connection: sqlite3.Connection, values: list[Any]) -> None:
    """Write rows of `events`; `values` has three entries for each, one after the other."""
    step = 3 * _CHUNK
    for start in range(0, len(values), step):
        part = values[start : start + step]
        connection.execute(_INSERT[len(part) // 3 - 1], part)


class Writer:
    """Runs jobs in transactions on its own thread; futures are resolved on the loop's thread.

    `submit` is for the loop's thread only. The connection belongs to the writer until `close` has returned: to its
    thread while anything is handed over, else to the loop's.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._path = path
        self._loop = loop
        self._waiting: list[Job] = []
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._heads: dict[str, tuple[int, int, int, bytes]] = {}  # run id -> (number, fence, last seq, last hash)
        self._version = 0  # SQLite's data_version for which the heads hold
        self._closed = False
        self._handed_over = 0  # batches with the thread; loop's thread only
        self._lone = 0  # batches of one job in a row; loop's thread only
        self._turn_used = False  # whether this turn of the loop has committed; loop's thread only
        self._cost_s = 0.0  # of a transaction, moving average
        self._patience_s = BUSY_TIMEOUT_S
        self._thread = threading.Thread(target=self._serve, name="noa-journal-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Hand a job over. What one turn of the loop submits goes to the thread together.

        Raises:
            JournalError: The writer was closed.
        """
        if self._closed:
            raise JournalError(f"{self._path}: the journal is closed", path=self._path)
        if self._lone > _LONE and self._commit_alone(job):
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(job)

    async def close(self) -> None:
        """Finish what was submitted, seal the runs that go on, then end the thread."""
        sealed = self._loop.create_future()
        self.submit(Work(sealed, self._seal_all, "seal the runs"))
        self._closed = True
        self._flush()
        with contextlib.suppress(JournalError):  # the seals are old then; nothing else is lost
            await sealed
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def forget(self, run_id: str) -> None:
        """Read a run's fence and last event again when they are needed. For jobs that change them."""
        self._heads.pop(run_id, None)

    def seal(self, run_id: str) -> None:
        """Note in the run where its history ends, so that events cut off there show. For jobs."""
        if head := self._heads.get(run_id):
            number, _, seq, last_hash = head
            self._connection.execute(
                "UPDATE runs SET last_seq = ?, last_hash = ? WHERE id = ?", (seq, last_hash, number)
            )

    def _seal_all(self, _: sqlite3.Connection) -> None:
        for run_id in self._heads:
            self.seal(run_id)

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        if len(batch) == 1 and not self._handed_over:
            self._lone += 1
        else:
            self._lone = 0
        self._handed_over += 1
        self._queue.put(batch)

    def _commit_alone(self, job: Job) -> bool:
        """Commit on the loop's thread, at once; False where the job has company, or would wait. The thread is idle."""
        if self._turn_used:
            self._lone = 0  # a second append in one turn of the loop: the two should share their commits
            return False
        if self._waiting or self._handed_over or self._cost_s >= INLINE_LIMIT_S or not isinstance(job, Append):
            return False
        try:
            self._set_patience(0)
            self._begin()
        except sqlite3.Error:
            return False  # the thread waits, or meets the same error and tells it
        _resolve(self._transact([job]))
        self._turn_used = True
        self._loop.call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        self._turn_used = False

    def _serve(self) -> None:
        closing = False
        while not closing and (batch := self._queue.get()) is not None:
            count = 1
            while not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    closing = True
                    break
                batch += more
                count += 1
            outcomes = self._commit(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._handed_back, outcomes, count)

    def _handed_back(self, outcomes: list[Outcome], count: int) -> None:
        self._handed_over -= count
        _resolve(outcomes)

    def _commit(self, batch: list[Job]) -> list[Outcome]:
        try:
            self._set_patience(BUSY_TIMEOUT_S)
            self._begin()
        except sqlite3.Error as error:
            return [(job, None, self._failure(job, error)) for job in batch]
        return self._transact(batch)

    def _begin(self) -> None:
        if self._connection.in_transaction:  # an earlier ROLLBACK failed
            self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN IMMEDIATE")
        version = _data_version(self._connection)
        if version != self._version:  # another process wrote: what is remembered may be old
            self._heads.clear()
            self._version = version

    def _set_patience(self, patience_s: float) -> None:
        """How long a BEGIN waits for other processes."""
        if patience_s != self._patience_s:
            self._connection.execute(f"PRAGMA busy_timeout = {round(patience_s * 1000)}")
            self._patience_s = patience_s

    def _transact(self, batch: list[Job]) -> list[Outcome]:
        """Do the work of an open transaction and end it; where it fails, do each job in one of its own."""
        outcomes: list[Outcome] = []
        began_s = time.perf_counter()
        try:
            self._apply(batch, outcomes)
            self._connection.execute("COMMIT")
        except Exception as error:  # whatever a job raises: the thread that all runs depend on must go on
            self._heads.clear()
            self._rollback()
            if len(batch) > 1:
                return [outcome for job in batch for outcome in self._commit([job])]
            return [(job, None, self._failure(job, error)) for job in batch]
        self._cost_s += 0.2 * (time.perf_counter() - began_s - self._cost_s)
        return outcomes

    def _apply(self, batch: list[Job], outcomes: list[Outcome]) -> None:
        group: dict[str, Append] = {}
        for job in batch:
            if isinstance(job, Append):
                if job.run_id in group:
                    self._append(group, outcomes)
                group[job.run_id] = job
                continue
            self._append(group, outcomes)
            try:
                outcomes.append((job, job.run(self._connection), None))
            except NoaError as error:
                outcomes.append((job, None, error))
        self._append(group, outcomes)

    def _append(self, group: dict[str, Append], outcomes: list[Outcome]) -> None:
        """Write the appends of different runs, and empty the group. What is refused is refused before anything is
        written: nobody else can write between BEGIN IMMEDIATE and COMMIT, and the heads hold for this transaction.
        """
        rows: list[Any] = []
        noted: list[Append] = []
        sha256 = hashlib.sha256
        for job in group.values():
            head = self._heads.get(job.run_id) or self._load_head(job.run_id)
            if head is None or head[1] != job.fence or head[2] != job.expected_seq:
                outcomes.append((job, None, self._refusal(job, head)))
                continue
            number, fence, seq, last_hash = head
            base = number << SEQ_BITS
            for body in job.bodies:
                seq += 1
                last_hash = sha256(last_hash + body).digest()  # chain_hash, without the call
                rows += (base + seq, body, last_hash)
            self._heads[job.run_id] = (number, fence, seq, last_hash)
            outcomes.append((job, seq, None))
            if job.status is not None or job.signals or job.kept:
                noted.append(job)
        group.clear()
        insert_events(self._connection, rows)
        for job in noted:
            self._note(job)

    def _note(self, job: Append) -> None:
        """What the events of an append change beside the history."""
        if job.status is not None:
            self._connection.execute(
                "UPDATE runs SET status = ?, degraded = ? WHERE run_id = ?", (job.status, job.degraded, job.run_id)
            )
            self.seal(job.run_id)
            self.forget(job.run_id)
        for signal_id, seq in job.signals:
            self._connection.execute("UPDATE signals SET applied_seq = ? WHERE signal_id = ?", (seq, signal_id))
        if job.kept:
            self._connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", job.kept)

    def _load_head(self, run_id: str) -> tuple[int, int, int, bytes] | None:
        row = self._connection.execute(
            f"SELECT runs.id, fence, events.id & {SEQ_MASK}, hash FROM {RUNS_WITH_LAST_EVENT} WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            return None
        head: tuple[int, int, int, bytes] = tuple(row)
        self._heads[run_id] = head
        return head

    def _refusal(self, job: Append, head: tuple[int, int, int, bytes] | None) -> NoaError:
        """Why an append is refused."""
        if head is None:
            return RunNotFoundError(f"run '{job.run_id}' is not in {self._path}", run_id=job.run_id)
        _, fence, last_seq, _ = head
        if fence != job.fence:
            found = self._connection.execute("SELECT owner FROM runs WHERE run_id = ?", (job.run_id,)).fetchone()
            owner = found[0] if found else ""
            return ConflictError(
                f"run '{job.run_id}' was taken over by {owner or 'another engine'} (fence {fence}, ours is "
                f"{job.fence}); nothing was written",
                run_id=job.run_id, fence=fence, owner=owner,
            )  # fmt: skip
        return ConflictError(
            f"run '{job.run_id}' is at event {last_seq}, expected {job.expected_seq}; nothing was written. Read again",
            run_id=job.run_id, last_seq=last_seq, expected_seq=job.expected_seq,
        )  # fmt: skip

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # tried again before the next transaction
                self._connection.execute("ROLLBACK")

    def _failure(self, job: Job, error: Exception) -> JournalError:
        doing = f"append to run '{job.run_id}'" if isinstance(job, Append) else job.doing
        failure = journal_error(error, self._path, doing)
        failure.__cause__ = error
        return failure


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _resolve(outcomes: list[Outcome]) -> None:
    for job, value, error in outcomes:
        if job.future.done():  # whoever waited was cancelled
            continue
        if error is None:
            job.future.set_result(value)
        else:
            job.future.set_exception(error)
