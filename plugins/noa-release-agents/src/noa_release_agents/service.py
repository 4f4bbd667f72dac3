"""An agent of a release in a process of its own, started as an engine starts it, and asked for its health."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc

__all__ = ["Answer", "Service", "list_agents"]

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_STOP_S = 5.0
_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one question.

    Attributes:
        ok: Whether it says that it serves.
        latency_ms: From the question to the answer.
        message: What is wrong; empty where nothing is.
        version: That it says it has; empty where it did not answer.
        final: Whether waiting will not help: its process ended, or it says that it cannot work.
    """

    ok: bool
    latency_ms: float
    message: str = ""
    version: str = ""
    final: bool = False


async def list_agents(release: Path) -> list[str]:
    """Names of the agents in a release.

    Raises:
        ValueError: The release cannot be loaded; the message has the end of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(release),
        env=_environment(release),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    finally:
        await _end(process)
    if process.returncode != 0:
        raise ValueError(err.decode(errors="replace")[-_TAIL_BYTES:].strip())
    return list(json.loads(out.decode().splitlines()[-1]))


class Service:
    """One agent of a release.

    Args:
        release: Folder of the release.
        name: Of the agent.
        folder: Its own, for its socket and its log; a short path, as that of a socket is.
    """

    def __init__(self, release: Path, name: str, folder: Path) -> None:
        self.name = name
        self._release = release
        self._folder = folder
        self._listen = f"unix:{folder / 'agent.sock'}"
        self._log = folder / "agent.log"
        self._token = secrets.token_hex(16)
        self._process: asyncio.subprocess.Process | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def start(self) -> None:
        """Start it; whether it serves is another question."""
        self._folder.mkdir()
        own = {
            "NOA_AGENT_LISTEN": self._listen,
            "NOA_AGENT_TOKEN": self._token,
            "NOA_AGENT_PROTOCOL": "1",
            "NOA_HOME": str(self._folder),  # what it keeps is its own, not that of those in use
        }
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_command(self._release),
                self.name,
                cwd=self._folder,
                env={**_environment(self._release), **own},
                # Its end is how an agent learns that whoever started it is gone.
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        options = (
            ("grpc.default_authority", "localhost"),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        )
        self._channel = grpc.aio.insecure_channel(self._listen, options=options)
        self._stub = pb_grpc.AgentServiceStub(self._channel)

    async def ask(self, timeout_s: float) -> Answer:
        """Ask for its health once."""
        began = time.perf_counter()
        try:
            metadata = (("authorization", f"Bearer {self._token}"),)
            health = await self._stub.Health(pb.HealthRequest(), metadata=metadata, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            ended = self._ended()
            why = ended or f"no answer: {error.details() or error.code().name}"
            return Answer(False, _since(began), why, final=bool(ended))
        status = pb.HealthStatus.Name(health.status).removeprefix("HEALTH_STATUS_")
        ok = health.status == pb.HEALTH_STATUS_SERVING
        message = "" if ok else f"it says {status}{': ' if health.message else ''}{health.message}"
        final = health.status == pb.HEALTH_STATUS_NOT_SERVING
        return Answer(ok, _since(began), message, health.manifest.version, final)

    async def stop(self) -> None:
        """End it and what it started."""
        if self._channel is not None:
            await self._channel.close()
        if self._process is None:
            return
        if self._running:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _STOP_S)
        await _end(self._process)

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def _ended(self) -> str:
        """That it is not there any more, with its last words; empty where it is."""
        if self._process is None or self._process.returncode is None:
            return ""
        said = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        return f"it ended with status {self._process.returncode}{': ' if said else ''}{said}"


def _command(release: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "noa_release_agents.serving", str(release)]


def _environment(release: Path) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "PYTHONPATH": str(release), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
