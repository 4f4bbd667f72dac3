"""What goes with old runs and what stays, on real stores, also beside an engine."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from noa.errors import JournalError
from noa.model.events import AttemptSucceeded, Event
from noa.model.ids import RunId, TaskPath
from noa.model.payload import KEPT_VALUE, Artifact
from noa.plugin import AgentDeclaration, Lease, hookimpl
from noa.plugin.registry import Registry
from noa.runtime import Runtime
from noa.sdk import Agent, Context, action
from noa.storage import FileArtifactStore, ObservationStore, SqliteJournal, new_owner
from noa.storage.collection import Collected, Collector
from noa.storage.retention import Rule
from noa.storage.sweep import iter_artifact_files, iter_temporary_files, remove_artifacts
from noa.storage.upkeep import Upkeep
from noa.testing.journal_events import ELSEWHERE, created, end, finished, kept, noted

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Home:
    """A state folder with a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = SqliteJournal(folder / "noa.db")
        self.artifacts = FileArtifactStore(folder / "artifacts")

    async def collect(self, *, keep: int | None = None, older_ms: int | None = None, **options: Any) -> Collected:
        collector = Collector(
            self.journal, artifacts=self.folder / "artifacts", outputs=self.folder / "output",
            observations=self.folder / "observations.db", now_ms=now_ms,
        )  # fmt: skip
        return await collector.collect(Rule(older_ms, keep), **options)

    async def run(self, run: str, *events: Event, parent: str = "", at_ms: int = 1_000) -> Lease:
        """A run with these events that nobody drives."""
        first = created(run, parent=parent, at_ms=at_ms)
        lease = await self.journal.create(RunId(run), first, owner=ELSEWHERE, lease_ms=0, texts={"00": "text"})
        if events:
            await self.journal.append(lease, events, expected_seq=1)
        await self.journal.release(lease)
        return lease

    async def listed(self) -> list[str]:
        return [record.run_id for record in await self.journal.runs(limit=None)]

    def path(self, artifact: Artifact) -> Path:
        return self.folder / "artifacts" / artifact.sha256[:2] / artifact.sha256

    def old_artifact(self, data: bytes, content_type: str = "text/plain", hours: int = 3) -> Artifact:
        """An artifact that was written hours ago."""
        artifact = self.artifacts.put(data, content_type)
        at_s = time.time() - hours * 3600
        os.utime(self.path(artifact), (at_s, at_s))
        return artifact


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    made = Home(tmp_path / "home")
    await made.journal.open()
    yield made
    await made.journal.close()


def gave(*artifacts: Artifact, at_ms: int = 1_000, keep: dict[str, int] | None = None) -> Event:
    """A task that gave artifacts."""
    outputs = {f"file{index}": artifact.to_json() for index, artifact in enumerate(artifacts)}
    return AttemptSucceeded(at_ms=at_ms, task=TaskPath("s/t"), attempt=1, outputs=outputs, keep=keep or {})


async def test_runs_go_by_age_by_number_and_by_both(home: Home) -> None:
    now = now_ms()
    for hours in (50, 40, 30, 20):
        await home.run(f"run-{hours}", finished(at_ms=now - hours * HOUR_MS))
    by_age = await home.collect(older_ms=45 * HOUR_MS, dry_run=True)
    assert [record.run_id for record in by_age.runs] == ["run-50"]
    by_number = await home.collect(keep=1, dry_run=True)
    assert [record.run_id for record in by_number.runs] == ["run-30", "run-40", "run-50"]
    assert len(await home.listed()) == 4
    both = await home.collect(keep=2, older_ms=25 * HOUR_MS)
    assert [record.run_id for record in both.runs] == ["run-40", "run-50"]
    assert both.journal_bytes > 0
    assert await home.listed() == ["run-20", "run-30"]


async def test_sub_workflows_go_with_their_run_and_stay_with_it(home: Home) -> None:
    await home.run("old", finished())
    await home.run("old-child", finished(), parent="old:s/t:1")
    await home.run("old-grandchild", finished(), parent="old-child:s[a:b]/t:1")
    await home.run("waits", finished())
    await home.run("goes-on", noted(2), parent="waits:s/t:1")
    await home.run("orphan", finished(), parent="gone:s/t:1")
    await home.run("new", finished())
    await home.run("new-child", finished(), parent="new:s/t:1")
    found = await home.collect(keep=1)
    assert {record.run_id for record in found.runs} == {"old", "old-child", "old-grandchild", "orphan"}
    assert await home.listed() == ["new-child", "new", "goes-on", "waits"]


