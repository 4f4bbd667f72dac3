"""Writes that reached the disk in part: the end of SQLite's write-ahead log as a crash amid a commit leaves it.

Format: https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

__all__ = ["tear_last_commit"]

_HEADER = 32
_FRAME_HEADER = 24


def tear_last_commit(database: Path, chance: random.Random) -> str:
    """Damage the last commit in the log somewhere, as if the machine had stopped while it was written; what was done.

    Nothing before it is touched. Empty where the log holds no commit.
    """
    log = database.with_name(database.name + "-wal")
    data = log.read_bytes() if log.exists() else b""
    commits = _ends_of_commits(data)
    if not commits:
        return ""
    start, end = (commits[-2] if len(commits) > 1 else _HEADER), commits[-1]
    cut = chance.randrange(start, end)
    if chance.random() < 0.5:
        log.write_bytes(data[:cut])
        return f"cut at byte {cut} of {end}, the commit begins at {start}"
    length = min(end - cut, chance.randrange(1, 600))
    damaged = bytes(byte ^ 0x5A for byte in data[cut : cut + length])
    log.write_bytes(data[:cut] + damaged + data[cut + length :])
    return f"{length} bytes from byte {cut} of {end} damaged, the commit begins at {start}"


def _ends_of_commits(data: bytes) -> list[int]:
    """Offsets at which commits end, for the frames of the log's present generation."""
    if len(data) < _HEADER:
        return []
    page_size = struct.unpack_from(">I", data, 8)[0]
    salt = data[16:24]
    found = []
    for offset in range(_HEADER, len(data) - _FRAME_HEADER - page_size + 1, _FRAME_HEADER + page_size):
        if data[offset + 8 : offset + 16] != salt:
            break
        if struct.unpack_from(">I", data, offset + 4)[0]:
            found.append(offset + _FRAME_HEADER + page_size)
    return found
