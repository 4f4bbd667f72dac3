"""Keeps what an agent prints: a file of bounded size, and the last lines in memory for errors."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["OutputLog"]

log = logging.getLogger("noa.orchestration")

_FILE_LIMIT_BYTES = 10 * 1024 * 1024
_KEPT_LINES = 50
_LINE_LIMIT_BYTES = 2_000
_HELD_LIMIT_BYTES = 64 * 1024


class OutputLog:
    """Writes an agent's output to a file, and once it is full, on from the start with one older file kept beside it.

    A disk that is full never stops an agent: the lines in memory are kept, the file is given up.

    Args:
        path: The file; the older one is `<path>.1`. Its folder is made where it is missing.
        limit_bytes: Of each of the two files.
        mask: Takes secrets out of whole lines; a line that goes on is kept back until it ends.
    """

    def __init__(self, path: Path, *, limit_bytes: int = _FILE_LIMIT_BYTES, mask: Callable[[str], str] = str) -> None:
        self.path = path
        self._limit = limit_bytes
        self._mask = mask
        self._held = b""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._file: BinaryIO | None = None
        self._size = 0
        self._open()

    def write(self, data: bytes) -> None:
        """Take what the agent printed."""
        data = self._held + data
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > _HELD_LIMIT_BYTES:
            cut = len(data)
        self._held = data[cut:]
        if cut:
            self._keep(self._masked(data[:cut]))

    def _masked(self, data: bytes) -> bytes:
        return self._mask(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def _keep(self, data: bytes) -> None:
        # From the end: of a flood only the last lines are kept, so only those are cut out.
        *lines, rest = data.rsplit(b"\n", _KEPT_LINES + 1)
        self._lines.extend(_text(line) for line in [*lines[-_KEPT_LINES:], *([rest] if rest else [])])
        if self._file is None:
            return
        try:
            if self._size + len(data) > self._limit:
                self._rotate()
            if self._file is not None:
                self._file.write(data)
                self._file.flush()
                self._size += len(data)
        except OSError as error:
            log.warning("the agent's output is no longer kept in %s: %s", self.path, error)
            self._file = None

    def last_lines(self, count: int = _KEPT_LINES) -> list[str]:
        """The last lines, oldest first, each cut at 2,000 bytes; at most 50 are kept."""
        lines = [*self._lines, *([_text(self._masked(self._held))] if self._held else [])]
        return lines[-count:]

    def describe(self, count: int = 10) -> str:
        """The last lines and where the rest is, as the end of an error's message."""
        lines = [line for line in self.last_lines() if line.strip()][-count:]
        if not lines:
            return f"It printed nothing. Its log: {self.path}"
        return "Its last lines:\n" + "\n".join(f"  | {line}" for line in lines) + f"\nIts log: {self.path}"

    def close(self) -> None:
        """Close the file; the lines in memory stay."""
        held, self._held = self._held, b""
        if held:
            self._keep(self._masked(held))
        self._shut()

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            self._size = self._file.tell()
        except OSError as error:
            log.warning("the agent's output cannot be kept in %s: %s", self.path, error)

    def _rotate(self) -> None:
        self._shut()
        self.path.replace(self.path.with_name(self.path.name + ".1"))
        self._open()


def _text(line: bytes) -> str:
    return line[:_LINE_LIMIT_BYTES].decode("utf-8", "replace").rstrip("\r")