async def test_artifacts_go_when_nothing_refers_to_them(home: Home) -> None:
    names = ("alone", "shared", "cached", "over", "unnamed", "inner", "waiting", "young")
    made = {name: home.old_artifact(name.encode()) for name in names}
    outer = home.old_artifact(json.dumps({"part": made["inner"].to_json()}).encode(), KEPT_VALUE)
    os.utime(home.path(made["young"]))
    temporary = [home.folder / "artifacts" / name for name in (".tmp-old", ".tmp-new")]
    for path in temporary:
        path.write_bytes(b"x" * 10)
    os.utime(temporary[0], (1, 1))
    cached = gave(made["cached"], at_ms=now_ms(), keep={"k": 0})
    over = gave(made["over"], at_ms=1, keep={"over": 5})
    await home.run("old", gave(made["alone"], made["shared"], made["young"]), cached, over, finished())
    await home.run("new", gave(made["shared"], outer), gave(made["waiting"]), finished())
    shown = await home.collect(keep=1, dry_run=True)
    assert all(home.path(artifact).exists() for artifact in made.values())
    done = await home.collect(keep=1)
    assert shown == done
    gone = {name for name, artifact in made.items() if not home.path(artifact).exists()}
    assert gone == {"alone", "over", "unnamed"}
    assert (done.artifacts.count, done.artifacts.size_bytes) == (3, len("aloneoverunnamed"))
    assert (done.temporary_files.count, done.temporary_files.size_bytes) == (1, 10)
    assert [path.exists() for path in temporary] == [False, True]
    assert home.path(outer).exists()
    assert await home.journal.recall("k") is not None
    assert home.artifacts.get(made["shared"]) == b"shared"


async def test_artifacts_that_a_run_may_still_name_stay(home: Home) -> None:
    """An attempt that began hours ago wrote it, and names it only when it ends."""
    before, during = home.old_artifact(b"before", hours=9), home.old_artifact(b"during", hours=3)
    lease = await home.run("long", at_ms=now_ms() - 5 * HOUR_MS)
    await home.collect(keep=0)
    assert not home.path(before).exists()
    assert home.path(during).exists()
    lease = await home.journal.acquire(lease.run_id, owner=ELSEWHERE, lease_ms=0)
    await home.journal.append(lease, [gave(during), finished()], expected_seq=1)
    await home.collect(keep=1)
    assert home.path(during).exists()
    await home.collect(keep=0)
    assert not home.path(during).exists()


async def test_artifacts_stay_while_an_engine_drives_a_run(home: Home) -> None:
    """An attempt that makes what is there already names the old file, of which nothing tells but its result."""
    artifact = home.old_artifact(b"made again")
    live = created("live", at_ms=now_ms())
    lease = await home.journal.create(RunId("live"), live, owner=new_owner(), lease_ms=0, texts={"00": "text"})
    found = await home.collect(keep=0)
    assert found.artifacts.count == 0
    assert found.notes == ["1 artifacts stay, for a run goes on and may name them. Repeat when nothing runs"]
    await home.journal.append(lease, [gave(artifact), finished()], expected_seq=1)
    await home.journal.release(lease)
    assert (await home.collect(keep=1)).notes == []
    assert home.path(artifact).exists()
    assert (await home.collect(keep=0)).artifacts.count == 1


async def test_artifacts_come_back_where_a_run_begins_while_they_are_removed(home: Home) -> None:
    made = [home.old_artifact(b"%d" % number) for number in range(100)]
    files = list(iter_artifact_files(home.folder / "artifacts", before_ms=now_ms()))
    answers = iter([False, False, False, True])  # the second batch is put aside already
    left = {file.path for file in files} - {file.path for file in remove_artifacts(files, lambda: next(answers))}
    assert 0 < len(left) < 100
    assert {home.path(artifact) for artifact in made if home.path(artifact).exists()} == left
    assert not list(iter_temporary_files(home.folder / "artifacts", before_ms=now_ms()))


async def test_a_run_that_began_and_ended_meanwhile_counts(home: Home) -> None:
    with Upkeep(home.journal.path) as upkeep:
        is_busy = upkeep.watch()
        assert not is_busy()
        await end(home.journal, "quick")
        assert upkeep.driven() == []
        assert is_busy()


async def test_an_artifact_that_is_put_again_while_files_are_removed_stays(home: Home) -> None:
    artifact = home.old_artifact(b"again")
    files = list(iter_artifact_files(home.folder / "artifacts", before_ms=now_ms()))
    assert home.artifacts.put(b"again", "text/plain") == artifact
    assert remove_artifacts(files, lambda: False) == []
    assert home.artifacts.get(artifact) == b"again"


