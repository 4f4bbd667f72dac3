"""Two agents that pass a large artifact on: `python -m noa.sdk large_data_agents:Maker`, in this folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from noa.sdk import Agent, Artifact, Context, action

PIECE = 1 << 20


def piece_of(number: int) -> bytes:
    """A piece that is cheap to make and differs from every other."""
    return number.to_bytes(8, "big") * (PIECE // 8)


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Pieces(io.RawIOBase):
    """A stream that is made while it is read."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._next == self._count:
            return b""
        self._next += 1
        return piece_of(self._next - 1)


class Maker(Agent):
    name = "maker"
    version = "1"

    @action(idempotent=True)
    def make(self, ctx: Context, pieces: int) -> dict[str, Any]:
        """Write an artifact of so many pieces of 1 MiB."""
        made = ctx.artifacts.create(Pieces(pieces))
        return {"data": made, "peak_memory_bytes": peak_memory_bytes()}


class Reader(Agent):
    name = "reader"
    version = "1"

    @action(idempotent=True)
    def read(self, ctx: Context, data: Artifact) -> dict[str, Any]:
        """Read an artifact piece by piece."""
        digest, size = hashlib.sha256(), 0
        with ctx.artifacts.open(data) as stream:
            while piece := stream.read(PIECE):
                ctx.check_cancelled()
                digest.update(piece)
                size += len(piece)
        return {"sha256": digest.hexdigest(), "size_bytes": size, "peak_memory_bytes": peak_memory_bytes()}
