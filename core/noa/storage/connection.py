"""Connections to SQLite files, and the border at which SQLite's errors become noa's."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from pathlib import Path

from noa.errors import JournalError, UsageError

__all__ = ["BUSY_TIMEOUT_S", "connect", "file_path", "journal_error"]

BUSY_TIMEOUT_S = 10.0
"""How long a write waits for another process that is writing."""

_OLDEST = (3, 35, 0)

_MEANING = {
    sqlite3.SQLITE_FULL: "the disk is full. Nothing was written; free some space and repeat",
    sqlite3.SQLITE_IOERR: "the disk failed. Whether it was written is unknown; repeating it is safe",
    sqlite3.SQLITE_BUSY: f"another process kept the store locked for {BUSY_TIMEOUT_S:g} s. Nothing was written; repeat",
    sqlite3.SQLITE_LOCKED: "the store is locked. Nothing was written; repeat",
    sqlite3.SQLITE_READONLY: "the file cannot be written. Check its permissions and those of its folder",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened. Check that its folder exists and may be written",
    sqlite3.SQLITE_PERM: "access was refused. Check the permissions of the file and its folder",
    sqlite3.SQLITE_NOTADB: "this is not an SQLite file. Name another path",
    sqlite3.SQLITE_CORRUPT: "the file is damaged. Restore it from a backup",
    sqlite3.SQLITE_TOOBIG: "a value is too large for the store. Pass it as an artifact",
}

_FILES_OF_A_STORE = 8  # two connections, each with database and log, the index of the log, and some to spare

_PERHAPS_THE_DISK = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})


def journal_error(error: Exception, path: str, doing: str) -> JournalError:
    """What an error of SQLite means; raise it `from` the error. Every exception has an answer.

    The parts are `path` and `sqlite`, SQLite's name of the error where it has one.
    """
    code = getattr(error, "sqlite_errorcode", None)
    meaning = _MEANING.get(code & 0xFF) if isinstance(code, int) else None
    if isinstance(code, int) and code & 0xFF in _PERHAPS_THE_DISK:
        meaning = _trouble_of_place(path) or meaning
    if isinstance(error, ValueError | TypeError):  # such as text that is not UTF-8, also in what SQLite says of it
        meaning = "the store holds what noa did not write, so the file is damaged. Restore it from a backup"
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    reason = f"{meaning} ({name}: {error})" if meaning else f"{name}: {error}"
    return JournalError(f"{path}: cannot {doing}: {reason}", path=path, sqlite=name)


def _trouble_of_place(path: str) -> str:
    """What is wrong with where a file is, which SQLite does not tell; empty where nothing is."""
    folder = os.path.dirname(os.path.abspath(path))
    held: list[int] = []
    try:
        while len(held) < _FILES_OF_A_STORE:
            held.append(os.open(folder, os.O_RDONLY))
        place = os.statvfs(folder)
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            return "too many files are open. Raise the limit (`ulimit -n`) and repeat"
        return ""
    finally:
        for descriptor in held:
            os.close(descriptor)
    if place.f_flag & os.ST_RDONLY:
        return "the disk is read-only. Make it writable, or use another store"
    if place.f_bavail == 0:
        return "the disk is full. Whether it was written is unknown; free some space, and repeating it is safe"
    return ""


def file_path(url_or_path: str, scheme: str) -> Path:
    """The path in a URL: `sqlite:///abs/path`, `sqlite://rel/path`, or a plain path.

    Raises:
        UsageError: It is a URL of another scheme, or names no file.
    """
    found, separator, rest = url_or_path.partition("://")
    if separator and found != scheme:
        raise UsageError(f"'{url_or_path}': expected {scheme}:///path, got the scheme '{found}'", url=url_or_path)
    path = rest if separator else url_or_path
    if not path:
        raise UsageError(f"'{url_or_path}' names no file: expected {scheme}:///path", url=url_or_path)
    return Path(path)


def connect(path: Path, *, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection in WAL mode without implicit transactions. Any thread may use it, one at a time.

    Raises:
        JournalError: SQLite is too old.
        sqlite3.Error: SQLite failed; nothing is left open.
    """
    if sqlite3.sqlite_version_info < _OLDEST:
        raise JournalError(
            f"SQLite {'.'.join(map(str, _OLDEST))} or newer is needed, found {sqlite3.sqlite_version}",
            found=sqlite3.sqlite_version,
        )
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        _enter_wal(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not honour busy_timeout while two processes switch a new file to WAL at once.
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if (
                getattr(error, "sqlite_errorcode", None) or 0
            ) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
