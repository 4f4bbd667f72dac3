"""Artifact files that nothing refers to, and their removal.

What is young stays, for its reference may not be in the journal yet: an agent names an artifact only when its attempt
ends. So young means younger than an hour, or than any run that is not over. An agent may also name an old file, without
a trace, because what it made is there already: so artifacts are removed only while no engine drives a run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GRACE_MS", "StoredFile", "iter_artifact_files", "iter_temporary_files", "remove_artifacts", "remove_files"]

GRACE_MS = 3_600_000
"""A file younger than this is left alone."""

_AT_ONCE = 64

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with its size and the time of its last change (UTC epoch milliseconds)."""

    path: Path
    size_bytes: int
    changed_at_ms: int


def iter_artifact_files(folder: Path, *, before_ms: int) -> Iterator[StoredFile]:
    """The artifacts of a store of files that were written before a moment."""
    for entry in _entries(folder):
        if len(entry.name) == 2 and entry.is_dir(follow_symlinks=False):
            for file in _entries(Path(entry.path)):
                if _SHA256.fullmatch(file.name):
                    yield from _stored(file, before_ms)


def iter_temporary_files(folder: Path, *, before_ms: int) -> Iterator[StoredFile]:
    """Artifacts that were begun before a moment and never finished."""
    for entry in _entries(folder):
        if entry.name.startswith(".tmp-"):
            yield from _stored(entry, before_ms)


def remove_files(files: Iterable[StoredFile]) -> list[StoredFile]:
    """Remove files; those that could be removed. One that was written anew since it was looked at is left alone."""
    removed = []
    for file in files:
        with contextlib.suppress(OSError):
            if _is_unchanged(file):
                file.path.unlink()
                removed.append(file)
    return removed


def remove_artifacts(files: Sequence[StoredFile], is_busy: Callable[[], bool]) -> list[StoredFile]:
    """Remove artifacts while no engine drives a run; those that were removed.

    `is_busy` says whether one does, or has since the references were read.

    A few at a time are put aside, under a name of unfinished ones, and come back where an engine began a run meanwhile:
    an attempt that saw one before saw it in a run that is there by now, and one that sees none writes its own.
    """
    removed: list[StoredFile] = []
    for start in range(0, len(files), _AT_ONCE):
        if is_busy():
            break
        aside = [(file, to) for file in files[start : start + _AT_ONCE] if (to := _put_aside(file)) is not None]
        if is_busy():
            for file, to in aside:
                with contextlib.suppress(OSError):
                    os.replace(to, file.path)
            break
        for file, to in aside:
            with contextlib.suppress(OSError):
                to.unlink()
                removed.append(file)
    return removed


def _put_aside(file: StoredFile) -> Path | None:
    to = file.path.parent.parent / f".tmp-{file.path.name}"
    with contextlib.suppress(OSError):
        if _is_unchanged(file):
            os.replace(file.path, to)
            return to
    return None


def _is_unchanged(file: StoredFile) -> bool:
    return _changed_at_ms(file.path.stat(follow_symlinks=False)) == file.changed_at_ms


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _stored(entry: os.DirEntry[str], before_ms: int) -> Iterator[StoredFile]:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return
    if entry.is_file(follow_symlinks=False) and _changed_at_ms(found) < before_ms:
        yield StoredFile(Path(entry.path), found.st_size, _changed_at_ms(found))


def _changed_at_ms(found: os.stat_result) -> int:
    return found.st_mtime_ns // 1_000_000
