"""The side store of observations: bounded, counted, never in the way."""

import threading
from pathlib import Path

import pytest

from noa.errors import JournalError
from noa.model.execution import Log, OutputChunk, Progress, Stage, Waiting
from noa.storage import ObservationRecord, ObservationStore

KINDS = [
    Progress(fraction=0.5, message="hälf", done=1, total=2, unit="files"),
    Log(level="warning", message="hm", at_ms=3),
    OutputChunk(text="some text"),
    Stage(name="running"),
    Waiting(kind="resource", what="gpu"),
]


def log(number: int) -> Log:
    return Log(level="info", message=str(number))


def numbers(records: list[ObservationRecord]) -> list[int]:
    return [int(record.observation.message) for record in records if isinstance(record.observation, Log)]


def test_everything_that_was_added_is_read_in_order(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "deep" / "observations.db")
    for number, kind in enumerate(KINDS):
        store.add("run-1", "s/t", 1, kind, number)
    store.add("run-2", "s/t", 1, KINDS[0], 9)
    records = store.read("run-1")
    assert [record.observation for record in records] == KINDS
    assert [record.at_ms for record in records] == list(range(5))
    assert records[0] == ObservationRecord(records[0].id, "run-1", "s/t", 1, 0, KINDS[0])
    assert store.dropped("run-1") == 0
    store.close()


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "o.db")
    for number in range(10):
        store.add("run-1", f"s/t{number % 2}", 1, log(number), 0)
    first = store.read("run-1", limit=4)
    assert numbers(first) == [0, 1, 2, 3]
    assert numbers(store.read("run-1", after_id=first[-1].id)) == [4, 5, 6, 7, 8, 9]
    assert numbers(store.read("run-1", after_id=first[-1].id, task="s/t1")) == [5, 7, 9]
    store.close()


def test_close_writes_what_waits_and_a_new_store_reads_it(tmp_path: Path) -> None:
    store = ObservationStore(f"sqlite://{tmp_path}/o.db")
    for number in range(1_234):
        store.add("run-1", "s/t", 1, log(number), 0)
    store.close()
    store.close()
    store.add("run-1", "s/t", 1, log(0), 0)
    assert store.dropped("run-1") == 1
    with pytest.raises(JournalError, match="closed"):
        store.read("run-1")
    again = ObservationStore(tmp_path / "o.db")
    assert numbers(again.read("run-1", limit=10_000)) == list(range(1_234))
    again.close()


def test_a_run_keeps_its_newest_and_counts_the_rest(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "o.db", max_rows=100)
    for number in range(1_050):
        store.add("run-1", "s/t", 1, log(number), 0)
        if number % 250 == 0:
            store.flush()
    store.add("run-2", "s/t", 1, log(7), 0)
    assert numbers(store.read("run-1")) == list(range(950, 1_050))
    assert numbers(store.read("run-2")) == [7]
    assert (store.dropped("run-1"), store.dropped("run-2"), store.dropped("run-3")) == (950, 0, 0)
    store.close()
    again = ObservationStore(tmp_path / "o.db", max_rows=100)
    assert again.dropped("run-1") == 950
    again.close()


def test_a_full_queue_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "o.db", max_queued=50)
    with store._disk:  # the disk does not answer
        for number in range(1_000):
            store.add("run-1", "s/t", 1, log(number), 0)
    kept = numbers(store.read("run-1"))
    assert kept[-50:] == list(range(950, 1_000))
    assert len(kept) + store.dropped("run-1") == 1_000
    store.close()


def test_a_failing_disk_is_counted_and_hurts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ObservationStore(tmp_path / "file" / "o.db")
    for number in range(700):
        store.add("run-1", "s/t", 1, log(number), 0)
    store.flush()
    assert store.dropped("run-1") == 700
    with pytest.raises(JournalError):
        store.read("run-1")
    store.close()


def test_a_disk_that_works_again_is_used_and_the_count_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ObservationStore(tmp_path / "file" / "o.db")
    store.add("run-1", "s/t", 1, log(1), 0)
    store.flush()
    (tmp_path / "file").unlink()
    store.add("run-1", "s/t", 1, log(2), 0)
    assert numbers(store.read("run-1")) == [2]
    assert store.dropped("run-1") == 1
    store.close()


def test_threads_may_add_at_once(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "o.db")

    def add_many(run: str) -> None:
        for number in range(1_000):
            store.add(run, "s/t", 1, log(number), 0)

    threads = [threading.Thread(target=add_many, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert numbers(store.read(f"run-{number}", limit=2_000)) == list(range(1_000))
    store.close()


def test_large_pieces_of_output_are_bounded_in_memory_and_on_disk(tmp_path: Path) -> None:
    store = ObservationStore(tmp_path / "seen.db", max_queued_bytes=1_000_000, max_bytes=2_000_000)
    for number in range(200):
        store.add("r", "s/t", 1, OutputChunk(f"{number:04}" + "x" * 100_000), number)
        assert store._queued_bytes <= 1_000_000
        if number % 5 == 0:
            store.flush()
    found = [entry.observation.text[:4] for entry in store.read("r")]
    assert found[-1] == "0199", "the newest are kept"
    assert found == sorted(found)
    assert 1_000_000 < len(found) * 100_000 < 2_000_000
    assert store.dropped("r") == 200 - len(found)
    store.close()
    again = ObservationStore(tmp_path / "seen.db", max_bytes=1_000_000)
    again.add("r", "s/t", 1, OutputChunk("last"), 201)
    assert [entry.observation.text for entry in again.read("r")][-1] == "last"
    assert len(again.read("r")) <= 10
    again.close()
