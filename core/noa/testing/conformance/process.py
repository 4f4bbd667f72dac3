"""A launched agent: a process in a session of its own, with a private folder, that never outlives the checker."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from noa.testing.conformance.target import Target

__all__ = ["AgentProcess", "gone"]

_ALLOWED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_SOCKET_FOLDER_BYTES = 80
_POLL_S = 0.01
_LAST_LINES = 12


class AgentProcess:
    """A started agent. `end` it whatever happens.

    Args:
        target: How it is launched.
        tcp: Whether it is told to listen on a port of 127.0.0.1 and not on a unix socket.
        env: Changes to the variables of the contract; None takes one away.

    Attributes:
        folder: Its own, of mode 0700; the socket, `tmp` (its TMPDIR), `artifacts` and `files` lie there.
        listen: As NOA_AGENT_LISTEN says it.
        token: As NOA_AGENT_TOKEN says it.
        pid: Of the process.
    """

    def __init__(self, target: Target, *, tcp: bool = False, env: Mapping[str, str | None] | None = None) -> None:
        command = target.resolved()
        self.folder = _private_folder()
        self.listen = f"127.0.0.1:{_free_port()}" if tcp else f"unix:{self.folder}/agent.sock"
        self.token = secrets.token_urlsafe(24)
        self.temporary.mkdir(mode=0o700)
        variables: dict[str, str | None] = {name: os.environ[name] for name in _ALLOWED if name in os.environ}
        variables |= {"NOA_AGENT_CONFORMANCE": "1", **target.env}
        variables |= {
            "TMPDIR": str(self.temporary),
            "NOA_AGENT_LISTEN": self.listen,
            "NOA_AGENT_TOKEN": self.token,
            "NOA_AGENT_PROTOCOL": "1",
        }
        variables |= env or {}
        try:
            with (self.folder / "stdout").open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    stderr=stderr,
                    env={name: value for name, value in variables.items() if value is not None},
                    cwd=target.cwd,
                    start_new_session=True,
                )
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.pid = self._process.pid
        self._started: dict[int, psutil.Process] = {}

    @property
    def temporary(self) -> Path:
        """Its TMPDIR."""
        return self.folder / "tmp"

    @property
    def socket(self) -> Path | None:
        """File of the unix socket; None for TCP."""
        return Path(self.listen.removeprefix("unix:")) if self.listen.startswith("unix:") else None

    @property
    def stderr(self) -> str:
        """What it wrote to stderr."""
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    @property
    def stderr_bytes(self) -> int:
        """How much it wrote to stderr."""
        return (self.folder / "stderr").stat().st_size

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def last_lines(self) -> str:
        """The end of what it printed, for a message."""
        lines = [line for line in self.stderr[-8192:].splitlines() if line.strip()][-_LAST_LINES:]
        return "Its last lines on stderr:\n" + "\n".join(f"  | {line}" for line in lines) if lines else ""

    async def wait_exit(self, within_s: float) -> int | None:
        """Its exit status; None where it has not ended in time."""
        end_s = time.monotonic() + within_s
        while True:
            status = self.status
            if status is not None or time.monotonic() > end_s:
                return status
            await asyncio.sleep(_POLL_S)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def close_stdin(self) -> None:
        """Let it find that the engine is gone."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def note_children(self) -> list[int]:
        """Find the processes below it now, so that they are known also when it has ended; their ids."""
        with suppress(psutil.Error):
            self._started |= {child.pid: child for child in psutil.Process(self.pid).children(recursive=True)}
        return [pid for pid, child in self._started.items() if not gone(child)]

    def end(self) -> None:
        """Kill it with everything that it started, and remove its folder. Idempotent."""
        self.close_stdin()
        if self.status is None:  # else its id may be another's by now; what it left is found by its environment
            self.note_children()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        for child in [*self._started.values(), *_launched_with(self.token)]:
            with suppress(psutil.Error):
                child.kill()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def gone(process: psutil.Process | int) -> bool:
    """Whether a process has ended; one that waits for its parent to take note counts as ended."""
    try:
        found = psutil.Process(process) if isinstance(process, int) else process
        return not found.is_running() or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _launched_with(token: str) -> list[psutil.Process]:
    """Processes that inherited the agent's environment, also where they left its session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("NOA_AGENT_TOKEN") == token:
                found.append(process)
    return found


def _private_folder() -> Path:
    """A new folder of mode 0700 whose path is short enough for a socket."""
    root = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="noa-", dir=root if len(root) < _SOCKET_FOLDER_BYTES else "/tmp"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
