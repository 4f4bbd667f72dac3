"""A journal that dies at a chosen write, on a real SQLite file: its engine sees no answer and does nothing any more.

The URL says when and how: `dying:///path/noa.db?at=7&how=after`. Writes are `create` and `append`, counted from 1.

* `before`, `after`: the write is never made, or is on disk, and the engine never hears of it. `died` is set; whatever
  is asked of the journal then is refused, so that a test can throw the engine away in the same process.
* `kill-before`, `kill-after`: the same, and the process ends as by kill -9.
* `kill-inside`: the process ends at the `at`-th statement of the writer's transactions, so after part of an append,
  or at its COMMIT.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from noa.errors import JournalError
from noa.plugin import Journal, Lease
from noa.storage import SqliteJournal, new_owner

__all__ = ["DyingJournal", "owner_that_died"]

T = TypeVar("T")

_STATEMENTS = ("INSERT", "UPDATE", "COMMIT")


def owner_that_died() -> str:
    """A name for an engine of which everybody believes that its process is gone."""
    host, machine, pid, start, rest = new_owner().split(":")
    return ":".join([host, machine, pid, start + "0", rest])


def kill() -> NoReturn:
    """End this process as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


class DyingJournal(SqliteJournal):
    """See the module. Without a question mark in its URL it never dies."""

    def __init__(self, url: str | Path) -> None:
        place, _, query = str(url).partition("?")
        super().__init__(place.removeprefix("dying://"))
        options = dict(parse_qsl(query))
        self.at = int(options.get("at", 0))
        self.how = options.get("how", "after")
        self.writes = 0
        self.died = asyncio.Event()

    async def open(self) -> None:
        await super().open()
        assert self._connections is not None
        if self.how == "kill-inside":
            self._connections[0].set_trace_callback(self._statement)

    def _statement(self, statement: str) -> None:
        if statement.startswith(_STATEMENTS):
            self.writes += 1
            if self.writes == self.at:
                kill()

    async def create(self, run: Any, created: Any, *, owner: str, **options: Any) -> Lease:
        return await self._counted(
            lambda: super(DyingJournal, self).create(run, created, owner=self._as(owner), **options)
        )

    async def append(self, lease: Any, events: Any, *, expected_seq: int) -> int:
        return await self._counted(lambda: super(DyingJournal, self).append(lease, events, expected_seq=expected_seq))

    async def acquire(self, run: Any, *, owner: str, lease_ms: int) -> Lease:
        self._refuse_when_dead()
        return await super().acquire(run, owner=self._as(owner), lease_ms=lease_ms)

    async def release(self, lease: Any) -> None:
        self._refuse_when_dead()
        await super().release(lease)

    async def renew(self, leases: Any, *, lease_ms: int) -> Any:
        self._refuse_when_dead()
        return await super().renew(leases, lease_ms=lease_ms)

    async def put_signal(self, signal: Any) -> bool:
        self._refuse_when_dead()
        return await super().put_signal(signal)

    async def mark_signal(self, signal_id: str, seq: int) -> None:
        self._refuse_when_dead()
        await super().mark_signal(signal_id, seq)

    async def _counted(self, write: Callable[[], Awaitable[T]]) -> T:
        if self.how == "kill-inside":
            return await write()
        if self.died.is_set():
            await asyncio.Event().wait()
        self.writes += 1
        if self.writes != self.at:
            done = await write()
            if self.died.is_set():  # another run's write was the last one meanwhile
                await asyncio.Event().wait()
            return done
        if self.how.startswith("kill"):
            if self.how == "kill-after":
                await write()
            kill()
        if self.how == "after":
            await write()
        self.died.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets that event")

    def _as(self, owner: str) -> str:
        return owner if self.how.startswith("kill") else owner_that_died()

    def _refuse_when_dead(self) -> None:
        if self.died.is_set():
            raise JournalError(f"{self.path}: the engine of this journal is dead")


assert issubclass(DyingJournal, Journal)
