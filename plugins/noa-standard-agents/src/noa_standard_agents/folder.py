"""Finds the regular files of a folder, always in the same order: depth first, names sorted as bytes, files and folders
in one order. The `rust` agent walks in the same way, so that both speak of the same files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

__all__ = ["EXCLUDED", "Skipped", "Walk", "shown"]

EXCLUDED = (".git", ".noa", ".venv", ".cache", "node_modules", "target", "__pycache__")
"""Folders that are passed over unless the caller names others."""

_KINDS = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


def shown(path: bytes) -> str:
    """A path as text; bytes that are not UTF-8 are written out (`\\xff`)."""
    return path.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not read, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Walk:
    """What to look at.

    Attributes:
        root: The folder.
        follow_links: Whether links are followed; a folder is entered once however many links lead to it.
        exclude: Names of folders that are passed over.
    """

    root: bytes
    follow_links: bool = False
    exclude: Set[bytes] = frozenset(map(str.encode, EXCLUDED))

    def files(self, skip: Callable[[Skipped], None]) -> Iterator[bytes]:
        """Paths of the regular files, relative to the root. What cannot be taken is given to `skip` with the reason."""
        found = os.stat(self.root)
        entered = {(found.st_dev, found.st_ino)}
        open_folders = [iter(_names(self.root))]
        places = [b""]
        while open_folders:
            name = next(open_folders[-1], None)
            if name is None:
                open_folders.pop()
                places.pop()
                continue
            path = places[-1] + name
            full = os.path.join(self.root, path)
            try:
                entry = self._look(full)
            except OSError as error:
                skip(Skipped(path, _reason(error)))
                continue
            kind = stat.S_IFMT(entry.st_mode)
            if kind == stat.S_IFREG:
                yield path
            elif kind != stat.S_IFDIR:
                skip(Skipped(path, "symbolic link" if kind == stat.S_IFLNK else _KINDS.get(kind, "special file")))
            elif name not in self.exclude:
                identity = (entry.st_dev, entry.st_ino)
                if identity in entered:
                    skip(Skipped(path, "folder was entered by another link already"))
                    continue
                entered.add(identity)
                try:
                    names = _names(full)
                except OSError as error:
                    skip(Skipped(path, _reason(error)))
                    continue
                open_folders.append(iter(names))
                places.append(path + b"/")

    def _look(self, full: bytes) -> os.stat_result:
        return os.stat(full) if self.follow_links else os.lstat(full)


def _names(folder: bytes) -> list[bytes]:
    return sorted(os.listdir(folder))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
