"""Removes old runs and what only they needed, beside live engines. The work of `noa gc`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noa.model.ids import RunId
from noa.plugin.interfaces import RunRecord
from noa.storage.migrations import OVER
from noa.storage.observations import ObservationStore
from noa.storage.references import mark
from noa.storage.retention import Family, Rule, choose
from noa.storage.sqlite import SqliteJournal
from noa.storage.sweep import (
    GRACE_MS,
    StoredFile,
    iter_artifact_files,
    iter_temporary_files,
    remove_artifacts,
    remove_files,
)
from noa.storage.upkeep import Upkeep

__all__ = ["Collected", "Collector", "Heap", "unreferenced", "young_since_ms"]

_LATER = "Repeat when nothing runs"


@dataclass(frozen=True, slots=True)
class Heap:
    """How many of something, and their bytes."""

    count: int = 0
    size_bytes: int = 0

    @classmethod
    def of(cls, files: Sequence[StoredFile]) -> Heap:
        """Of these files."""
        return cls(len(files), sum(file.size_bytes for file in files))


@dataclass(slots=True)
class Collected:
    """What was removed, or would be.

    Attributes:
        runs: With those of their sub-workflows.
        journal_bytes: Of their events; the file keeps its size and uses them again, unless it is vacuumed.
        kept_outputs: Whose time is over.
        outputs: Folders for people.
        notes: What was left alone, and why.
    """

    runs: list[RunRecord] = field(default_factory=list)
    journal_bytes: int = 0
    artifacts: Heap = Heap()
    temporary_files: Heap = Heap()
    kept_outputs: Heap = Heap()
    outputs: Heap = Heap()
    vacuumed: bool = False
    notes: list[str] = field(default_factory=list)


class Collector:
    """Collects in one store.

    Args:
        journal: Open.
        artifacts: Folder of the artifacts; None leaves them alone.
        outputs: Folder in which each run has one for people; None leaves them alone.
        now_ms: The clock; epoch milliseconds.
    """

    def __init__(
        self, journal: SqliteJournal, *, artifacts: Path | None, outputs: Path | None, observations: Path,
        now_ms: Callable[[], int],
    ) -> None:  # fmt: skip
        self._journal = journal
        self._artifacts = artifacts
        self._outputs = outputs
        self._observations = observations
        self._now_ms = now_ms

    async def collect(self, rule: Rule, *, dry_run: bool = False, vacuum: bool = False) -> Collected:
        """Remove what breaks the rule, and then what nothing refers to.

        Raises:
            JournalError: The store failed; what was removed until then is gone, the rest is whole. Repeat.
        """
        now_ms = self._now_ms()
        records = await self._journal.runs(limit=None)
        expired_ms = now_ms - GRACE_MS  # what was recalled in its last moment may not be in the journal yet
        chosen = choose(records, rule, now_ms)
        found = Collected(runs=[member for family in chosen for member in family.members])
        with Upkeep(self._journal.path) as upkeep:
            found.journal_bytes = await asyncio.to_thread(upkeep.size_bytes, [run.run_id for run in found.runs])
            found.kept_outputs = Heap(*upkeep.expired_kept(expired_ms))
            if not dry_run:
                found.runs = await self._remove(chosen)
                upkeep.delete_expired_kept(expired_ms)
            gone = [run.run_id for run in found.runs]
            await asyncio.to_thread(self._sweep, upkeep, found, records, gone, dry_run)
            self._remove_outputs(found, gone, dry_run=dry_run)
            if vacuum and not dry_run:
                await self._vacuum(upkeep, found)
        return found

    async def _remove(self, chosen: Sequence[Family]) -> list[RunRecord]:
        """Remove families, each from its root on: where that was reopened meanwhile, its family stays."""
        self._forget([member.run_id for family in chosen for member in family.members])
        await self._journal.delete([family.root.run_id for family in chosen])
        left = {record.run_id for record in await self._journal.runs(limit=None)}
        gone = [family for family in chosen if family.root.run_id not in left]
        await self._journal.delete([member.run_id for family in gone for member in family.members[1:]])
        return [member for family in gone for member in family.members]

    def _forget(self, runs: Sequence[RunId]) -> None:
        # Before the runs themselves: what is left after a crash would belong to no run and never be found again.
        if runs and self._observations.exists():
            store = ObservationStore(self._observations)
            try:
                store.delete(runs)
            finally:
                store.close()

    def _sweep(
        self, upkeep: Upkeep, found: Collected, records: Sequence[RunRecord], gone: Sequence[RunId], dry_run: bool
    ) -> None:
        if self._artifacts is None:
            return
        now_ms = self._now_ms()
        temporary = list(iter_temporary_files(self._artifacts, before_ms=now_ms - GRACE_MS))
        found.temporary_files = Heap.of(temporary if dry_run else remove_files(temporary))
        is_busy = upkeep.watch()
        files = unreferenced(upkeep, self._artifacts, young_since_ms(records, now_ms), without=gone)
        removed = [] if is_busy() else files if dry_run else remove_artifacts(files, is_busy)
        found.artifacts = Heap.of(removed)
        if left := len(files) - len(removed):
            found.notes.append(f"{left} artifacts stay, for a run goes on and may name them. {_LATER}")

    def _remove_outputs(self, found: Collected, runs: Sequence[RunId], *, dry_run: bool) -> None:
        if self._outputs is None:
            return
        folders = [self._outputs / run for run in runs if os.sep not in run and run not in {"", ".", ".."}]
        folders = [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]
        found.outputs = Heap(len(folders), sum(_sizes(folder) for folder in folders))
        if not dry_run:
            for folder in folders:
                shutil.rmtree(folder, onerror=lambda _function, path, _error: found.notes.append(f"{path} stays"))

    async def _vacuum(self, upkeep: Upkeep, found: Collected) -> None:
        if driven := upkeep.driven():
            found.notes.append(f"not vacuumed: run {driven[0]} goes on, and must not wait. {_LATER}")
            return
        await asyncio.to_thread(upkeep.vacuum)
        found.vacuumed = True


def young_since_ms(records: Sequence[RunRecord], now_ms: int) -> int:
    """Since when artifacts are too young to judge: an attempt of a run that is not over may name them at its end."""
    return min([now_ms - GRACE_MS, *(record.created_at_ms for record in records if record.status not in OVER)])


def unreferenced(upkeep: Upkeep, folder: Path, before_ms: int, *, without: Sequence[str] = ()) -> list[StoredFile]:
    """Artifacts from before a moment to which nothing refers, but perhaps the runs of `without`.

    The files are listed before the references are read, so that none that is newly referred to is among them.
    """
    files = list(iter_artifact_files(folder, before_ms=before_ms))
    if not files:
        return []
    marked = mark(upkeep.iter_texts(without, expired_ms=before_ms), folder)
    return [file for file in files if file.path.name not in marked]


def _sizes(folder: Path) -> int:
    return sum(size for size in _iter_sizes(folder))


def _iter_sizes(folder: Path) -> Iterator[int]:
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
