"""A journal in memory: for tests, and for runs that nobody needs to resume."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from noa.errors import ConflictError, JournalError, OwnershipError, RunKeyError, RunNotFoundError, UsageError
from noa.model.events import AttemptSucceeded, Event, RunCreated, RunFinished, RunReopened, decode_event, encode_event
from noa.model.ids import RunId
from noa.plugin.interfaces import Journal, Lease, Recollection, RunRecord, SignalRecord
from noa.storage.migrations import OVER
from noa.storage.ownership import is_held
from noa.storage.sqlite import MAX_EVENTS, status_after
from noa.storage.writer import chain_hash

__all__ = ["MemoryJournal"]


@dataclass(slots=True)
class _History:
    record: RunRecord
    key: str
    definitions: Mapping[str, str]
    bodies: list[bytes] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def add(self, body: bytes) -> None:
        self.bodies.append(body)
        self.hashes.append(chain_hash(self.hashes[-1] if self.hashes else b"", body))


class MemoryJournal(Journal):
    """Keeps what `noa.storage.SqliteJournal` keeps, until the process ends. `close` keeps it too, for a new `open`.

    Args:
        url: `memory://`; what follows is ignored. Each instance is a store of its own.
        now_ms: The clock of leases; epoch milliseconds.
    """

    def __init__(self, url: str = "memory://", *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000):
        if "://" in url and not url.startswith("memory://"):
            raise UsageError(f"'{url}': expected memory://", url=url)
        self._now_ms = now_ms
        self._runs: dict[str, _History] = {}
        self._texts: dict[str, str] = {}
        self._signals: dict[str, SignalRecord] = {}
        self._kept: dict[str, tuple[bytes, RunId, int, int]] = {}  # key -> outputs, run, made at, expires at (0: never)
        self._learned: dict[str, tuple[bytes, int]] = {}
        self._signalled = False
        self._open = False

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

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
        self._check_open()
        if not isinstance(created, RunCreated):
            raise UsageError(f"run '{run}': the first event must be a RunCreated, got {type(created).__name__}")
        bodies = [_encode(run, event) for event in (created, *past)]
        for known, other in self._runs.items():
            if created.key and other.key == created.key:
                raise RunKeyError(
                    f"the key '{created.key}' belongs to run {known} in memory; nothing was written. Look at that "
                    "run, or use another key",
                    run_id=known, key=created.key,
                )  # fmt: skip
        if run in self._runs:
            raise ConflictError(f"run '{run}' exists already in memory; nothing was written", run_id=run)
        until_ms = self._now_ms() + lease_ms
        at_ms = created.at_ms
        updated_ms = (past[-1] if past else created).at_ms
        status, degraded = status_after(past)
        record = RunRecord(
            run, created.workflow, status, at_ms, updated_ms, len(bodies), owner, 1, until_ms, created.parent, degraded
        )
        history = _History(record, created.key, dict(created.definitions))
        for body in bodies:
            history.add(body)
        self._runs[run] = history
        for sha256, text in texts.items():
            self._texts.setdefault(sha256, text)
        return Lease(run, owner, 1, until_ms)

    async def append(self, lease: Lease, events: Sequence[Event], *, expected_seq: int) -> int:
        self._check_open()
        run = lease.run_id
        if not 1 <= len(events) <= MAX_EVENTS:
            raise UsageError(f"run '{run}': an append takes 1 to {MAX_EVENTS} events, got {len(events)}", run_id=run)
        bodies = [_encode(run, event) for event in events]
        history = self._history(run)
        record = history.record
        if record.fence != lease.fence:
            raise ConflictError(
                f"run '{run}' was taken over by {record.owner or 'another engine'} (fence {record.fence}, ours is "
                f"{lease.fence}); nothing was written",
                run_id=run, fence=record.fence, owner=record.owner,
            )  # fmt: skip
        if record.last_seq != expected_seq:
            raise ConflictError(
                f"run '{run}' is at event {record.last_seq}, expected {expected_seq}; nothing was written. Read again",
                run_id=run, last_seq=record.last_seq, expected_seq=expected_seq,
            )  # fmt: skip
        for body in bodies:
            history.add(body)
        last_seq = expected_seq + len(events)
        record = replace(record, last_seq=last_seq, updated_at_ms=events[-1].at_ms)
        for seq, event in enumerate(events, expected_seq + 1):
            if isinstance(event, RunFinished | RunReopened):
                status, degraded = status_after((event,))
                record = replace(record, status=status, degraded=degraded)
            elif isinstance(event, AttemptSucceeded):
                self._keep(run, event)
            elif signal := getattr(event, "signal", ""):
                await self.mark_signal(signal, seq)
        history.record = record
        return last_seq

    async def read(self, run: RunId, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Event]]:
        self._check_open()
        start = max(after, 0)
        bodies = self._history(run).bodies[start : None if limit is None else start + limit]
        return [(seq, decode_event(body)) for seq, body in enumerate(bodies, start + 1)]

    async def text(self, sha256: str) -> str:
        self._check_open()
        if sha256 not in self._texts:
            raise JournalError(f"no definition with the SHA-256 {sha256}", sha256=sha256)
        return self._texts[sha256]

    async def run(self, run: RunId) -> RunRecord:
        self._check_open()
        if run in self._runs:
            return self._runs[run].record
        matches = sorted(known for known in self._runs if run and known.startswith(run))
        if not matches:
            raise self._not_found(run)
        if len(matches) > 1:
            raise UsageError(
                f"'{run}' is the beginning of several runs: {', '.join(matches[:10])}"
                f"{' …' if len(matches) > 10 else ''}. Give more of the id",
                run_id=run, matches=matches[:10],
            )  # fmt: skip
        return self._runs[matches[0]].record

    async def runs(
        self, *, status: str | None = None, workflow: str | None = None, limit: int | None = 50
    ) -> list[RunRecord]:
        self._check_open()
        records = (history.record for history in reversed(self._runs.values()))
        return [
            record for record in records if status in {None, record.status} and workflow in {None, record.workflow}
        ][:limit]

    async def acquire(self, run: RunId, *, owner: str, lease_ms: int) -> Lease:
        self._check_open()
        history = self._history(run)
        record, now_ms = history.record, self._now_ms()
        if record.owner != owner and is_held(record.owner, record.lease_until_ms, now_ms):
            raise OwnershipError(
                f"run '{run}' is owned by the engine {record.owner} for another "
                f"{(record.lease_until_ms - now_ms) / 1000:.1f} s at least. Use that one, end it, or wait",
                run_id=run, owner=record.owner, lease_until_ms=record.lease_until_ms,
            )  # fmt: skip
        lease = Lease(run, owner, record.fence + 1, now_ms + lease_ms)
        history.record = replace(record, owner=owner, fence=lease.fence, lease_until_ms=lease.until_ms)
        return lease

    async def renew(self, leases: Sequence[Lease], *, lease_ms: int) -> list[RunId]:
        self._check_open()
        lost = []
        for lease in leases:
            history = self._runs.get(lease.run_id)
            if history is None or history.record.fence != lease.fence:
                lost.append(lease.run_id)
            else:
                history.record = replace(history.record, lease_until_ms=self._now_ms() + lease_ms)
        return lost

    async def release(self, lease: Lease) -> None:
        self._check_open()
        history = self._runs.get(lease.run_id)
        if history is not None and history.record.fence == lease.fence:
            history.record = replace(history.record, owner="", lease_until_ms=0)

    async def abandoned(self) -> list[RunRecord]:
        self._check_open()
        records = [history.record for history in self._runs.values()]
        return [
            record for record in records if record.status not in OVER and not record.parent and self._is_free(record)
        ]

    async def recall(self, key: str, *, not_before_ms: int = 0) -> Recollection | None:
        self._check_open()
        if key not in self._kept:
            return None
        outputs, run, made_at_ms, expires_at_ms = self._kept[key]
        if made_at_ms < not_before_ms or 0 < expires_at_ms <= self._now_ms():
            return None
        return Recollection(msgspec.json.decode(outputs), run, made_at_ms)

    async def learned(self, workflow: str) -> tuple[bytes, int]:
        self._check_open()
        return self._learned.get(workflow, (b"", 0))

    async def learn(self, workflow: str, body: bytes, *, revision: int) -> bool:
        self._check_open()
        if self._learned.get(workflow, (b"", 0))[1] != revision:
            return False
        self._learned[workflow] = (body, revision + 1)
        return True

    async def delete(self, runs: Sequence[RunId]) -> int:
        self._check_open()
        deleted = 0
        for run in runs:
            history = self._runs.get(run)
            if history is not None and history.record.status in OVER and self._is_free(history.record):
                del self._runs[run]
                deleted += 1
        self._signals = {known: signal for known, signal in self._signals.items() if signal.run_id in self._runs}
        needed = {sha256 for history in self._runs.values() for sha256 in history.definitions.values()}
        if deleted:
            self._texts = {sha256: text for sha256, text in self._texts.items() if sha256 in needed}
        return deleted

    async def put_signal(self, signal: SignalRecord) -> bool:
        self._check_open()
        body = msgspec.json.decode(_encode_body(signal))
        self._history(signal.run_id)
        if signal.signal_id in self._signals:
            return False
        self._signals[signal.signal_id] = replace(signal, body=body)
        self._signalled = True
        return True

    async def signals(self, runs: Sequence[RunId]) -> list[SignalRecord]:
        self._check_open()
        wanted = set(runs)
        found = [s for s in self._signals.values() if s.run_id in wanted and not s.applied_seq]
        return sorted(found, key=lambda s: s.created_at_ms)

    async def mark_signal(self, signal_id: str, seq: int) -> None:
        self._check_open()
        if signal_id in self._signals:
            self._signals[signal_id] = replace(self._signals[signal_id], applied_seq=seq)

    async def changed(self) -> bool:
        self._check_open()
        signalled, self._signalled = self._signalled, False
        return signalled

    async def verify(self, run: RunId) -> int | None:
        self._check_open()
        history, previous = self._history(run), b""
        for seq, (body, found) in enumerate(zip(history.bodies, history.hashes, strict=True), 1):
            previous = chain_hash(previous, body)
            if previous != found:
                return seq
        return None

    def _keep(self, run: RunId, event: AttemptSucceeded) -> None:
        for key, ttl_ms in event.keep.items():
            expires_at_ms = event.at_ms + ttl_ms if ttl_ms else 0
            self._kept[key] = (msgspec.json.encode(event.outputs), run, event.at_ms, expires_at_ms)

    def _is_free(self, record: RunRecord) -> bool:
        return not is_held(record.owner, record.lease_until_ms, self._now_ms())

    def _check_open(self) -> None:
        if not self._open:
            raise JournalError("memory://: the journal is not open")

    def _history(self, run: str) -> _History:
        if run not in self._runs:
            raise self._not_found(run)
        return self._runs[run]

    def _not_found(self, run: str) -> RunNotFoundError:
        nearest = difflib.get_close_matches(run, list(self._runs), 1, 0.6)
        hint = f"Did you mean '{nearest[0]}'?" if nearest else ("See `noa runs`" if self._runs else "It has no runs")
        return RunNotFoundError(f"run '{run}' is not in memory. {hint}", run_id=run, nearest=nearest)


def _encode(run: str, event: Event) -> bytes:
    try:
        return encode_event(event)
    except Exception as error:  # msgspec raises several kinds for values that are not JSON
        raise UsageError(f"run '{run}': a value is not JSON: {error}. Nothing was written", run_id=run) from error


def _encode_body(signal: SignalRecord) -> bytes:
    try:
        return msgspec.json.encode(signal.body)
    except Exception as error:  # msgspec raises several kinds for values that are not JSON
        raise UsageError(f"signal '{signal.signal_id}': a value is not JSON: {error}", run_id=signal.run_id) from error
