"""Checks of what a store keeps: runs, their histories, signals and artifacts. The work of `noa doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from noa.errors import ArtifactError
from noa.model.ids import RunId
from noa.model.payload import KEPT_VALUE, Artifact
from noa.plugin.interfaces import RunRecord
from noa.storage.artifacts import FileArtifactStore
from noa.storage.collection import Heap, unreferenced, young_since_ms
from noa.storage.finding import Finding
from noa.storage.migrations import OVER
from noa.storage.ownership import is_dead, is_held
from noa.storage.references import artifact_path, iter_references
from noa.storage.retention import parent_run
from noa.storage.sqlite import SqliteJournal
from noa.storage.sweep import GRACE_MS, iter_temporary_files, remove_artifacts, remove_files
from noa.storage.upkeep import Upkeep

__all__ = ["StoreChecks"]


class StoreChecks:
    """The checks of one store, all on the runs as they were when this was made.

    Args:
        journal: Open.
        upkeep: Of the same file.
        records: All runs.
        artifacts: Folder of the artifacts; None where others use it too.
        now_ms: Now; epoch milliseconds.
    """

    def __init__(
        self, journal: SqliteJournal, upkeep: Upkeep, records: Sequence[RunRecord], artifacts: Path | None, now_ms: int
    ) -> None:
        self._journal = journal
        self._upkeep = upkeep
        self._records = records
        self._artifacts = artifacts
        self._now_ms = now_ms
        self._unfinished = [record for record in records if record.status not in OVER]

    async def abandoned(self) -> Finding | None:
        """Runs that nobody drives."""
        found = await self._journal.abandoned()
        if not found:
            return None
        return Finding(
            "abandoned",
            f"{_count(len(found), 'run is', 'runs are')} not over, and no process drives them",
            "They stand still until one does. `noa resume RUN` takes one to its end, `noa resume --all` each of them; "
            "a process with --adopt takes over such runs by itself, and `noa cancel RUN` ends one",
            [f"{record.run_id} ({record.workflow}): {self._owner(record)}" for record in found],
        )

    async def histories(self, *, deep: bool) -> Finding | None:
        """Runs whose events were changed, or are missing; of those that are over only where it is `deep`."""
        items = []
        for record in self._records if deep else self._unfinished:
            wrong = await self._journal.verify(record.run_id)
            if wrong is not None:
                items.append(
                    f"{record.run_id} ({record.workflow}): event {wrong} is not what was written, or is missing"
                )
        if not items:
            return None
        return Finding(
            "history",
            f"the history of {_count(len(items), 'run', 'runs')} does not verify",
            "Somebody changed the store's file, or its disk is failing. The event named is the first that is wrong; "
            "this cannot be mended. Restore the store from a backup, or go on from what is sound by `noa fork RUN --at "
            "EVENT` with the event before",
            items,
        )

    def statuses(self) -> Finding | None:
        """Runs that are listed otherwise than their events say."""
        wrong = self._upkeep.wrong_statuses()
        if not wrong:
            return None
        return Finding(
            "status",
            f"{_count(len(wrong), 'run is', 'runs are')} listed otherwise than their events say",
            "The events are right: they are what the engine goes by",
            [f"{one.run_id}: listed as {one.listed}, its events say {one.right}" for one in wrong],
            "lists them as their events say",
            lambda: self._upkeep.mend_statuses([one.run_id for one in wrong], self._now_ms) == len(wrong),
        )

    def children(self) -> Finding | None:
        """Runs of sub-workflows that go on though their parent is over or gone."""
        statuses = {record.run_id: record.status for record in self._records}
        items = []
        for record in self._unfinished:
            parent = parent_run(record)
            if parent is None or self._is_held(record) or statuses.get(parent, "gone") not in OVER | {"gone"}:
                continue
            items.append(f"{record.run_id} ({record.workflow}): its parent {parent} is {statuses.get(parent, 'gone')}")
        if not items:
            return None
        return Finding(
            "children",
            f"{_count(len(items), 'run', 'runs')} of sub-workflows did not end with their parent",
            "Nobody waits for what they would give. End each by `noa cancel RUN`",
            items,
        )

    def signals(self) -> Finding | None:
        """Signals that came too late."""
        lost = self._upkeep.lost_signals()
        if not lost:
            return None
        return Finding(
            "signals",
            f"{_count(len(lost), 'signal was', 'signals were')} never applied, and the run is over",
            "They came when the run was ending. They change nothing any more, unless the run is reopened",
            [f"{one.run_id}: {one.kind} ({one.signal_id}), the run is {one.status}" for one in lost],
            "marks them as seen",
            lambda: self._upkeep.close_signals([one.signal_id for one in lost]) == len(lost),
        )

    def missing_artifacts(self) -> Finding | None:
        """Artifacts that runs which go on name, and that are not there or not what they were."""
        if self._artifacts is None:
            return None
        items = []
        for record in self._unfinished:
            items += [f"{record.run_id}: {problem}" for problem in self._problems(record.run_id)]
        if not items:
            return None
        return Finding(
            "missing-artifacts",
            f"{_count(len(items), 'artifact', 'artifacts')} of runs that are not over cannot be read",
            "A task that needs one will fail. Restore the file, or let the task that made it do it again: "
            "`noa retry RUN --from TASK` once the run is over",
            items,
        )

    def orphaned_artifacts(self) -> Finding | None:
        """Artifacts to which nothing refers, and those that were begun and never finished."""
        if self._artifacts is None:
            return None
        temporary = list(iter_temporary_files(self._artifacts, before_ms=self._now_ms - GRACE_MS))
        is_busy = self._upkeep.watch()
        files = unreferenced(self._upkeep, self._artifacts, young_since_ms(self._records, self._now_ms))
        if is_busy():
            files = []  # a run that goes on may name them
        if not files and not temporary:
            return None
        whole, begun = Heap.of(files), Heap.of(temporary)

        def mend() -> bool:
            removed = remove_artifacts(files, is_busy)
            return len(remove_files(temporary)) + len(removed) == whole.count + begun.count

        return Finding(
            "orphaned-artifacts",
            f"nothing refers to {_count(whole.count + begun.count, 'file', 'files')} of the artifact store",
            "Attempts that failed, engines that were killed and runs that were removed leave them. They only take room",
            [
                f"{_count(heap.count, one, many)}, {heap.size_bytes:,} bytes"
                for heap, one, many in (
                    (whole, "artifact", "artifacts"),
                    (begun, "artifact that was never finished", "artifacts that were never finished"),
                )
                if heap.count
            ],
            "removes them",
            mend,
        )

    def _problems(self, run: RunId) -> Iterator[str]:
        """What is wrong with the artifacts that a run names, each once."""
        assert self._artifacts is not None
        store = FileArtifactStore(f"file://{quote(str(self._artifacts))}")
        texts, seen = self._upkeep.bodies(run), set[str]()
        while texts:
            for artifact in iter_references(texts.pop()):
                if artifact.sha256 in seen or not artifact.uri.startswith(store.prefix):
                    continue
                seen.add(artifact.sha256)
                problem = _problem(store, artifact)
                if problem:
                    yield problem
                elif artifact.content_type == KEPT_VALUE:
                    texts.append(artifact_path(self._artifacts, artifact.sha256).read_bytes())

    def _is_held(self, record: RunRecord) -> bool:
        return is_held(record.owner, record.lease_until_ms, self._now_ms)

    def _owner(self, record: RunRecord) -> str:
        since = f"last event {_ago(self._now_ms - record.updated_at_ms)} ago"
        if not record.owner:
            return f"given up, {since}"
        host, _, pid, *_ = [*record.owner.split(":"), "", "", ""]
        process = f"process {pid} on {host}" if pid else record.owner
        return f"{process} {'is dead' if is_dead(record.owner) else 'lost its lease'}, {since}"


def _problem(store: FileArtifactStore, artifact: Artifact) -> str:
    try:
        for _ in store.stream(artifact):
            pass
    except ArtifactError as error:
        return error.message
    return ""


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _ago(ms: int) -> str:
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if ms >= size_ms:
            return f"{ms // size_ms} {unit}"
    return f"{max(0, ms) // 1000} s"
