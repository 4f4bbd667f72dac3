"""A worker that does one thing at a time: `python -m noa.sdk scaled_worker:Worker`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import psutil

from noa.sdk import Agent, action


class Worker(Agent):
    """Works until it is let go. With ONLY_ONE (a file) a second process of it does not start."""

    name = "worker"
    version = "1"
    capacity = 1

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        lock = os.environ.get("ONLY_ONE")
        if not lock:
            return
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if os.environ.get("HANG"):
                threading.Event().wait()
            print("another has the only licence", file=sys.stderr)
            os._exit(9)

    @action(idempotent=True)
    async def work(self, gate: str = "") -> dict[str, int]:
        """Say who does it, in the file GATE.pid, and wait until the file GATE is there."""
        if gate:
            Path(f"{gate}.pid").write_text(str(os.getpid()))
            while not Path(gate).exists():
                await asyncio.sleep(0.01)
        return {"pid": os.getpid()}

    @action(idempotent=True)
    async def sicken(self, sick: str) -> dict[str, int]:
        """Fail in the process that the file SICK names, and work in any other."""
        if Path(sick).exists() and Path(sick).read_text() == str(os.getpid()):
            raise RuntimeError("this process is sick")
        return {"pid": os.getpid()}

    @action(idempotent=True)
    async def grow(self, to_bytes: int) -> dict[str, int]:
        """Take memory until the process has so much, and keep it."""
        process = psutil.Process()
        while process.memory_info().rss < to_bytes:
            self.kept.append(os.urandom(1 << 20))
        return {"pid": os.getpid()}
