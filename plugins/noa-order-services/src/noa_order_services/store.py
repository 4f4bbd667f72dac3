"""The state of a service: one SQLite file, changed in transactions, each request answered once.

The table `requests` is a service's memory of what it was asked, so that the same request gets the same answer and has
no second effect. All other tables are its business. Both change in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from noa.sdk import ActionFailed, Context

__all__ = ["Store", "connect", "state_folder"]

_PATIENCE_S = 30.0
"""How long a request waits for another one that writes."""

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_REQUESTS = """
CREATE TABLE requests (
    key TEXT PRIMARY KEY, action TEXT NOT NULL, subject TEXT NOT NULL, undo INTEGER NOT NULL,
    request TEXT NOT NULL, answer TEXT NOT NULL
) STRICT;
CREATE INDEX requests_by_subject ON requests (subject);
"""

T = TypeVar("T", bound=Mapping[str, Any])


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the files are: NOA_ORDER_SERVICES, else `order-services` beside the runs (NOA_HOME, else `.noa`)."""
    named = environment.get("NOA_ORDER_SERVICES")
    return Path(named or Path(environment.get("NOA_HOME") or ".noa") / "order-services").absolute()


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk; the caller closes it."""
    base = sqlite3.connect(path, timeout=0.1, isolation_level=None)
    base.row_factory = sqlite3.Row
    base.execute("PRAGMA synchronous = FULL")
    return base


class Store:
    """The state of one service. Safe to use from several threads and processes.

    Args:
        service: Its name, which is also that of its file.
        tables: SQL that makes its tables, and what it begins with.
        environment: Where the variables stand. `NOA_ORDER_SERVICES_CRASH=payment.charge:2` is for tests of recovery:
            the first two charges kill the service when they are on disk and their answer has not been given; without
            a number each one does. A repeated request counts too.
    """

    def __init__(self, service: str, tables: str, environment: Mapping[str, str] = os.environ) -> None:
        self._service = service
        self._tables = tables
        self._folder = state_folder(environment)
        self._path = self._folder / f"{service}.db"
        self._crashes = environment.get("NOA_ORDER_SERVICES_CRASH", "")

    def open(self) -> None:
        """Make the file with what it begins with, where it is not there yet.

        Raises:
            OSError: The folder cannot be made.
            sqlite3.Error: The file cannot be written, or is no database.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with closing(connect(self._path)) as base:
            base.execute(f"PRAGMA busy_timeout = {_PATIENCE_S * 1000:.0f}")
            if _is_made(base):
                return
            base.execute("PRAGMA journal_mode = WAL")
            base.execute("BEGIN IMMEDIATE")
            if not _is_made(base):  # by another process, meanwhile
                for statement in _statements(_REQUESTS + self._tables):
                    base.execute(statement)
                base.execute("PRAGMA user_version = 1")
            base.execute("COMMIT")

    @contextmanager
    def transaction(self, ctx: Context) -> Iterator[sqlite3.Connection]:
        """All changes or, where the body raises, none.

        Raises:
            ActionFailed: SERVICE_BUSY, others wrote all the time; nothing was changed.
            ActionCancelled: While it waited; nothing was changed.
        """
        with closing(connect(self._path)) as base:
            self._begin(base, ctx)
            try:
                yield base
            except BaseException:
                base.execute("ROLLBACK")
                raise
            base.execute("COMMIT")

    def once(
        self,
        ctx: Context,
        action: str,
        subject: str,
        request: Mapping[str, Any],
        effect: Callable[[sqlite3.Connection], T],
        *,
        undo: bool = False,
    ) -> T:
        """Do what is asked and keep the answer, or give the answer that was kept for the same idempotency key.

        A refusal is not kept: what was refused may be asked for again. What was undone is closed: a request for it that
        comes late, from an attempt that was given up, is refused.

        Args:
            action: Which one.
            subject: What it makes or undoes, such as the name of a reservation.
            request: The inputs, which must be the same under the same key.
            effect: Changes the tables and gives the answer; raises ActionFailed to refuse.
            undo: Whether it undoes the subject.

        Raises:
            ActionFailed: It was refused; nothing was changed.
        """
        asked = json.dumps(request, sort_keys=True, ensure_ascii=False)
        with self.transaction(ctx) as base:
            known = base.execute("SELECT * FROM requests WHERE key = ?", (ctx.idempotency_key,)).fetchone()
            if known is not None:
                answer = cast("T", _answer_again(known, action, asked))
            else:
                if not undo:
                    _refuse_undone(base, action, subject)
                answer = effect(base)
                kept = (ctx.idempotency_key, action, subject, int(undo), asked, json.dumps(answer, ensure_ascii=False))
                base.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", kept)
        self._crash_point(f"{self._service}.{action}")
        return answer

    def name(self, given: str, ctx: Context, kind: str) -> str:
        """The name that the caller chose, or else one that is the same whenever this task asks."""
        return given or f"{kind}-{hashlib.sha256(ctx.idempotency_key.encode()).hexdigest()[:12]}"

    def _begin(self, base: sqlite3.Connection, ctx: Context) -> None:
        give_up_at = time.monotonic() + _PATIENCE_S
        while True:
            ctx.check_cancelled()
            try:
                base.execute("BEGIN IMMEDIATE")  # waits a little itself
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise
                if time.monotonic() > give_up_at:
                    raise ActionFailed(
                        "SERVICE_BUSY",
                        f"{self._service}: others have been writing for {_PATIENCE_S:.0f} s; nothing was changed",
                        retryable=True,
                    ) from error

    def _crash_point(self, point: str) -> None:
        for wanted in filter(None, self._crashes.split(",")):
            name, _, times = wanted.partition(":")
            if name == point and self._crashed(point) <= int(times or 1_000_000):
                os.kill(os.getpid(), signal.SIGKILL)

    def _crashed(self, point: str) -> int:
        """How often this was asked, this time included; the count outlives the process."""
        with open(self._folder / f"{point}.crashes", "ab") as file:
            file.write(b"x")
            return file.tell()


def _is_made(base: sqlite3.Connection) -> bool:
    return bool(base.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    return filter(None, map(str.strip, script.split(";")))


def _answer_again(known: sqlite3.Row, action: str, asked: str) -> Any:
    if (known["action"], known["request"]) != (action, asked):
        raise ActionFailed(
            "KEY_REUSED",
            f"the key {known['key']!r} was used for {known['action']} {known['request']}, not for {action} {asked}; "
            "another request needs another key",
        )
    return json.loads(known["answer"])


def _refuse_undone(base: sqlite3.Connection, action: str, subject: str) -> None:
    found = base.execute("SELECT action FROM requests WHERE subject = ? AND undo = 1", (subject,)).fetchone()
    if found is not None:
        raise ActionFailed(
            "ALREADY_UNDONE",
            f"{subject}: {found['action']} was asked for before, so {action} comes too late and does nothing",
        )
