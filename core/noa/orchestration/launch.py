"""What a sidecar is launched with: its program, its environment, its address, its process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from noa.errors import AgentStartError
from noa.orchestration.capture import OutputLog
from noa.plugin import AgentDeclaration

__all__ = ["Listen", "SidecarProcess", "choose_listen", "find_command", "sidecar_environment"]

_ALLOWED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_SOCKET_PATH_LIMIT = 107
"""Bytes of a unix socket's path that Linux takes."""

_KILL_WAIT_S = 5.0
_HUNT_ROUNDS = 5


def sidecar_environment(declaration: AgentDeclaration, engine: Mapping[str, str]) -> dict[str, str]:
    """The variables that a sidecar gets: an allow-list of the engine's, and the declaration's own."""
    allowed = {name: engine[name] for name in engine if name in _ALLOWED or name.startswith("NOA_AGENT_")}
    return {**allowed, **declaration.env}


def find_command(declaration: AgentDeclaration) -> list[str] | str:
    """The command with its program's full path, or what is wrong with it. No side effect."""
    name = declaration.name
    if not declaration.command:
        return f"agent '{name}' has no command: give the program and its arguments"
    program, *arguments = declaration.command
    cwd = Path(declaration.cwd) if declaration.cwd else Path.cwd()
    if not cwd.is_dir():
        return f"agent '{name}': its working folder {cwd} does not exist"
    if os.sep in program:
        path = cwd / program
        if not path.is_file():
            return (
                f"agent '{name}': the program {path} does not exist: build or install it, or mend the agent's command"
            )
        if not os.access(path, os.X_OK):
            return f"agent '{name}': {path} may not be executed: chmod +x it, or name its interpreter first"
        return [str(path), *arguments]
    search = sidecar_environment(declaration, os.environ).get("PATH", os.defpath)
    found = shutil.which(program, path=search)
    if found is None:
        return (
            f"agent '{name}': the command '{program}' was not found in PATH ({search}): "
            "install it, or give its full path"
        )
    return [found, *arguments]


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a sidecar listens.

    Attributes:
        address: As NOA_AGENT_LISTEN and as gRPC's target: `unix:/path` or `127.0.0.1:port`.
        path: The socket's file; None for TCP.
        folder: A folder that was made for this socket only and goes with it.
    """

    address: str
    path: Path | None = None
    folder: Path | None = None

    def remove(self) -> None:
        """Remove the socket, and the folder that was made for it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def choose_listen(runtime_dir: Path, label: str, *, tcp: bool = False) -> Listen:
    """A fresh address: a unix socket in a folder of mode 0700, or a free port of the loopback interface.

    A path too long for a socket, or a folder that belongs to somebody else, moves the socket to a short temporary
    folder; where that is too long as well, it is TCP.

    Raises:
        OSError: The folder cannot be made.
    """
    if not tcp:
        path = runtime_dir.absolute() / f"{label}-{secrets.token_hex(4)}.sock"
        if _make_private(runtime_dir) and _fits(path):
            return Listen(f"unix:{path}", path)
        folder = Path(tempfile.mkdtemp(prefix="noa-", dir=os.environ.get("XDG_RUNTIME_DIR") or None))
        path = folder / "s"
        if _fits(path):
            return Listen(f"unix:{path}", path, folder)
        shutil.rmtree(folder, ignore_errors=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Listen(f"127.0.0.1:{probe.getsockname()[1]}")


def _make_private(folder: Path) -> bool:
    """Make a folder, or mend one, so that only this user enters it; False where it belongs to somebody else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    return True


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT


class SidecarProcess:
    """A child process in its own session, whose stdin stays open as long as the engine lives.

    Make one with `launch`.

    Attributes:
        pid: Of the process, which leads its process group.
        output: What it printed.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, stdin: int, pump: _Pump, output: OutputLog, mark: bytes
    ) -> None:
        self.pid = process.pid
        self.output = output
        self._mark = mark
        self._killed_for = ""
        self._process = process
        self._stdin: int | None = stdin
        self._pump = pump
        self._exit = asyncio.get_running_loop().create_task(process.wait(), name=f"wait for {process.pid}")

    @classmethod
    async def launch(
        cls, command: list[str], env: Mapping[str, str], cwd: str | None, output: OutputLog
    ) -> SidecarProcess:
        """Start the process.

        Raises:
            AgentStartError: The system refuses; nothing runs.
        """
        # Pipes of our own: asyncio's would wait for a grandchild that keeps them open.
        stdin, stdin_end = os.pipe()
        output_end, printed = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=stdin, stdout=printed, stderr=printed, cwd=cwd, env=env, start_new_session=True
            )
        except (OSError, ValueError) as error:
            os.close(stdin_end)
            os.close(output_end)
            output.close()
            if isinstance(error, OSError) and error.errno == errno.ETXTBSY:
                raise AgentStartError(
                    f"{command[0]} cannot be started: it is being written. Replace a program that is in use by a new "
                    "file (mv, install), not by writing into it"
                ) from error
            raise AgentStartError(
                f"{command[0]} cannot be started: {error}. Check that it is a program for this machine", permanent=True
            ) from error
        finally:
            os.close(stdin)
            os.close(printed)
        pump = _Pump(output)
        await asyncio.get_running_loop().connect_read_pipe(lambda: pump, os.fdopen(output_end, "rb", 0))
        mark = f"NOA_AGENT_TOKEN={env['NOA_AGENT_TOKEN']}".encode() if env.get("NOA_AGENT_TOKEN") else b""
        return cls(process, stdin_end, pump, output, mark)

    @property
    def exited(self) -> asyncio.Task[int]:
        """Ends with the exit status (negative: the signal) as soon as the process does. Never cancel it."""
        return self._exit

    def describe_exit(self) -> str:
        """How it ended, for a person."""
        if not self._exit.done():
            return "is running"
        if self._killed_for:
            return f"was killed because {self._killed_for}"
        status = self._exit.result()
        if status >= 0:
            return f"exited with status {status}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
        return f"was killed by signal {-status}"

    def kill(self, reason: str) -> None:
        """SIGKILL to the whole group, now; `describe_exit` then gives the reason ("its memory is …")."""
        if not self._exit.done():
            self._killed_for = reason
            self._kill_group()

    async def drained(self) -> None:
        """Wait until all that it printed was read, at most a quarter of a second."""
        await asyncio.wait([self._pump.ended], timeout=0.25)

    async def end(self, grace_s: float) -> None:
        """SIGTERM, wait for the grace, then SIGKILL to the whole group; the process is reaped. Idempotent.

        What left the group (a daemon in a session of its own) is found by the token in its environment.
        """
        if not self._exit.done() and grace_s > 0:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._exit], timeout=grace_s)
        # The leader may have ended and left others of its group behind.
        self._kill_group()
        if not self._exit.done():
            await asyncio.wait([self._exit], timeout=_KILL_WAIT_S)
        if self._mark:
            await asyncio.to_thread(_kill_marked, self._mark)
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        await self.drained()
        self._pump.close()
        self.output.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _kill_marked(mark: bytes) -> None:
    """SIGKILL to every process whose environment has this entry; where there is no /proc, nothing."""
    for _ in range(_HUNT_ROUNDS):  # one that forks meanwhile is found in the next round
        found = [pid for pid in _pids() if _kill_if_marked(pid, mark)]
        if not found:
            return


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if mark not in file.read() or pid == os.getpid():
                return False
        os.kill(pid, signal.SIGKILL)
    except OSError:
        return False  # of another user, or it ended meanwhile
    return True


class _Pump(asyncio.Protocol):
    """Takes what a process prints."""

    def __init__(self, output: OutputLog) -> None:
        self._output = output
        self._transport: asyncio.BaseTransport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._output.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
