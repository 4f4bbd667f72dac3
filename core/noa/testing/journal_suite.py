"""What every journal must do, as tests. Subclass `JournalSuite` and override `journal_factory`.

```python
class TestMyJournal(JournalSuite):
    @pytest.fixture
    def journal_factory(self, tmp_path):
        return lambda: MyJournal(f"my://{tmp_path}/journal")
```

Needs pytest and pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from noa.errors import (
    ConflictError,
    JournalError,
    OwnershipError,
    RunNotFoundError,
    UsageError,
)
from noa.model.events import (
    AttemptSucceeded,
    CancelRequested,
    Event,
    RunFinished,
    TaskScheduled,
)
from noa.model.ids import RunId, TaskPath
from noa.plugin.interfaces import Journal, Lease
from noa.testing.journal_events import (
    ALSO_ELSEWHERE,
    ELSEWHERE,
    LEASE_MS,
    begin,
    created,
    noted,
    signalled,
)
from noa.testing.journal_recovery_suite import RecoverySuite

__all__ = ["ALSO_ELSEWHERE", "ELSEWHERE", "JournalSuite", "begin", "created", "noted", "signalled"]


class JournalSuite(RecoverySuite):
    """The tests."""

    @pytest.fixture
    def journal_factory(self) -> Callable[[], Journal]:
        """Override: each call gives a journal, not opened, over the same store."""
        raise NotImplementedError

    @pytest.fixture
    async def journal(self, journal_factory: Callable[[], Journal]) -> AsyncIterator[Journal]:
        """An open journal, empty."""
        journal = journal_factory()
        await journal.open()
        yield journal
        await journal.close()

    async def test_what_was_appended_is_read_in_order(self, journal: Journal) -> None:
        lease = await begin(journal)
        first = [noted(number) for number in range(2, 5)]
        assert await journal.append(lease, first, expected_seq=1) == 4
        assert await journal.append(lease, [noted(5)], expected_seq=4) == 5
        history = await journal.read(RunId("run-1"))
        assert history == [(1, created("run-1")), *enumerate([*first, noted(5)], 2)]

    async def test_every_value_of_an_event_survives(self, journal: Journal) -> None:
        lease = await begin(journal)
        inputs: dict[str, Any] = {
            "text": 'ünï "quoted" \n\x00 🦉',
            "n": [1, -2.5, 1e300, True, None],
            "deep": {"a": {}},
        }
        events: list[Event] = [
            TaskScheduled(at_ms=5, task=TaskPath("s[é]/t"), attempt=3, inputs=inputs, agent="a", action="b"),
            AttemptSucceeded(at_ms=6, task=TaskPath("s[é]/t"), attempt=3, outputs={"x": "y" * 300_000}),
        ]
        await journal.append(lease, events, expected_seq=1)
        assert [event for _, event in await journal.read(RunId("run-1"), after=1)] == events

    async def test_read_takes_a_part(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.append(lease, [noted(number) for number in range(2, 11)], expected_seq=1)
        assert [seq for seq, _ in await journal.read(RunId("run-1"), after=3, limit=4)] == [4, 5, 6, 7]
        assert [seq for seq, _ in await journal.read(RunId("run-1"), after=8)] == [9, 10]
        assert await journal.read(RunId("run-1"), after=10) == []
        assert len(await journal.read(RunId("run-1"), limit=1)) == 1

    async def test_histories_of_runs_are_kept_apart(self, journal: Journal) -> None:
        leases = [await begin(journal, f"run-{number}") for number in range(3)]
        for number, lease in enumerate(leases):
            await journal.append(lease, [noted(number)] * (number + 1), expected_seq=1)
        for number in range(3):
            events = [event for _, event in await journal.read(RunId(f"run-{number}"), after=1)]
            assert events == [noted(number)] * (number + 1)

    async def test_append_from_another_place_in_the_history_is_refused(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.append(lease, [noted(2)], expected_seq=1)
        for wrong in (0, 1, 3):
            with pytest.raises(ConflictError):
                await journal.append(lease, [noted(9)], expected_seq=wrong)
        assert await journal.append(lease, [noted(3)], expected_seq=2) == 3
        assert [seq for seq, _ in await journal.read(RunId("run-1"))] == [1, 2, 3]

    async def test_appends_may_follow_one_another_without_waiting(self, journal: Journal) -> None:
        lease = await begin(journal)
        appends = [journal.append(lease, [noted(seq + 1)], expected_seq=seq) for seq in range(1, 40)]
        assert await asyncio.gather(*appends) == list(range(2, 41))
        assert await journal.verify(RunId("run-1")) is None

    async def test_a_refused_append_does_not_lose_those_of_other_runs(self, journal: Journal) -> None:
        leases = [await begin(journal, f"run-{number:02}") for number in range(40)]
        fenced = await journal.acquire(RunId("run-07"), owner=ELSEWHERE, lease_ms=LEASE_MS)
        appends = [
            journal.append(lease, [noted(2), noted(3)], expected_seq=2 if number == 11 else 1)
            for number, lease in enumerate(leases)
        ]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, ConflictError)]
        assert refused == [7, 11]
        assert all(outcome == 3 for number, outcome in enumerate(outcomes) if number not in refused)
        assert await journal.append(fenced, [noted(4)], expected_seq=1) == 2
        for number in range(40):
            seqs = [seq for seq, _ in await journal.read(RunId(f"run-{number:02}"))]
            assert seqs == {7: [1, 2], 11: [1]}.get(number, [1, 2, 3])
            assert await journal.verify(RunId(f"run-{number:02}")) is None

    async def test_many_runs_at_once(self, journal: Journal) -> None:
        async def one(run: str) -> None:
            lease = await begin(journal, run)
            seq = 1
            for number in range(20):
                seq = await journal.append(lease, [noted(number)] * (1 + number % 3), expected_seq=seq)
            await journal.append(lease, [RunFinished(at_ms=9, status="succeeded")], expected_seq=seq)

        names = [f"run-{number:03}" for number in range(50)]
        await asyncio.gather(*map(one, names))
        records = await journal.runs(limit=100, status="succeeded")
        assert sorted(record.run_id for record in records) == names
        assert {record.last_seq for record in records} == {41}
        assert [await journal.verify(RunId(name)) for name in names] == [None] * 50

    async def test_append_of_nothing_or_too_much_is_refused(self, journal: Journal) -> None:
        lease = await begin(journal)
        for events in ([], [noted(1)] * 10_001):
            with pytest.raises(UsageError, match=r"1 to 10000"):
                await journal.append(lease, events, expected_seq=1)
        assert await journal.append(lease, [noted(1)] * 10_000, expected_seq=1) == 10_001

    async def test_a_value_that_is_not_json_is_refused_and_changes_nothing(self, journal: Journal) -> None:
        lease = await begin(journal)
        with pytest.raises(UsageError, match="not JSON"):
            await journal.append(
                lease, [RunFinished(at_ms=1, status="failed", outputs={"x": object()})], expected_seq=1
            )
        assert await journal.append(lease, [noted(2)], expected_seq=1) == 2

    async def test_create_twice_is_refused(self, journal: Journal) -> None:
        await begin(journal)
        with pytest.raises(ConflictError, match="exists already"):
            await begin(journal)
        assert len(await journal.read(RunId("run-1"))) == 1

    async def test_create_needs_a_run_created(self, journal: Journal) -> None:
        with pytest.raises(UsageError, match="RunCreated"):
            await journal.create(RunId("r"), noted(1), owner=ELSEWHERE, lease_ms=1, texts={})
        with pytest.raises(RunNotFoundError):
            await journal.run(RunId("r"))

    async def test_definition_texts_are_kept(self, journal: Journal) -> None:
        await begin(journal, "run-1")
        await begin(journal, "run-2")
        assert await journal.text("00") == "text"
        with pytest.raises(JournalError, match="11"):
            await journal.text("11")

    async def test_a_run_is_listed_as_its_events_say(self, journal: Journal) -> None:
        lease = await journal.create(
            RunId("run-1"), created("run-1", parent="run-0:s/t:1"), owner=ELSEWHERE, lease_ms=LEASE_MS, texts={}
        )
        record = await journal.run(RunId("run-1"))
        assert (record.status, record.last_seq, record.created_at_ms, record.updated_at_ms) == (
            "running",
            1,
            1_000,
            1_000,
        )
        assert (record.owner, record.fence, record.lease_until_ms) == (ELSEWHERE, 1, lease.until_ms)
        assert (record.workflow, record.parent, record.degraded) == ("pipeline", "run-0:s/t:1", False)
        finished = RunFinished(at_ms=7_000, status="succeeded", degraded=True)
        await journal.append(lease, [noted(2), finished], expected_seq=1)
        record = await journal.run(RunId("run-1"))
        assert (record.status, record.degraded, record.updated_at_ms, record.last_seq) == ("succeeded", True, 7_000, 3)

    async def test_runs_are_listed_newest_first_and_filtered(self, journal: Journal) -> None:
        for number in range(5):
            run = f"run-{number}"
            workflow = "odd" if number % 2 else "even"
            lease = await journal.create(
                RunId(run), created(run, workflow=workflow, at_ms=number), owner="", lease_ms=0, texts={}
            )
            if number < 2:
                await journal.append(lease, [RunFinished(at_ms=9, status="failed")], expected_seq=1)
        assert [r.run_id for r in await journal.runs()] == ["run-4", "run-3", "run-2", "run-1", "run-0"]
        assert [r.run_id for r in await journal.runs(limit=2)] == ["run-4", "run-3"]
        assert [r.run_id for r in await journal.runs(workflow="odd")] == ["run-3", "run-1"]
        assert [r.run_id for r in await journal.runs(status="failed", workflow="even")] == ["run-0"]
        assert await journal.runs(status="cancelled") == []

    async def test_the_beginning_of_an_id_names_a_run(self, journal: Journal) -> None:
        for run in ("20260101-a", "20260101-b", "20260202-c", "20260202-cc"):
            await begin(journal, run)
        assert (await journal.run(RunId("20260101-a"))).run_id == "20260101-a"
        assert (await journal.run(RunId("20260202-c"))).run_id == "20260202-c"
        with pytest.raises(UsageError, match="20260101-a, 20260101-b") as caught:
            await journal.run(RunId("20260101"))
        assert caught.value.matches == ["20260101-a", "20260101-b"]

    async def test_an_unknown_run_is_named_with_the_nearest(self, journal: Journal) -> None:
        with pytest.raises(RunNotFoundError, match="no runs"):
            await journal.run(RunId("run-1"))
        await begin(journal, "run-1")
        with pytest.raises(RunNotFoundError, match="Did you mean 'run-1'"):
            await journal.run(RunId("rum-1"))
        unknown, lease = RunId("zzz"), Lease(RunId("zzz"), ELSEWHERE, 1, 0)
        for call in (
            journal.run(unknown), journal.run(RunId("")), journal.read(unknown), journal.verify(unknown),
            journal.acquire(unknown, owner=ELSEWHERE, lease_ms=1), journal.append(lease, [noted(1)], expected_seq=0),
            journal.put_signal(signalled("zzz", "s")),
        ):  # fmt: skip
            with pytest.raises(RunNotFoundError):
                await call

    async def test_a_live_lease_is_not_taken_over(self, journal: Journal) -> None:
        lease = await begin(journal)
        with pytest.raises(OwnershipError, match=ELSEWHERE) as caught:
            await journal.acquire(RunId("run-1"), owner=ALSO_ELSEWHERE, lease_ms=LEASE_MS)
        assert caught.value.owner == ELSEWHERE
        assert await journal.append(lease, [noted(2)], expected_seq=1) == 2

    async def test_an_expired_lease_is_taken_over_and_fenced(self, journal: Journal) -> None:
        old = await begin(journal, lease_ms=0)
        new = await journal.acquire(RunId("run-1"), owner=ALSO_ELSEWHERE, lease_ms=LEASE_MS)
        assert new.fence > old.fence
        with pytest.raises(ConflictError, match="taken over"):
            await journal.append(old, [noted(2)], expected_seq=1)
        assert await journal.append(new, [noted(2)], expected_seq=1) == 2
        assert await journal.renew([old], lease_ms=LEASE_MS) == ["run-1"]
        assert (await journal.run(RunId("run-1"))).owner == ALSO_ELSEWHERE

    async def test_a_released_run_is_free_at_once(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.release(lease)
        assert (await journal.run(RunId("run-1"))).owner == ""
        new = await journal.acquire(RunId("run-1"), owner=ALSO_ELSEWHERE, lease_ms=LEASE_MS)
        await journal.release(lease)  # of the old owner: nothing happens
        assert (await journal.run(RunId("run-1"))).owner == ALSO_ELSEWHERE
        assert await journal.append(new, [noted(2)], expected_seq=1) == 2

    async def test_an_owner_may_acquire_its_own_run_again(self, journal: Journal) -> None:
        old = await begin(journal)
        new = await journal.acquire(RunId("run-1"), owner=ELSEWHERE, lease_ms=LEASE_MS)
        with pytest.raises(ConflictError):
            await journal.append(old, [noted(2)], expected_seq=1)
        assert await journal.append(new, [noted(2)], expected_seq=1) == 2

    async def test_renewing_keeps_a_lease_alive(self, journal: Journal) -> None:
        leases = [await begin(journal, f"run-{number}", lease_ms=0) for number in range(3)]
        assert await journal.renew([], lease_ms=1) == []
        assert await journal.renew(leases, lease_ms=LEASE_MS) == []
        for lease in leases:
            with pytest.raises(OwnershipError):
                await journal.acquire(lease.run_id, owner=ALSO_ELSEWHERE, lease_ms=LEASE_MS)
        gone = Lease(RunId("run-9"), ELSEWHERE, 1, 0)
        assert await journal.renew([*leases, gone], lease_ms=LEASE_MS) == ["run-9"]

    async def test_signals_wait_until_they_are_applied(self, journal: Journal) -> None:
        for run in ("run-1", "run-2"):
            await begin(journal, run)
        assert await journal.put_signal(signalled("run-1", "late", at_ms=2))
        assert await journal.put_signal(signalled("run-1", "early", at_ms=1))
        assert await journal.put_signal(signalled("run-2", "other"))
        assert not await journal.put_signal(signalled("run-1", "late", at_ms=9))
        found = await journal.signals([RunId("run-1")])
        assert found == [signalled("run-1", "early", at_ms=1), signalled("run-1", "late", at_ms=2)]
        assert len(await journal.signals([RunId("run-1"), RunId("run-2")])) == 3
        await journal.mark_signal("early", 4)
        assert [signal.signal_id for signal in await journal.signals([RunId("run-1")])] == ["late"]
        assert await journal.signals([]) == []

    async def test_an_event_that_names_a_signal_marks_it_in_the_same_commit(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.put_signal(signalled("run-1", "s-1"))
        await journal.append(lease, [noted(2), CancelRequested(at_ms=1, signal="s-1")], expected_seq=1)
        assert await journal.signals([RunId("run-1")]) == []

    async def test_changed_tells_of_signals_once(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.changed()
        await journal.append(lease, [noted(2)], expected_seq=1)
        assert not await journal.changed()
        await journal.put_signal(signalled("run-1", "s-1"))
        assert await journal.changed()
        assert not await journal.changed()

    async def test_a_second_journal_of_the_store_sees_everything(self, journal_factory: Callable[[], Journal]) -> None:
        first = journal_factory()
        await first.open()
        lease = await begin(first)
        await first.append(lease, [noted(2)], expected_seq=1)
        await first.put_signal(signalled("run-1", "s-1"))
        await first.close()
        await first.close()
        second = journal_factory()
        await second.open()
        assert [event for _, event in await second.read(RunId("run-1"))] == [created("run-1"), noted(2)]
        assert await second.append(lease, [noted(3)], expected_seq=2) == 3
        assert await second.text("00") == "text"
        assert len(await second.signals([RunId("run-1")])) == 1
        assert await second.verify(RunId("run-1")) is None
        await second.close()

    async def test_a_closed_journal_says_so(self, journal_factory: Callable[[], Journal]) -> None:
        journal = journal_factory()
        await journal.open()
        lease = await begin(journal)
        await journal.close()
        for call in (journal.append(lease, [noted(2)], expected_seq=1), journal.runs(), journal.changed()):
            with pytest.raises(JournalError, match="not open"):
                await call

    async def test_what_was_submitted_before_close_is_written(self, journal_factory: Callable[[], Journal]) -> None:
        journal = journal_factory()
        await journal.open()
        lease = await begin(journal)
        append = asyncio.ensure_future(journal.append(lease, [noted(2)], expected_seq=1))
        await asyncio.sleep(0)
        await journal.close()
        assert await append == 2

    async def test_cancelling_an_append_does_not_break_the_journal(self, journal: Journal) -> None:
        lease = await begin(journal)
        append = asyncio.ensure_future(journal.append(lease, [noted(2)], expected_seq=1))
        await asyncio.sleep(0)
        append.cancel()
        await asyncio.gather(append, return_exceptions=True)
        await journal.changed()  # whatever was on its way has arrived
        seq = (await journal.run(RunId("run-1"))).last_seq
        assert await journal.append(lease, [noted(3)], expected_seq=seq) == seq + 1
