"""The part of the journal suite for recovery: keys, forks, kept outputs, reopened and abandoned runs, deletion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from noa.errors import ConflictError, JournalError, RunKeyError, RunNotFoundError, UsageError
from noa.model.events import RunReopened, SignalApplied, SignalRefused
from noa.model.ids import RunId, TaskPath
from noa.plugin.interfaces import Journal
from noa.storage.ownership import new_owner
from noa.testing.journal_events import (
    ALSO_ELSEWHERE,
    ELSEWHERE,
    LEASE_MS,
    begin,
    created,
    end,
    finished,
    kept,
    noted,
    signalled,
)

__all__ = ["RecoverySuite"]


class RecoverySuite:
    """Tests over the fixtures `journal` and `journal_factory` of `noa.testing.journal_suite.JournalSuite`."""

    async def test_a_second_run_of_a_key_is_refused_with_the_first(self, journal: Journal) -> None:
        one, other = created("run-1", key="monday"), created("run-2", key="monday")
        await journal.create(RunId("run-1"), one, owner=ELSEWHERE, lease_ms=LEASE_MS, texts={"00": "text"})
        with pytest.raises(RunKeyError, match="belongs to run run-1") as caught:
            await journal.create(RunId("run-2"), other, owner=ELSEWHERE, lease_ms=LEASE_MS, texts={"11": "other"})
        assert caught.value.run_id == "run-1"
        with pytest.raises(RunNotFoundError):
            await journal.run(RunId("run-2"))
        with pytest.raises(JournalError, match="11"):
            await journal.text("11")
        tuesday = created("run-2", key="tuesday")
        await journal.create(RunId("run-2"), tuesday, owner=ELSEWHERE, lease_ms=LEASE_MS, texts={})
        assert len(await journal.runs()) == 2

    async def test_of_runs_begun_at_once_under_a_key_one_is_made(self, journal: Journal) -> None:
        outcomes = await asyncio.gather(
            *(
                journal.create(RunId(f"run-{n}"), created(f"run-{n}", key="k"), owner="", lease_ms=0, texts={})
                for n in range(20)
            ),
            return_exceptions=True,
        )
        made = [record.run_id for record in await journal.runs()]
        assert len(made) == 1
        refused = [outcome for outcome in outcomes if isinstance(outcome, RunKeyError)]
        assert [error.run_id for error in refused] == made * 19

    async def test_runs_without_a_key_do_not_share_one(self, journal: Journal) -> None:
        for run in ("run-1", "run-2"):
            await begin(journal, run)
        assert len(await journal.runs()) == 2

    async def test_a_run_that_shares_a_past_has_all_of_it(self, journal: Journal) -> None:
        past = [noted(number) for number in range(2, 102)]
        lease = await journal.create(
            RunId("fork"), created("fork"), owner=ELSEWHERE, lease_ms=LEASE_MS, texts={}, past=past
        )
        record = await journal.run(RunId("fork"))
        assert (record.last_seq, record.status, record.updated_at_ms) == (101, "running", past[-1].at_ms)
        assert await journal.append(lease, [noted(102)], expected_seq=101) == 102
        assert await journal.read(RunId("fork")) == list(enumerate([created("fork"), *past, noted(102)], 1))
        assert await journal.verify(RunId("fork")) is None

    async def test_a_past_changes_nothing_of_the_run_it_comes_from(self, journal: Journal) -> None:
        await begin(journal)
        await journal.put_signal(signalled("run-1", "s-1"))
        past = [SignalApplied(at_ms=1, signal="s-1", kind="answer"), kept("k", {"x": 1})]
        await journal.create(RunId("fork"), created("fork"), owner="", lease_ms=0, texts={}, past=past)
        assert len(await journal.signals([RunId("run-1")])) == 1
        assert await journal.recall("k") is None
        assert len(await journal.read(RunId("run-1"))) == 1

    async def test_a_past_that_is_over_makes_a_run_that_is_over(self, journal: Journal) -> None:
        past = [finished("failed"), RunReopened(at_ms=9_001), finished("succeeded", degraded=True)]
        for length, status, degraded in ((1, "failed", False), (2, "running", False), (3, "succeeded", True)):
            run = RunId(f"fork-{length}")
            await journal.create(run, created(run), owner="", lease_ms=0, texts={}, past=past[:length])
            record = await journal.run(run)
            assert (record.status, record.degraded, record.last_seq) == (status, degraded, length + 1)

    async def test_a_reopened_run_goes_on_and_ends_again(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.append(lease, [noted(2), finished("failed", degraded=True)], expected_seq=1)
        await journal.append(lease, [RunReopened(at_ms=9_001, actor="ada")], expected_seq=3)
        record = await journal.run(RunId("run-1"))
        assert (record.status, record.degraded, record.last_seq) == ("running", False, 4)
        assert await journal.runs(status="failed") == []
        assert await journal.append(lease, [noted(5), finished("rolled_back")], expected_seq=4) == 6
        assert [record.run_id for record in await journal.runs(status="rolled_back")] == ["run-1"]
        assert await journal.verify(RunId("run-1")) is None

    async def test_reopened_and_over_in_one_append_is_over(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.append(
            lease, [finished("failed"), RunReopened(at_ms=9_001), finished("cancelled")], expected_seq=1
        )
        assert (await journal.run(RunId("run-1"))).status == "cancelled"
        await journal.append(lease, [RunReopened(at_ms=1), finished(), RunReopened(at_ms=2)], expected_seq=4)
        assert (await journal.run(RunId("run-1"))).status == "running"

    async def test_signals_that_were_applied_or_refused_wait_no_longer(self, journal: Journal) -> None:
        lease = await begin(journal)
        for signal in ("s-1", "s-2", "s-3"):
            await journal.put_signal(signalled("run-1", signal))
        applied = SignalApplied(at_ms=1, signal="s-1", kind="answer", task=TaskPath("s/t"), body={"choice": "skip"})
        refused = SignalRefused(at_ms=1, signal="s-2", kind="answer", why="no task waits")
        await journal.append(lease, [applied, noted(3), refused], expected_seq=1)
        assert [signal.signal_id for signal in await journal.signals([RunId("run-1")])] == ["s-3"]

    async def test_the_outputs_kept_last_are_recalled(self, journal: Journal) -> None:
        leases = [await begin(journal, f"run-{number}") for number in range(2)]
        assert await journal.recall("k") is None
        await journal.append(leases[0], [noted(2), kept("k", {"é": [1, None]}, at_ms=5_000)], expected_seq=1)
        await journal.append(leases[1], [kept("other", {"x": 2}, at_ms=6_000)], expected_seq=1)
        found = await journal.recall("k")
        assert found is not None
        assert (found.outputs, found.run_id, found.made_at_ms) == ({"é": [1, None]}, "run-0", 5_000)
        await journal.append(leases[1], [kept("k", {"x": 3}, at_ms=7_000), kept("k", {}, at_ms=7_001)], expected_seq=2)
        found = await journal.recall("k")
        assert found is not None
        assert (found.outputs, found.run_id, found.made_at_ms) == ({}, "run-1", 7_001)

    async def test_an_append_that_is_refused_keeps_nothing(self, journal: Journal) -> None:
        lease = await begin(journal)
        with pytest.raises(ConflictError):
            await journal.append(lease, [kept("k", {"x": 1})], expected_seq=7)
        with pytest.raises(UsageError, match="not JSON"):
            await journal.append(lease, [kept("k", {"x": 1}), kept("k", {"x": object()})], expected_seq=1)
        assert await journal.recall("k") is None
        assert await journal.append(lease, [noted(2)], expected_seq=1) == 2

    async def test_kept_outputs_that_are_too_old_are_not_recalled(self, journal: Journal) -> None:
        lease, now = await begin(journal), time.time_ns() // 1_000_000
        await journal.append(
            lease,
            [
                kept("over", {"x": 1}, at_ms=now - 10_000, ttl_ms=9_000),
                kept("fresh", {"x": 2}, at_ms=now - 10_000, ttl_ms=3_600_000),
                kept("for ever", {"x": 3}, at_ms=1),
            ],
            expected_seq=1,
        )
        assert await journal.recall("over") is None
        assert await journal.recall("fresh") is not None
        assert await journal.recall("fresh", not_before_ms=now - 10_000) is not None
        assert await journal.recall("fresh", not_before_ms=now - 9_999) is None
        assert await journal.recall("for ever") is not None
        assert await journal.recall("for ever", not_before_ms=2) is None

    async def test_runs_that_nobody_drives_are_abandoned(self, journal: Journal) -> None:
        await begin(journal, "driven")
        await begin(journal, "expired", lease_ms=0)
        lease = await begin(journal, "given up")
        await journal.release(lease)
        here = new_owner()
        await begin(journal, "ours", owner=here)
        host, machine, pid, _, name = here.split(":")
        await begin(journal, "dead", owner=f"{host}:{machine}:{pid}:1:{name}")  # of that pid, but begun at another time
        await end(journal, "over")
        child = created("child", parent="expired:s/t:1")
        await journal.create(RunId("child"), child, owner=ELSEWHERE, lease_ms=0, texts={})
        assert [record.run_id for record in await journal.abandoned()] == ["expired", "given up", "dead"]
        await journal.acquire(RunId("expired"), owner=ALSO_ELSEWHERE, lease_ms=LEASE_MS)
        assert [record.run_id for record in await journal.abandoned()] == ["given up", "dead"]

    async def test_all_runs_are_listed_without_a_limit(self, journal: Journal) -> None:
        for number in range(60):
            await begin(journal, f"run-{number:02}")
        assert len(await journal.runs()) == 50
        records = await journal.runs(limit=None)
        assert [record.run_id for record in records] == [f"run-{number:02}" for number in range(59, -1, -1)]

    async def test_a_deleted_run_leaves_nothing(self, journal: Journal) -> None:
        old = await end(journal, "run-1", sha256="11", key="k")
        await begin(journal, "run-2")
        await journal.put_signal(signalled("run-1", "s-1"))
        assert await journal.delete([RunId("run-1")]) == 1
        for call in (
            journal.run(RunId("run-1")),
            journal.read(RunId("run-1")),
            journal.append(old, [noted(3)], expected_seq=2),
        ):
            with pytest.raises(RunNotFoundError):
                await call
        assert await journal.signals([RunId("run-1")]) == []
        with pytest.raises(JournalError, match="11"):
            await journal.text("11")
        assert await journal.text("00") == "text"
        assert [record.run_id for record in await journal.runs()] == ["run-2"]
        assert await journal.verify(RunId("run-2")) is None

    async def test_what_a_deleted_run_had_can_be_used_again(self, journal: Journal) -> None:
        await end(journal, "run-1", key="k")
        await journal.put_signal(signalled("run-1", "s-1"))
        await journal.delete([RunId("run-1")])
        lease = await journal.create(
            RunId("run-1"), created("run-1", key="k"), owner=ELSEWHERE, lease_ms=LEASE_MS, texts={"00": "text"}
        )
        assert await journal.put_signal(signalled("run-1", "s-1"))
        assert await journal.append(lease, [noted(2)], expected_seq=1) == 2
        assert await journal.read(RunId("run-1")) == [(1, created("run-1", key="k")), (2, noted(2))]
        assert await journal.verify(RunId("run-1")) is None

    async def test_a_definition_stays_while_a_run_needs_it(self, journal: Journal) -> None:
        for run in ("run-1", "run-2"):
            await end(journal, run, sha256="11")
        await journal.delete([RunId("run-1")])
        assert await journal.text("11") == "text 11"
        await journal.delete([RunId("run-2")])
        with pytest.raises(JournalError):
            await journal.text("11")

    async def test_runs_that_go_on_or_are_held_are_not_deleted(self, journal: Journal) -> None:
        await begin(journal, "going on", lease_ms=0)
        held = await begin(journal, "held")
        await journal.append(held, [finished("failed")], expected_seq=1)
        reopened = await end(journal, "reopened")
        lease = await journal.acquire(reopened.run_id, owner=ELSEWHERE, lease_ms=0)
        await journal.append(lease, [RunReopened(at_ms=1)], expected_seq=2)
        runs = [RunId(run) for run in ("going on", "held", "reopened", "unknown")]
        assert await journal.delete(runs) == 0
        assert await journal.delete([]) == 0
        assert len(await journal.runs()) == 3
        assert await journal.text("00") == "text"
        await journal.release(held)
        assert await journal.delete(runs) == 1
        assert {record.run_id for record in await journal.runs()} == {"going on", "reopened"}

    async def test_many_runs_are_deleted_while_others_go_on(self, journal: Journal) -> None:
        old = [await end(journal, f"old-{number:03}") for number in range(100)]
        lease = await begin(journal)

        async def go_on() -> None:
            for seq in range(1, 60):
                await journal.append(lease, [noted(seq + 1)], expected_seq=seq)

        deleted, _ = await asyncio.gather(journal.delete([lease.run_id for lease in old]), go_on())
        assert deleted == 100
        assert [record.run_id for record in await journal.runs(limit=None)] == ["run-1"]
        assert await journal.read(RunId("run-1"), after=1) == [(seq, noted(seq)) for seq in range(2, 61)]
        assert await journal.verify(RunId("run-1")) is None

    async def test_kept_outputs_outlive_their_run(self, journal: Journal) -> None:
        lease = await begin(journal)
        await journal.append(lease, [kept("k", {"x": 1}), finished()], expected_seq=1)
        await journal.release(lease)
        assert await journal.delete([RunId("run-1")]) == 1
        found = await journal.recall("k")
        assert found is not None
        assert (found.outputs, found.run_id) == ({"x": 1}, "run-1")

    async def test_a_second_journal_of_the_store_sees_keys_and_kept_outputs(
        self, journal_factory: Callable[[], Journal]
    ) -> None:
        first = journal_factory()
        await first.open()
        await end(first, "run-1", key="k")
        lease = await begin(first, "run-2")
        await first.append(lease, [kept("answer", {"x": 42})], expected_seq=1)
        await first.close()
        second = journal_factory()
        await second.open()
        with pytest.raises(RunKeyError):
            await second.create(RunId("run-3"), created("run-3", key="k"), owner="", lease_ms=0, texts={})
        found = await second.recall("answer")
        assert found is not None
        assert found.outputs == {"x": 42}
        assert await second.delete([RunId("run-1")]) == 1
        await second.close()

    async def test_what_was_learned_is_replaced_by_who_read_it_last(self, journal: Journal) -> None:
        if type(journal).learn is Journal.learn:
            pytest.skip("this journal keeps nothing that is learned")
        assert await journal.learned("flow") == (b"", 0)
        assert await journal.learn("flow", b'{"runs":1}', revision=0)
        assert not await journal.learn("flow", b"other", revision=0)
        body, revision = await journal.learned("flow")
        assert body == b'{"runs":1}'
        assert await journal.learn("flow", b"two", revision=revision)
        assert not await journal.learn("flow", b"late", revision=revision)
        assert (await journal.learned("flow"))[0] == b"two"
        assert await journal.learned("another") == (b"", 0)

    async def test_what_is_forgotten_does_not_come_back_from_who_read_it_before(self, journal: Journal) -> None:
        if type(journal).learn is Journal.learn:
            pytest.skip("this journal keeps nothing that is learned")
        await journal.learn("flow", b"one", revision=0)
        _, revision = await journal.learned("flow")
        assert await journal.learn("flow", b"", revision=revision)
        assert not await journal.learn("flow", b"two", revision=revision)
        body, revision = await journal.learned("flow")
        assert body == b""
        assert await journal.learn("flow", b"anew", revision=revision)

    async def test_what_was_learned_outlives_runs_and_is_seen_by_a_second_journal(
        self, journal_factory: Callable[[], Journal]
    ) -> None:
        first = journal_factory()
        await first.open()
        if type(first).learn is Journal.learn:
            await first.close()
            pytest.skip("this journal keeps nothing that is learned")
        await end(first, "run-1")
        await first.learn("pipeline", b"known", revision=0)
        await first.delete([RunId("run-1")])
        await first.close()
        second = journal_factory()
        await second.open()
        assert (await second.learned("pipeline"))[0] == b"known"
        await second.close()
