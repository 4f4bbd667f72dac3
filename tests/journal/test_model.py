"""Any order of calls, against the simplest thing that could be right."""

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from noa.errors import ConflictError, OwnershipError
from noa.model.events import Event
from noa.model.ids import RunId
from noa.plugin import Lease
from noa.storage import SqliteJournal
from noa.testing.journal_suite import ALSO_ELSEWHERE, ELSEWHERE, begin, created, noted

T = TypeVar("T")
RUNS = st.sampled_from(["run-a", "run-b", "run-c"])


@dataclass
class Expected:
    events: list[Event] = field(default_factory=list)
    fence: int = 1
    owner: str = ELSEWHERE
    until_ms: int = 0


class JournalMachine(RuleBasedStateMachine):
    """Two journals over one file, as two engines have them, with a clock of their own."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.now_ms = 0
        self.model: dict[str, Expected] = {}
        self.journals = [self.opened(), self.opened()]

    def opened(self) -> SqliteJournal:
        journal = SqliteJournal(Path(self.folder.name) / "journal.db", now_ms=lambda: self.now_ms)
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

    @rule(target=leases, run=RUNS, which=st.integers(0, 1))
    def create(self, run: str, which: int) -> Lease:
        try:
            lease = self.wait(begin(self.journals[which], run, lease_ms=100))
            assert run not in self.model
        except ConflictError:
            return Lease(RunId(run), ELSEWHERE, 0, 0)
        self.model[run] = Expected([created(run)], until_ms=self.now_ms + 100)
        return lease

    @rule(lease=leases, which=st.integers(0, 1), count=st.integers(1, 70), wrong=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def append(self, lease: Lease, which: int, count: int, wrong: int) -> None:
        expected = self.model[lease.run_id]
        seq = len(expected.events) + wrong
        events = [noted(number) for number in range(count)]
        call = self.journals[which].append(lease, events, expected_seq=seq)
        try:
            assert self.wait(call) == seq + count
        except ConflictError:
            assert wrong or lease.fence != expected.fence
        else:
            assert not wrong
            assert lease.fence == expected.fence
            expected.events += events

    @rule(among=st.lists(leases, min_size=2, max_size=4), which=st.integers(0, 1))
    def append_at_once(self, among: list[Lease], which: int) -> None:
        chosen = {lease.run_id: lease for lease in among}
        appends = [
            self.journals[which].append(lease, [noted(7)], expected_seq=len(self.model[run].events))
            for run, lease in chosen.items()
        ]

        async def together() -> list[int | BaseException]:
            return await asyncio.gather(*appends, return_exceptions=True)

        for (run, lease), outcome in zip(chosen.items(), self.wait(together()), strict=True):
            expected = self.model[run]
            if lease.fence == expected.fence:
                expected.events.append(noted(7))
                assert outcome == len(expected.events)
            else:
                assert isinstance(outcome, ConflictError)

    @rule(target=leases, lease=leases, which=st.integers(0, 1), owner=st.sampled_from([ELSEWHERE, ALSO_ELSEWHERE]))
    def acquire(self, lease: Lease, which: int, owner: str) -> Lease:
        expected = self.model[lease.run_id]
        free = expected.owner in {"", owner} or self.now_ms >= expected.until_ms
        try:
            taken = self.wait(self.journals[which].acquire(lease.run_id, owner=owner, lease_ms=100))
        except OwnershipError:
            assert not free
            return lease
        assert free
        expected.fence += 1
        expected.owner, expected.until_ms = owner, self.now_ms + 100
        assert (taken.fence, taken.until_ms) == (expected.fence, expected.until_ms)
        return taken

    @rule(lease=leases, which=st.integers(0, 1))
    def renew(self, lease: Lease, which: int) -> None:
        expected = self.model[lease.run_id]
        lost = self.wait(self.journals[which].renew([lease], lease_ms=100))
        assert lost == ([] if lease.fence == expected.fence else [lease.run_id])
        if not lost:
            expected.until_ms = self.now_ms + 100

    @rule(lease=leases, which=st.integers(0, 1))
    def release(self, lease: Lease, which: int) -> None:
        self.wait(self.journals[which].release(lease))
        expected = self.model[lease.run_id]
        if lease.fence == expected.fence:
            expected.owner, expected.until_ms = "", 0

    @rule(passed_ms=st.integers(1, 150))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        self.wait(self.journals[which].close())
        self.journals[which] = self.opened()

    @invariant()
    def both_journals_tell_the_same_story(self) -> None:
        for journal in self.journals:
            for run, expected in self.model.items():
                assert self.wait(journal.read(RunId(run))) == list(enumerate(expected.events, 1))
                assert self.wait(journal.verify(RunId(run))) is None
                record = self.wait(journal.run(RunId(run)))
                assert (record.last_seq, record.fence, record.owner, record.lease_until_ms) == (
                    len(expected.events), expected.fence, expected.owner, expected.until_ms,
                )  # fmt: skip


TestJournalModel = JournalMachine.TestCase
TestJournalModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
