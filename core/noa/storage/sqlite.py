"""The journal in one SQLite file: WAL, synchronous=FULL, one writer thread with group commit, one reader thread."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from noa.errors import ConflictError, JournalError, OwnershipError, RunKeyError, RunNotFoundError, UsageError
from noa.model.events import AttemptSucceeded, Event, RunCreated, RunFinished, RunReopened, decode_event, encode_event
from noa.model.ids import RunId
from noa.plugin.interfaces import Journal, Lease, Recollection, RunRecord, SignalRecord
from noa.storage.connection import connect, file_path, journal_error
from noa.storage.deletion import delete_run, delete_unused_definitions
from noa.storage.learned import read_learned, write_learned
from noa.storage.migrations import OVER, RUNS_WITH_LAST_EVENT, SEQ_BITS, SEQ_MASK, migrate
from noa.storage.ownership import is_held
from noa.storage.writer import Append, Work, Writer, chain_hash, insert_events

__all__ = ["MAX_EVENTS", "SqliteJournal", "status_after"]

MAX_EVENTS = 10_000
"""Most events for one append."""

_RECORD = (
    "SELECT run_id, workflow, status, created_at_ms, "
    "CASE WHEN json_valid(CAST(body AS TEXT)) THEN json_extract(CAST(body AS TEXT), '$.at_ms') ELSE created_at_ms END, "
    f"events.id & {SEQ_MASK}, owner, fence, lease_until_ms, parent, degraded FROM {RUNS_WITH_LAST_EVENT}"
)
_NOTED = frozenset(
    {
        AttemptSucceeded,
        RunFinished,
        RunReopened,
        *(kind for kind in get_args(Event) if "signal" in kind.__struct_fields__),
    }
)
"""Events that may change something beside the history. The others, which are most, cost an append nothing."""

_DELETED_AT_ONCE = 16
"""Runs that are deleted in one transaction; others that write wait for it."""

_SIGNAL = "SELECT signal_id, run_id, kind, actor, reason, body, created_at_ms, applied_seq FROM signals"
T = TypeVar("T")


class SqliteJournal(Journal):
    """A journal in an SQLite file, shared safely by processes of one machine.

    Args:
        url_or_path: `sqlite:///abs/path`, `sqlite://rel/path` or a path. Missing folders are created by `open`.
        now_ms: The clock of leases; epoch milliseconds.

    An instance belongs to the event loop that opened it.
    """

    def __init__(
        self, url_or_path: str | Path, *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self.path = file_path(str(url_or_path), "sqlite")
        self._where = str(self.path)
        self._now_ms = now_ms
        self._writer: Writer | None = None
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection] | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._data_version = 0
        self._seen_version = -1
        self._signalled = False

    async def open(self) -> None:
        if self._writer is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._connections = await asyncio.to_thread(self._connect)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="noa-journal-reader")
        self._writer = Writer(self._connections[0], self._where, self._loop)

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None or self._reader is None or self._connections is None:
            return
        await writer.close()
        reader, self._reader = self._reader, None
        await asyncio.to_thread(reader.shutdown)
        for connection in reversed(self._connections):
            connection.close()

    async def create(
        self,
        run: RunId,
        created: Event,
        *,
        owner: str,
        lease_ms: int,
        texts: Mapping[str, str],
        past: Sequence[Event] = (),
    ) -> Lease:
        if not isinstance(created, RunCreated):
            raise UsageError(f"run '{run}': the first event must be a RunCreated, got {type(created).__name__}")
        bodies = [_encode(run, event) for event in (created, *past)]
        hashes = list(accumulate(bodies, chain_hash, initial=b""))[1:]
        status, degraded = status_after(past)
        until_ms = self._now_ms() + lease_ms

        def work(connection: sqlite3.Connection) -> Lease:
            self._check_new(connection, run, created.key)
            number = connection.execute(
                "INSERT INTO runs (run_id, workflow, status, created_at_ms, last_seq, last_hash, owner, fence, "
                "lease_until_ms, parent, degraded, run_key) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
                (run, created.workflow, status, created.at_ms, len(bodies), hashes[-1], owner, until_ms,
                 created.parent, degraded, created.key),
            ).lastrowid  # fmt: skip
            assert number is not None
            keys = range(number << SEQ_BITS | 1, (number << SEQ_BITS) + len(bodies) + 1)
            insert_events(connection, list(chain.from_iterable(zip(keys, bodies, hashes, strict=True))))
            for sha256, text in texts.items():
                connection.execute("INSERT OR IGNORE INTO definitions VALUES (?, ?)", (sha256, text))
            return Lease(run, owner, 1, until_ms)

        return await self._write(work, f"create run '{run}'")

    async def append(self, lease: Lease, events: Sequence[Event], *, expected_seq: int) -> int:
        run, writer = lease.run_id, self._open_writer()
        if not 1 <= len(events) <= MAX_EVENTS:
            raise UsageError(f"run '{run}': an append takes 1 to {MAX_EVENTS} events, got {len(events)}", run_id=run)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            bodies = [encode_event(event) for event in events]
            job = Append(future, run, lease.fence, expected_seq, bodies, events[-1].at_ms)
            for seq, event in enumerate(events, expected_seq + 1):
                if type(event) in _NOTED:
                    _note(job, seq, event)
        except Exception as error:  # msgspec raises several kinds for values that are not JSON
            raise _not_json(run, error) from error
        writer.submit(job)
        return await future

    async def read(self, run: RunId, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Event]]:
        def work(connection: sqlite3.Connection) -> list[tuple[int, Event]]:
            number, _, _ = _locate(connection, run, self._where)
            base = number << SEQ_BITS
            rows = connection.execute(
                "SELECT id, body FROM events WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                (base + max(after, 0), base | SEQ_MASK, -1 if limit is None else limit),
            ).fetchall()
            return [(key & SEQ_MASK, self._decode(run, key & SEQ_MASK, body)) for key, body in rows]

        return await self._read(work, f"read run '{run}'")

    async def text(self, sha256: str) -> str:
        row = await self._read(
            lambda connection: connection.execute(
                "SELECT text FROM definitions WHERE sha256 = ?", (sha256,)
            ).fetchone(),
            "read a definition",
        )
        if row is None:
            raise JournalError(f"{self._where} has no definition with the SHA-256 {sha256}", sha256=sha256)
        text = str(row[0])
        whole_name = len(sha256) == 64  # a store takes shorter names too, of which nothing follows
        if whole_name and hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != sha256:
            raise JournalError(
                f"{self._where}: the definition with the SHA-256 {sha256} was changed since it was written. Restore "
                "the store from a backup",
                sha256=sha256,
            )
        return text

    async def run(self, run: RunId) -> RunRecord:
        def work(connection: sqlite3.Connection) -> RunRecord:
            row = connection.execute(f"{_RECORD} WHERE run_id = ?", (run,)).fetchone()
            if row is not None:
                return _record(row)
            rows = connection.execute(
                f"{_RECORD} WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT 11", (run, run + "\U0010ffff")
            ).fetchall()
            if not rows or not run:
                raise _not_found(connection, run, self._where)
            if len(rows) > 1:
                known = [row[0] for row in rows]
                raise UsageError(
                    f"'{run}' is the beginning of several runs: {', '.join(known[:10])}"
                    f"{' …' if len(known) > 10 else ''}. Give more of the id",
                    run_id=run, matches=known[:10],
                )  # fmt: skip
            return _record(rows[0])

        return await self._read(work, f"read run '{run}'")

    async def runs(
        self, *, status: str | None = None, workflow: str | None = None, limit: int | None = 50
    ) -> list[RunRecord]:
        wanted = {"status": status, "workflow": workflow}
        chosen = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = :{name}" for name in chosen)
        sql = f"{_RECORD} {'WHERE ' + where if where else ''} ORDER BY runs.id DESC LIMIT :limit"
        rows = await self._read(
            lambda connection: connection.execute(sql, {**chosen, "limit": -1 if limit is None else limit}).fetchall(),
            "list the runs",
        )
        return [_record(row) for row in rows]

    async def acquire(self, run: RunId, *, owner: str, lease_ms: int) -> Lease:
        writer = self._open_writer()
        if (changed := await self.verify(run)) is not None:
            raise JournalError(
                f"{self._where}: event {changed} of run '{run}' is not what was written, so nothing goes on from it. "
                f"Restore the store from a backup, or go on from before it: `noa fork {run} --at {changed - 1}`",
                run_id=run, seq=changed,
            )  # fmt: skip

        def work(connection: sqlite3.Connection) -> Lease:
            row = connection.execute(
                "SELECT id, owner, fence, lease_until_ms FROM runs WHERE run_id = ?", (run,)
            ).fetchone()
            if row is None:
                raise _not_found(connection, run, self._where)
            number, holder, fence, until_ms = row
            now_ms = self._now_ms()
            if holder != owner and is_held(holder, until_ms, now_ms):
                raise OwnershipError(
                    f"run '{run}' is owned by the engine {holder} for another {(until_ms - now_ms) / 1000:.1f} s at "
                    "least. Use that one, end it, or wait",
                    run_id=run, owner=holder, lease_until_ms=until_ms,
                )  # fmt: skip
            lease = Lease(run, owner, fence + 1, now_ms + lease_ms)
            connection.execute(
                "UPDATE runs SET owner = ?, fence = ?, lease_until_ms = ? WHERE id = ?",
                (owner, lease.fence, lease.until_ms, number),
            )
            writer.forget(run)
            return lease

        return await self._write(work, f"take over run '{run}'")

    async def renew(self, leases: Sequence[Lease], *, lease_ms: int) -> list[RunId]:
        if not leases:
            return []
        held = msgspec.json.encode([(lease.run_id, lease.fence) for lease in leases]).decode()
        among = (
            "(run_id, fence) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:held))"
        )

        writer = self._open_writer()

        def work(connection: sqlite3.Connection) -> list[RunId]:
            for lease in leases:
                writer.seal(lease.run_id)
            until_ms = self._now_ms() + lease_ms
            changed = connection.execute(
                f"UPDATE runs SET lease_until_ms = :until_ms WHERE {among}", {"until_ms": until_ms, "held": held}
            ).rowcount
            if changed == len(leases):
                return []
            kept = {row[0] for row in connection.execute(f"SELECT run_id FROM runs WHERE {among}", {"held": held})}
            return [lease.run_id for lease in leases if lease.run_id not in kept]

        return await self._write(work, "renew leases")

    async def release(self, lease: Lease) -> None:
        writer = self._open_writer()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE runs SET owner = '', lease_until_ms = 0 WHERE run_id = ? AND fence = ?",
                (lease.run_id, lease.fence),
            )
            writer.seal(lease.run_id)
            writer.forget(lease.run_id)

        await self._write(work, f"release run '{lease.run_id}'")

    async def abandoned(self) -> list[RunRecord]:
        sql = f"{_RECORD} WHERE status NOT IN (SELECT value FROM json_each(?)) AND parent = '' ORDER BY runs.id"
        over = msgspec.json.encode(sorted(OVER)).decode()
        rows = await self._read(lambda connection: connection.execute(sql, (over,)).fetchall(), "list the runs")
        now_ms = self._now_ms()
        return [record for record in map(_record, rows) if not is_held(record.owner, record.lease_until_ms, now_ms)]

    async def recall(self, key: str, *, not_before_ms: int = 0) -> Recollection | None:
        sql = (
            "SELECT outputs, run_id, made_at_ms FROM kept WHERE key = ? AND made_at_ms >= ? "
            "AND (expires_at_ms = 0 OR expires_at_ms > ?)"
        )
        row = await self._read(
            lambda connection: connection.execute(sql, (key, not_before_ms, self._now_ms())).fetchone(),
            "read kept outputs",
        )
        return None if row is None else Recollection(msgspec.json.decode(row[0]), RunId(row[1]), row[2])

    async def learned(self, workflow: str) -> tuple[bytes, int]:
        return await self._read(lambda connection: read_learned(connection, workflow), "read what was learned")

    async def learn(self, workflow: str, body: bytes, *, revision: int) -> bool:
        return await self._write(
            lambda connection: write_learned(connection, workflow, body, revision), "keep what was learned"
        )

    async def delete(self, runs: Sequence[RunId]) -> int:
        writer, deleted = self._open_writer(), 0

        def one(run: RunId) -> Callable[[sqlite3.Connection], bool]:
            def work(connection: sqlite3.Connection) -> bool:
                writer.forget(run)
                return delete_run(connection, run, self._now_ms())

            return work

        for start in range(0, len(runs), _DELETED_AT_ONCE):
            part = runs[start : start + _DELETED_AT_ONCE]
            deleted += sum(await asyncio.gather(*(self._write(one(run), f"delete run '{run}'") for run in part)))
        if deleted:
            await self._write(delete_unused_definitions, "delete definitions")
        return deleted

    async def put_signal(self, signal: SignalRecord) -> bool:
        try:
            body = msgspec.json.encode(signal.body).decode()
        except Exception as error:  # msgspec raises several kinds for values that are not JSON
            raise _not_json(signal.run_id, error) from error

        def work(connection: sqlite3.Connection) -> bool:
            if not connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (signal.run_id,)).fetchone():
                raise _not_found(connection, signal.run_id, self._where)
            added = connection.execute(
                "INSERT OR IGNORE INTO signals (signal_id, run_id, kind, actor, reason, body, created_at_ms, "
                "applied_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (signal.signal_id, signal.run_id, signal.kind, signal.actor, signal.reason, body,
                 signal.created_at_ms, signal.applied_seq),
            ).rowcount  # fmt: skip
            return added == 1

        added = await self._write(work, f"record a signal for run '{signal.run_id}'")
        self._signalled = self._signalled or added
        return added

    async def signals(self, runs: Sequence[RunId]) -> list[SignalRecord]:
        wanted = msgspec.json.encode(list(runs)).decode()
        rows = await self._read(
            lambda connection: connection.execute(
                f"{_SIGNAL} WHERE applied_seq = 0 AND run_id IN (SELECT value FROM json_each(?)) "
                "ORDER BY created_at_ms, id",
                (wanted,),
            ).fetchall(),
            "read signals",
        )
        return [SignalRecord(*(*row[:5], msgspec.json.decode(row[5]), *row[6:])) for row in rows]

    async def mark_signal(self, signal_id: str, seq: int) -> None:
        await self._write(
            lambda connection: connection.execute(
                "UPDATE signals SET applied_seq = ? WHERE signal_id = ?", (seq, signal_id)
            ),
            f"mark signal '{signal_id}'",
        )

    async def changed(self) -> bool:
        seen = self._version_seen()
        if seen == self._seen_version >= 0 and not self._signalled:
            return False
        # On the writer's connection, so that what this journal wrote itself does not count; signals do.
        version = await self._write(_data_version, "look for changes")
        changed = version != self._data_version or self._signalled
        self._data_version, self._seen_version, self._signalled = version, seen, False
        return changed

    def _version_seen(self) -> int:
        """A number that changes with whatever anybody writes, this journal included; -2 where that is not known.

        Read on the loop's thread from a connection of its own: an engine whose runs are held asks ten times a second,
        and neither takes the lock of writers for it nor wakes another thread.
        """
        if self._connections is None:
            return -2
        try:
            return _data_version(self._connections[2])
        except sqlite3.Error:
            return -2

    async def verify(self, run: RunId) -> int | None:
        def work(connection: sqlite3.Connection) -> int | None:
            number, last_seq, last_hash = _locate(connection, run, self._where)
            base, previous, seq = number << SEQ_BITS, b"", 0
            sha256 = hashlib.sha256
            for key, body, found in connection.execute(
                "SELECT id, CAST(body AS BLOB), hash FROM events WHERE id > ? AND id <= ? ORDER BY id",
                (base, base | SEQ_MASK),
            ):
                seq += 1
                if body is None:
                    return seq
                previous = sha256(previous + body).digest()  # chain_hash, without the call
                if key != base + seq or previous != found or (seq == last_seq and previous != last_hash):
                    return seq
            return seq + 1 if seq < last_seq else None

        return await self._read(work, f"verify run '{run}'")

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
        opened: list[sqlite3.Connection] = []
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened.append(connect(self.path))
            migrate(opened[0], self._where)
            self._data_version = _data_version(opened[0])
            for _ in ("of the reader", "of who looks for changes"):
                opened.append(connect(self.path))
                opened[-1].execute("PRAGMA query_only = ON")
            opened[2].execute("PRAGMA busy_timeout = 0")
        except BaseException as error:
            for connection in opened:
                connection.close()
            if isinstance(error, (sqlite3.Error, OSError, UnicodeDecodeError)):
                raise journal_error(error, self._where, "open the journal") from error
            raise
        return opened[0], opened[1], opened[2]

    def _check_new(self, connection: sqlite3.Connection, run: str, key: str) -> None:
        """Refuse a run that is there already, by its key or its id."""
        if key and (found := connection.execute("SELECT run_id FROM runs WHERE run_key = ?", (key,)).fetchone()):
            raise RunKeyError(
                f"the key '{key}' belongs to run {found[0]} in {self._where}; nothing was written. Look at that "
                "run, or use another key",
                run_id=found[0], key=key,
            )  # fmt: skip
        if connection.execute("SELECT 1 FROM runs WHERE run_id = ?", (run,)).fetchone():
            raise ConflictError(f"run '{run}' exists already in {self._where}; nothing was written", run_id=run)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise JournalError(f"{self._where}: the journal is not open", path=self._where)
        return self._writer

    async def _write(self, work: Callable[[sqlite3.Connection], T], doing: str) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._open_writer().submit(Work(future, work, doing))
        return await future

    async def _read(self, work: Callable[[sqlite3.Connection], T], doing: str) -> T:
        if self._reader is None or self._connections is None:
            raise JournalError(f"{self._where}: the journal is not open", path=self._where)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._reader, _in_one_moment, work, self._connections[1]
            )
        except (sqlite3.Error, OverflowError, TypeError, ValueError) as error:  # msgspec's are ValueErrors too
            raise journal_error(error, self._where, doing) from error

    def _decode(self, run: str, seq: int, body: bytes) -> Event:
        try:
            return decode_event(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
            raise JournalError(
                f"{self._where}: event {seq} of run '{run}' cannot be read: {error}. It was written by a newer "
                "version, or the file is damaged",
                run_id=run, seq=seq,
            ) from error  # fmt: skip


def _in_one_moment(work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    """Read in a transaction: what another process deletes or writes in between does not mix in."""
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        connection.execute("ROLLBACK")


def status_after(events: Iterable[Event]) -> tuple[str, bool]:
    """Status of a run with these events, and whether it ended degraded."""
    status, degraded = "running", False
    for event in events:
        if isinstance(event, RunFinished):
            status, degraded = event.status, event.degraded
        elif isinstance(event, RunReopened):
            status, degraded = "running", False
    return status, degraded


def _note(job: Append, seq: int, event: Event) -> None:
    """Put what an event changes beside the history into its append."""
    if isinstance(event, AttemptSucceeded):
        if event.keep:
            outputs = msgspec.json.encode(event.outputs)
            job.kept = (
                *job.kept,
                *(
                    (key, outputs, job.run_id, event.at_ms, event.at_ms + ttl_ms if ttl_ms else 0)
                    for key, ttl_ms in event.keep.items()
                ),
            )
    elif isinstance(event, RunFinished | RunReopened):
        job.status, job.degraded = status_after((event,))
    elif signal := getattr(event, "signal", ""):
        job.signals = (*job.signals, (signal, seq))


def _encode(run: str, event: Event) -> bytes:
    try:
        return encode_event(event)
    except Exception as error:  # msgspec raises several kinds for values that are not JSON
        raise _not_json(run, error) from error


def _not_json(run: str, error: Exception) -> UsageError:
    return UsageError(f"run '{run}': a value is not JSON: {error}. Nothing was written", run_id=run)


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _locate(connection: sqlite3.Connection, run: str, where: str) -> tuple[int, int, bytes]:
    """Number of a run, and the sequence number and hash with which it was sealed."""
    row: tuple[int, int, bytes] | None = connection.execute(
        "SELECT id, last_seq, last_hash FROM runs WHERE run_id = ?", (run,)
    ).fetchone()
    if row is None:
        raise _not_found(connection, run, where)
    return row


def _not_found(connection: sqlite3.Connection, run: str, where: str) -> RunNotFoundError:
    known = [row[0] for row in connection.execute("SELECT run_id FROM runs ORDER BY id DESC LIMIT 500")]
    nearest = difflib.get_close_matches(run, known, 1, 0.6)
    hint = f"Did you mean '{nearest[0]}'?" if nearest else ("It has no runs" if not known else "See `noa runs`")
    return RunNotFoundError(f"run '{run}' is not in {where}. {hint}", run_id=run, nearest=nearest)


def _record(row: tuple[Any, ...]) -> RunRecord:
    return RunRecord(*(*row[:10], bool(row[10])))
