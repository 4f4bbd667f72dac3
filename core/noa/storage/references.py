"""Which artifacts are referred to: whatever looks like a SHA-256 in what a store keeps counts as a reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from noa.model.payload import KEPT_VALUE, Artifact, iter_artifacts

__all__ = ["artifact_path", "iter_references", "mark"]

_DIGITS = 64
_HEX = re.compile(rb"[0-9a-f]{64,}")
_KEPT_VALUE = KEPT_VALUE.encode()


def artifact_path(folder: Path, sha256: str) -> Path:
    """Where a store of files keeps an artifact."""
    return folder / sha256[:2] / sha256


def iter_references(text: bytes) -> Iterator[Artifact]:
    """The references in a JSON text; none where it is not JSON."""
    try:
        yield from iter_artifacts(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError):
        return


def mark(texts: Iterable[bytes], folder: Path) -> set[str]:
    """Every SHA-256 in these texts, and in the values that they keep in artifacts below `folder`.

    It errs on the safe side: any 64 hexadecimal digits in a row count, wherever they stand.
    """
    marked: set[str] = set()
    values: list[str] = []

    def take(text: bytes) -> None:
        for digits in _HEX.findall(text):
            for start in range(len(digits) - _DIGITS + 1):
                marked.add(digits[start : start + _DIGITS].decode())
        if _KEPT_VALUE in text:
            values.extend(found.sha256 for found in iter_references(text) if found.content_type == KEPT_VALUE)

    for text in texts:
        take(text)
    followed: set[str] = set()
    while values:
        sha256 = values.pop()
        if sha256 not in followed:
            followed.add(sha256)
            try:
                content = artifact_path(folder, sha256).read_bytes()
            except OSError:
                continue  # missing, which `noa doctor` tells where it matters
            take(content)
    return marked