async def test_definitions_go_with_the_last_run_that_pinned_them(home: Home) -> None:
    await end(home.journal, "old", sha256="11")
    await end(home.journal, "new", sha256="22")
    await home.collect(keep=1)
    assert await home.journal.text("22") == "text 22"
    with pytest.raises(JournalError):
        await home.journal.text("11")


async def test_observations_of_a_removed_run_go_with_it(home: Home) -> None:
    from noa.model.execution import Log

    store = ObservationStore(home.folder / "observations.db")
    for run in ("old", "new"):
        await end(home.journal, run)
        store.add(run, "s/t", 1, Log(level="info", message="hello"), 1)
    store.flush()
    await home.collect(keep=1)
    assert store.runs() == ["new"]
    assert [len(store.read(run)) for run in ("old", "new")] == [0, 1]
    store.close()


async def test_kept_outputs_stay_until_their_time_is_over(home: Home) -> None:
    now = now_ms()
    await home.run(
        "run",
        kept("over", {"x": 1}, at_ms=now - 3 * HOUR_MS, ttl_ms=HOUR_MS),
        kept("just over", {"x": 1}, at_ms=now - HOUR_MS, ttl_ms=HOUR_MS - 1),
        kept("fresh", {"x": 1}, at_ms=now, ttl_ms=HOUR_MS),
        kept("for ever", {"x": 1}, at_ms=1),
        finished(),
    )
    assert (await home.collect(keep=1)).kept_outputs.count == 1
    assert await home.journal.recall("fresh") is not None
    assert await home.journal.recall("for ever") is not None
    assert (await home.collect(keep=1)).kept_outputs.count == 0


async def test_vacuum_gives_room_back_when_nothing_runs(home: Home) -> None:
    large = AttemptSucceeded(at_ms=1, task=TaskPath("s/t"), attempt=1, outputs={"x": "y" * 1_000_000})
    await home.run("old", *[large] * 5, finished())
    live = created("live")
    held = await home.journal.create(RunId("live"), live, owner=new_owner(), lease_ms=60_000, texts={"00": "text"})
    refused = await home.collect(keep=0, vacuum=True)
    assert refused.journal_bytes > 5_000_000
    assert not refused.vacuumed
    assert "run live goes on" in refused.notes[0]
    await home.journal.release(held)
    assert home.journal.path.stat().st_size > 4_000_000
    assert (await home.collect(keep=0, vacuum=True)).vacuumed
    assert home.journal.path.stat().st_size < 500_000


class Filer(Agent):
    name = "filer"
    version = "1"

    @action(idempotent=True)
    async def file(self, ctx: Context, number: int) -> dict[str, Any]:
        """Make artifacts: one that each run has, and one of its own."""
        create = ctx.artifacts.create
        return {"same": create(b"same").to_json(), "own": create(b"own %d" % number).to_json()}


class FilerPlugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name="filer", factory=Filer)]


FLOW = {
    "workflow": {
        "name": "flow",
        "version": "1",
        "inputs": {"number": {"type": "integer"}},
        "stages": [
            {
                "name": "s",
                "type": "sequential",
                "tasks": [{"agent": "filer", "action": "file", "inputs": {"number": "${{ inputs.number }}"}}],
            }
        ],
    }
}


async def test_collecting_beside_an_engine_loses_nothing_of_runs_that_are_left(home: Home) -> None:
    registry = Registry.load()
    registry.register(FilerPlugin(), "filer")
    async with Runtime(home=home.folder, registry=registry) as runtime:
        done = asyncio.Event()

        async def work() -> set[str]:
            results = [await runtime.run(FLOW, {"number": number}) for number in range(60)]
            done.set()
            return {result.status for result in results}

        async def collect() -> int:
            removed = 0
            while not done.is_set():
                removed += len((await home.collect(keep=3)).runs)
            return removed

        statuses, removed = await asyncio.gather(work(), collect())
    assert statuses == {"succeeded"}
    await home.collect(keep=3)
    records = await home.journal.runs(limit=None)
    assert len(records) == 3
    assert removed >= 50
    for record in records:
        assert await home.journal.verify(record.run_id) is None
        (gave,) = [e for _, e in await home.journal.read(record.run_id) if isinstance(e, AttemptSucceeded)]
        for value in gave.outputs.values():
            artifact = Artifact.from_json(value)
            assert artifact is not None
            assert home.artifacts.get(artifact)
