"""Who owns a run: the name of an engine's process, and whether that process still lives.

A name is `host:machine:pid:start:random`. `machine` is the boot and the space of process ids, `start` when the process
began; so neither a reboot nor a reused pid makes a dead owner look alive.
"""

from __future__ import annotations

import os
import secrets
import socket
from functools import cache
from pathlib import Path

import psutil

from noa.errors import JournalError

__all__ = ["is_dead", "is_held", "new_owner"]


def new_owner() -> str:
    """A name for an engine in this process; each call gives another.

    Raises:
        JournalError: The system does not say who this process is, such as for too many open files.
    """
    pid = os.getpid()
    try:
        machine, start = _machine(), _start(pid)
    except (OSError, psutil.Error) as error:
        raise JournalError(f"this engine cannot name itself, so it can own no run: {error}") from error
    if not start:
        raise JournalError(f"this engine cannot name itself, so it can own no run: when {pid} began is not known")
    return f"{_host()}:{machine}:{pid}:{start}:{secrets.token_hex(4)}"


def is_dead(owner: str) -> bool:
    """Whether the process of this owner certainly ended. False where it cannot be known from here."""
    parts = owner.split(":")
    if len(parts) != 5 or parts[0] != _host() or not parts[2].isdecimal():
        return False
    boot, _, space = parts[1].partition(".")
    try:
        here_boot, _, here_space = _machine().partition(".")
    except (OSError, psutil.Error):
        return False
    if boot != here_boot:
        return bool(boot and here_boot)
    return space == here_space and _start(int(parts[2])) not in {parts[3], None}


def is_held(owner: str, lease_until_ms: int, now_ms: int) -> bool:
    """Whether an engine that may live holds a lease: nobody else may take the run now."""
    return bool(owner) and now_ms < lease_until_ms and not is_dead(owner)


@cache
def _host() -> str:
    return socket.gethostname().replace(":", "-")


@cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except FileNotFoundError:  # not Linux; any other error must not give this machine another name than its peers'
        return f"{int(psutil.boot_time())}."


def _start(pid: int) -> str | None:
    """When a process began, in the system's own unit; empty where there is none (or only a zombie), None where the
    system does not say."""
    try:
        # The name in parentheses may hold anything; what follows it is state, then 18 fields, then the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
    except (psutil.Error, OSError):
        return None
