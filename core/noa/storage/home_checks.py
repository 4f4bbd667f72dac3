"""Checks of the state folder: permissions, room, write-ahead logs, and what dead engines left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

from noa.storage.finding import Finding
from noa.storage.upkeep import Upkeep, quick_check

__all__ = [
    "LEAST_FREE_BYTES",
    "MOST_LOG_BYTES",
    "check_damage",
    "check_free_space",
    "check_permissions",
    "check_sockets",
    "check_stale_agents",
    "check_write_ahead_logs",
]

T = TypeVar("T")

LEAST_FREE_BYTES = 256 << 20
MOST_LOG_BYTES = 64 << 20
_MIB = 1 << 20

_SETTLED_S = 60.0
"""An agent binds its socket a moment before it listens; one that is older than this listens or never will."""

_REAPERS = frozenset(
    {"init", "systemd", "launchd", "tini", "dumb-init", "docker-init", "catatonit", "runit", "s6-svscan"}
)


def check_damage(*stores: Path) -> Finding | None:
    """Files that SQLite finds damaged."""
    items = [f"{store}: {line}" for store in stores for line in quick_check(store)]
    if not items:
        return None
    return Finding(
        "damage",
        "SQLite finds a store damaged",
        "The disk, or a program that is no noa, changed the file. Stop what uses it and restore noa.db from a backup; "
        "observations.db (logs and progress) may also be deleted, for no run needs it",
        items,
    )


def check_permissions(home: Path) -> Finding | None:
    """Whether others may enter the state folder, in which inputs and outputs of all runs are."""
    found = home.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode == 0o700:
        return None

    def mend() -> bool:
        home.chmod(0o700)
        return True

    ours = found.st_uid == os.geteuid()
    return Finding(
        "permissions",
        f"the state folder has the mode {mode:04o}, expected 0700",
        "Inputs and outputs of all runs are in it, and agents listen there"
        + ("" if ours else ". It is not yours: ask its owner"),
        [str(home)],
        "sets the mode to 0700" if ours else "",
        mend if ours else None,
    )


def check_free_space(home: Path, least_bytes: int = LEAST_FREE_BYTES) -> Finding | None:
    """Whether the disk has room."""
    free = shutil.disk_usage(home).free
    if free >= least_bytes:
        return None
    return Finding(
        "free-space",
        f"the disk has {free // _MIB} MiB left, expected {least_bytes // _MIB} MiB at least",
        "A run stops where its next event cannot be written, and goes on by `noa resume` once there is room. Free "
        "some, such as by `noa gc --older-than 30d --vacuum`",
        [str(home)],
    )


def check_write_ahead_logs(*stores: Path, most_bytes: int = MOST_LOG_BYTES) -> Finding | None:
    """Write-ahead logs that grew, because somebody reads without an end or a process died."""
    large = []
    for store in stores:
        log = store.with_name(f"{store.name}-wal")
        with contextlib.suppress(OSError):
            if log.stat().st_size > most_bytes:
                large.append((store, log))
    if not large:
        return None

    def mend() -> bool:
        done = []
        for store, _ in large:
            with Upkeep(store) as upkeep:
                done.append(upkeep.checkpoint())
        return all(done)

    return Finding(
        "write-ahead-log",
        f"a write-ahead log is larger than {most_bytes // _MIB} MiB",
        "Reading gets slow, and the disk full. A process that reads without an end keeps it from being emptied",
        [f"{log}: {log.stat().st_size // _MIB} MiB" for _, log in large],
        "brings it into the store and empties it",
        mend,
    )


def check_sockets(folder: Path, *, settled_s: float = _SETTLED_S) -> Finding | None:
    """Sockets on which nobody listens, and empty folders beside them: left by engines that were killed."""
    before_s = time.time() - settled_s
    dead = [path for path in _old_entries(folder, before_s) if _is_dead(path)]
    if not dead:
        return None

    def mend() -> bool:
        for path in dead:
            with contextlib.suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                elif _is_dead(path):
                    path.unlink()
            if path.parent != folder:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
        return not any(os.path.lexists(path) for path in dead)

    return Finding(
        "sockets",
        f"nobody listens on {len(dead)} of the sockets of agents",
        "An engine was killed before it could remove them. They do no harm",
        [str(path) for path in dead],
        "removes them",
        mend,
    )


def check_stale_agents(folder: Path) -> Finding | None:
    """Agents whose engine is gone and that did not end with it."""
    mark = f"unix:{folder.absolute()}{os.sep}"
    families: dict[str, list[psutil.Process]] = defaultdict(list)  # an agent and what it started have one address
    for process in psutil.process_iter():
        address = _address(process)
        if address.startswith(mark) and _ask(process.status, "") != psutil.STATUS_ZOMBIE:
            families[address].append(process)
    stale = [process for family in families.values() if _is_orphan(family) for process in family]
    if not stale:
        return None
    return Finding(
        "stale-agents",
        f"{len(stale)} processes of agents go on though their engine is gone",
        "They break the contract, by which an agent ends when its stdin does, and hold memory and perhaps ports. End "
        "each by kill, and check the agent by `noa agent check`",
        [f"pid {process.pid}: {_command_line(process)}" for process in stale],
    )


def _old_entries(folder: Path, before_s: float) -> Iterator[Path]:
    for where, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(where, name)
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < before_s:
                    yield path


def _is_dead(path: Path) -> bool:
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        return not any(path.iterdir())
    if not stat.S_ISSOCK(mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            return probe.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
        except OSError:  # the path is too long for this system, so that nobody could listen; but neither do we know
            return False


def _address(process: psutil.Process) -> str:
    return _ask(lambda: process.environ().get("NOA_AGENT_LISTEN", ""), "")


def _is_orphan(family: list[psutil.Process]) -> bool:
    """Whether what started an agent is gone: none of its processes has a parent that could be an engine."""
    known = {process.pid for process in family}
    parents = [_ask(process.parent, None) for process in family]
    return not any(parent is not None and parent.pid not in known and not _is_reaper(parent) for parent in parents)


def _is_reaper(process: psutil.Process) -> bool:
    """Whether this is where orphans go; an engine may be the first process of a container."""
    return (process.pid == 1 or _ask(process.name, "") in _REAPERS) and "noa" not in _command_line(process)


def _command_line(process: psutil.Process) -> str:
    return " ".join(_ask(process.cmdline, []))[:200]


def _ask(question: Callable[[], T], otherwise: T) -> T:
    try:
        return question()
    except (psutil.Error, OSError):
        return otherwise
