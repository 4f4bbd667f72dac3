"""Any order of calls on each journal, against the simplest thing that could be right.

`NOA_LONG_TESTS=1` takes much longer ways.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from noa.errors import ConflictError, NoaError, OwnershipError, RunKeyError, RunNotFoundError
from noa.model.events import AttemptSucceeded, CancelRequested, Event, RunFinished, RunReopened, SignalRefused
from noa.model.ids import RunId
from noa.plugin import Journal, Lease
from noa.storage import SqliteJournal
from noa.testing.journal_events import ALSO_ELSEWHERE, ELSEWHERE, created, finished, kept, noted, signalled
from noa.testing.memory_journal import MemoryJournal

T = TypeVar("T")
RUNS = st.sampled_from(["run-a", "run-b", "run-c"])
KEYS = st.sampled_from(["", "", "k-1", "k-2"])
SIGNALS = st.sampled_from(["s-1", "s-2"])
CACHES = st.sampled_from(["cache-1", "cache-2"])
WHICH = st.integers(0, 1)
OVER = {"succeeded", "failed"}
# What an append holds: a letter for each event.
WORDS = st.one_of(
    st.sampled_from(["n" * 70, "n" * 33, "n", "kf", "sf", "r", "k", "s", "c"]),
    st.text("nkfrsc", min_size=1, max_size=8),
)


@dataclass
class Expected:
    """A run."""

    key: str
    events: list[Event]
    until_ms: int
    fence: int = 1
    owner: str = ELSEWHERE
    status: str = "running"
    degraded: bool = False

    def add(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RunFinished):
            self.status, self.degraded = event.status, event.degraded
        if isinstance(event, RunReopened):
            self.status, self.degraded = "running", False


@dataclass
class Store:
    """Everything that a journal keeps."""

    runs: dict[str, Expected] = field(default_factory=dict)
    signals: dict[str, tuple[str, int]] = field(default_factory=dict)  # waiting or not: the run, the event (0: waiting)
    kept: dict[str, tuple[AttemptSucceeded, str]] = field(default_factory=dict)

    def add(self, run: str, events: Sequence[Event]) -> None:
        for event in events:
            self.runs[run].add(event)
            if isinstance(event, AttemptSucceeded):
                self.kept.update((key, (event, run)) for key in event.keep)
            elif isinstance(event, CancelRequested | SignalRefused) and event.signal in self.signals:
                self.signals[event.signal] = (self.signals[event.signal][0], len(self.runs[run].events))

    def is_free(self, run: str, now_ms: int, owner: str = "") -> bool:
        expected = self.runs[run]
        return expected.owner in {"", owner} or now_ms >= expected.until_ms


class JournalMachine(RuleBasedStateMachine):
    """Two journals over one store, as two engines have them, with a clock of their own."""

    leases = Bundle("leases")
    crashes: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now_ms = 10_000
        self.turn = 0
        self.model = Store()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "0" / "journal.db"
        self.journals = [self.opened(), self.opened()]

    def made(self) -> Journal:
        raise NotImplementedError

    def opened(self) -> Journal:
        journal = self.made()
        self.wait(journal.open())
        return journal

    def wait(self, call: Awaitable[T]) -> T:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        for journal in self.journals:
            self.wait(journal.close())
        self.wait(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    def spelled(self, word: str, number: int, cache: str, signal: str) -> list[Event]:
        made: dict[str, Event] = {
            "n": noted(number),
            "k": kept(cache, {"n": number}, at_ms=self.now_ms, ttl_ms=number % 3 * 60),
            "f": finished("failed" if number % 2 else "succeeded", degraded=number % 3 == 0),
            "r": RunReopened(at_ms=self.now_ms),
            "s": SignalRefused(at_ms=self.now_ms, signal=signal, kind="answer", why="late"),
            "c": CancelRequested(at_ms=self.now_ms, signal=signal),
        }
        return [made[letter] for letter in word]

    @rule(target=leases, run=RUNS, which=WHICH, key=KEYS, past=st.integers(0, 40))
    def create(self, run: str, which: int, key: str, past: int) -> object:
        first, more = created(run, key=key), [noted(number) for number in range(past)]
        taken = {expected.key: name for name, expected in self.model.runs.items() if expected.key}
        try:
            lease = self.wait(
                self.journals[which].create(
                    RunId(run), first, owner=ELSEWHERE, lease_ms=100, texts={"00": "text"}, past=more
                )
            )
        except ConflictError as error:
            refused = error
        else:
            assert run not in self.model.runs
            assert key not in taken
            self.model.runs[run] = Expected(key, [first, *more], until_ms=self.now_ms + 100)
            return lease
        if isinstance(refused, RunKeyError):
            assert refused.run_id == taken[key]
        else:
            assert run in self.model.runs
        return multiple()  # no lease

    @rule(
        lease=leases, which=WHICH, word=WORDS, number=st.integers(0, 9), cache=CACHES, signal=SIGNALS,
        wrong=st.sampled_from([0, 0, 0, 0, -1, 1]),
    )  # fmt: skip
    def append(self, lease: Lease, which: int, word: str, number: int, cache: str, signal: str, wrong: int) -> None:
        expected = self.model.runs.get(lease.run_id)
        seq = (len(expected.events) if expected else 1) + wrong
        events = self.spelled(word, number, cache, signal)
        try:
            assert self.wait(self.journals[which].append(lease, events, expected_seq=seq)) == seq + len(events)
        except ConflictError:
            assert expected is not None
            assert wrong or lease.fence != expected.fence
        except RunNotFoundError:
            assert expected is None
        else:
            assert expected is not None
            assert not wrong
            assert lease.fence == expected.fence
            self.model.add(lease.run_id, events)

    @rule(run=RUNS, which=WHICH, words=st.lists(WORDS, min_size=1, max_size=3), number=st.integers(0, 9), cache=CACHES)
    def drive(self, run: str, which: int, words: list[str], number: int, cache: str) -> None:
        """What an engine does: take the run (made where it is not there), append, perhaps give it up."""
        journal = self.journals[which]
        if run not in self.model.runs:
            self.create(run=run, which=which, key="", past=0)
        if not self.model.is_free(run, self.now_ms, ELSEWHERE):
            return
        lease = self.wait(journal.acquire(RunId(run), owner=ELSEWHERE, lease_ms=100))
        expected = self.model.runs[run]
        expected.fence, expected.owner, expected.until_ms = lease.fence, ELSEWHERE, lease.until_ms
        for word in words:
            self.append(lease=lease, which=which, word=word, number=number, cache=cache, signal="s-1", wrong=0)
        assert lease.fence == expected.fence
        if number % 2:
            self.release(lease=lease, which=which)

    @rule(among=st.lists(leases, min_size=2, max_size=4), which=WHICH, cache=CACHES)
    def append_at_once(self, among: list[Lease], which: int, cache: str) -> None:
        chosen = {lease.run_id: lease for lease in among}
        at_ms = self.now_ms
        events = {run: [noted(7), kept(f"{cache} of {run}", {"run": run}, at_ms=at_ms)] for run in chosen}
        appends = [
            self.journals[which].append(lease, events[run], expected_seq=self.length(run))
            for run, lease in chosen.items()
        ]

        async def together() -> list[int | BaseException]:
            return await asyncio.gather(*appends, return_exceptions=True)

        for (run, lease), outcome in zip(chosen.items(), self.wait(together()), strict=True):
            expected = self.model.runs.get(run)
            if expected is None:
                assert isinstance(outcome, RunNotFoundError)
            elif lease.fence == expected.fence:
                self.model.add(run, events[run])
                assert outcome == len(expected.events)
            else:
                assert isinstance(outcome, ConflictError)

    def length(self, run: str) -> int:
        return len(self.model.runs[run].events) if run in self.model.runs else 1

    @rule(target=leases, lease=leases, which=WHICH, owner=st.sampled_from([ELSEWHERE, ALSO_ELSEWHERE]))
    def acquire(self, lease: Lease, which: int, owner: str) -> object:
        run = lease.run_id
        try:
            taken = self.wait(self.journals[which].acquire(run, owner=owner, lease_ms=100))
        except RunNotFoundError:
            assert run not in self.model.runs
            return multiple()
        except OwnershipError:
            assert not self.model.is_free(run, self.now_ms, owner)
            return multiple()
        assert self.model.is_free(run, self.now_ms, owner)
        expected = self.model.runs[run]
        expected.fence += 1
        expected.owner, expected.until_ms = owner, self.now_ms + 100
        assert (taken.fence, taken.until_ms) == (expected.fence, expected.until_ms)
        return taken

    @rule(lease=leases, which=WHICH)
    def renew(self, lease: Lease, which: int) -> None:
        expected = self.model.runs.get(lease.run_id)
        lost = self.wait(self.journals[which].renew([lease], lease_ms=100))
        assert lost == ([] if expected and lease.fence == expected.fence else [lease.run_id])
        if expected and not lost:
            expected.until_ms = self.now_ms + 100

    @rule(lease=leases, which=WHICH)
    def release(self, lease: Lease, which: int) -> None:
        self.wait(self.journals[which].release(lease))
        expected = self.model.runs.get(lease.run_id)
        if expected and lease.fence == expected.fence:
            expected.owner, expected.until_ms = "", 0

    @rule(run=RUNS, which=WHICH, signal=SIGNALS)
    def put_signal(self, run: str, which: int, signal: str) -> None:
        try:
            added = self.wait(self.journals[which].put_signal(signalled(run, signal)))
        except RunNotFoundError:
            assert run not in self.model.runs
        else:
            assert added == (signal not in self.model.signals)
            self.model.signals.setdefault(signal, (run, 0))

    @rule(signal=SIGNALS, which=WHICH)
    def mark_signal(self, signal: str, which: int) -> None:
        self.wait(self.journals[which].mark_signal(signal, 1))
        if signal in self.model.signals:
            self.model.signals[signal] = (self.model.signals[signal][0], 1)

    @rule(cache=CACHES, which=WHICH, age_ms=st.sampled_from([0, 60, 1_000, 1_000]))
    def recall(self, cache: str, which: int, age_ms: int) -> None:
        found = self.wait(self.journals[which].recall(cache, not_before_ms=self.now_ms - age_ms))
        event, run = self.model.kept.get(cache, (None, ""))
        if event is not None:
            ttl_ms = event.keep[cache]
            if event.at_ms < self.now_ms - age_ms or (ttl_ms and event.at_ms + ttl_ms <= self.now_ms):
                event = None
        if event is None:
            assert found is None
        else:
            assert found is not None
            assert (found.outputs, found.run_id, found.made_at_ms) == (event.outputs, run, event.at_ms)

    @rule(runs=st.lists(RUNS, unique=True, min_size=2), which=WHICH)
    def delete(self, runs: list[str], which: int) -> None:
        gone = [
            run
            for run in runs
            if run in self.model.runs and self.model.runs[run].status in OVER and self.model.is_free(run, self.now_ms)
        ]
        assert self.wait(self.journals[which].delete([RunId(run) for run in runs])) == len(gone)
        for run in gone:
            del self.model.runs[run]
        for signal in [signal for signal, (run, _) in self.model.signals.items() if run in gone]:
            del self.model.signals[signal]
        try:
            assert self.wait(self.journals[which].text("00")) == "text"
            assert self.model.runs
        except NoaError:
            assert not self.model.runs

    @rule(passed_ms=st.sampled_from([1, 59, 60, 101]))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(which=WHICH)
    def reopen(self, which: int) -> None:
        self.wait(self.journals[which].close())
        self.journals[which] = self.opened()

    @precondition(lambda self: self.crashes)
    @rule()
    def crash(self) -> None:
        """Go on with the files as they are now, which is what a killed process leaves."""
        old = self.path.parent
        new = old.with_name(str(int(old.name) + 1))
        new.mkdir()
        for file in old.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copyfile(file, new / file.name)
        crashed, self.path = self.journals, new / self.path.name
        self.journals = [self.opened(), self.opened()]
        for journal in crashed:
            self.wait(journal.close())

    @invariant()
    def each_journal_in_its_turn_tells_the_same_story(self) -> None:
        waiting = [signal for signal, (_, seq) in self.model.signals.items() if not seq]
        abandoned = [
            run
            for run, expected in self.model.runs.items()
            if expected.status not in OVER and self.model.is_free(run, self.now_ms)
        ]
        self.turn += 1
        for journal in self.journals[self.turn % 2 :][:1]:
            records = self.wait(journal.runs(limit=None))
            assert [record.run_id for record in records] == list(reversed(self.model.runs))
            for record in records:
                expected = self.model.runs[record.run_id]
                assert (record.last_seq, record.fence, record.owner, record.lease_until_ms) == (
                    len(expected.events), expected.fence, expected.owner, expected.until_ms,
                )  # fmt: skip
                assert (record.status, record.degraded) == (expected.status, expected.degraded)
                assert record.updated_at_ms == expected.events[-1].at_ms
                assert self.wait(journal.read(record.run_id)) == list(enumerate(expected.events, 1))
                assert self.wait(journal.verify(record.run_id)) is None
            found = self.wait(journal.signals([RunId(run) for run in self.model.runs]))
            assert sorted(signal.signal_id for signal in found) == sorted(waiting)
            assert [record.run_id for record in self.wait(journal.abandoned())] == abandoned


class SqliteMachine(JournalMachine):
    crashes = True

    def made(self) -> Journal:
        return SqliteJournal(self.path, now_ms=lambda: self.now_ms)


class MemoryMachine(JournalMachine):
    """Here the two are one, for no other process could have the second."""

    def __init__(self) -> None:
        self.only: MemoryJournal | None = None
        super().__init__()

    def made(self) -> Journal:
        self.only = self.only or MemoryJournal(now_ms=lambda: self.now_ms)
        return self.only


LONG = bool(os.environ.get("NOA_LONG_TESTS"))
pytestmark = pytest.mark.timeout(7200 if LONG else 300)
SETTINGS = settings(
    max_examples=400 if LONG else 40,
    stateful_step_count=80 if LONG else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSqliteJournalModel = SqliteMachine.TestCase
TestSqliteJournalModel.settings = SETTINGS
TestMemoryJournalModel = MemoryMachine.TestCase
TestMemoryJournalModel.settings = SETTINGS
