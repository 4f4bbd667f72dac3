"""What cases work on: the agent's processes, launched when they are needed and used again where that is right."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio

from noa.agent.v1 import agent_service_pb2 as pb
from noa.errors import UsageError
from noa.testing.conformance.case import Unreachable, Violation
from noa.testing.conformance.client import Client
from noa.testing.conformance.process import AgentProcess
from noa.testing.conformance.target import Target

__all__ = ["LISTEN_S", "SLACK_S", "Bench"]

LISTEN_S = 10.0
"""How long an agent may take until it listens."""

SLACK_S = 1.0
"""Added to each limit of the contract, because the machine may be busy."""

_POLL_S = 0.02
_LOOPBACK = ("unix:", "127.0.0.1:", "localhost:", "[::1]:")
_OPTIONS = (
    # A case must be able to break the limits that the agent has to keep.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)


class Bench:
    """The agent that is checked.

    One process serves all cases that leave it as it was. It is thrown away after a case that failed, and launched anew
    when the next one needs it. Where the agent does not listen on a unix socket, cases go over TCP.

    Args:
        target: The agent.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.unreachable = ""
        """Why no further case can be tried; empty as long as the agent can be reached."""
        self._shared: Client | None = None
        self._tcp = False
        self._processes: list[AgentProcess] = []
        self._folder: Path | None = None

    async def client(self) -> Client:
        """A client of the process that cases share; it serves.

        Raises:
            Unreachable: It cannot be launched or dialled, or does not serve in time.
        """
        if self._shared is not None and self._shared.process is not None and self._shared.process.status is not None:
            await self.discard()
        if self._shared is None:
            if self.unreachable:
                raise Unreachable(self.unreachable)
            try:
                self._shared = await self._reach()
            except Unreachable as error:
                self.unreachable = str(error)
                raise
        return self._shared

    async def _reach(self) -> Client:
        if not self.target.command:
            return await self._dial()
        if not self._tcp:
            try:
                return await self.start()
            except Unreachable as error:
                first = error
                self._tcp = True
            try:
                return await self.start()
            except Unreachable:
                raise first from None
        return await self.start()

    async def unix(self) -> None:
        """Let the shared process be one that listens on a unix socket, launched now or before.

        Raises:
            Unreachable: It does not; further cases go over TCP.
        """
        shared = self._shared
        if shared is not None and shared.process is not None and shared.process.socket is not None:
            return
        await self.discard()
        try:
            self._shared = await self.start(tcp=False)
        except Unreachable:
            self._tcp = True
            raise

    async def start(
        self, *, tcp: bool | None = None, serving: bool = True, env: Mapping[str, str | None] | None = None
    ) -> Client:
        """Launch a process and wait until it listens, and then until it serves.

        Args:
            tcp: Whether over TCP; None is what is known to work.
            serving: Whether to wait until Health says SERVING, or until it says anything.
            env: Changes to the variables of the contract.

        Raises:
            Unreachable: It does not listen or serve in time, or ends.
        """
        process = self.launch(tcp=self._tcp if tcp is None else tcp, env=env)
        client = Client(self._channel(process), process.token, process.folder, self.target.step_timeout_s, process)
        try:
            await self._wait_listening(process)
            await self._wait_status(client, serving=serving)
        except Violation as error:
            await self.end(client)
            raise Unreachable(str(error)) from error
        except BaseException:
            await self.end(client)
            raise
        return client

    def launch(self, *, tcp: bool = False, env: Mapping[str, str | None] | None = None) -> AgentProcess:
        """Launch a process and wait for nothing.

        Raises:
            UsageError: The command cannot be executed.
        """
        try:
            process = AgentProcess(self.target, tcp=tcp, env=env)
        except OSError as error:
            raise UsageError(f"the agent's command '{self.target.name}' cannot be executed: {error}") from error
        self._processes.append(process)
        return process

    @asynccontextmanager
    async def fresh(
        self, *, tcp: bool | None = None, serving: bool = True
    ) -> AsyncIterator[tuple[Client, AgentProcess]]:
        """A client of a process that the case may end, and the process."""
        client = await self.start(tcp=tcp, serving=serving)
        assert client.process is not None
        try:
            yield client, client.process
        finally:
            await self.end(client)

    async def end(self, client: Client) -> None:
        """End a process and what it started."""
        await client.close()
        if client.process is not None:
            self.end_process(client.process)

    def end_process(self, process: AgentProcess) -> None:
        """End a process and what it started."""
        process.end()
        if process in self._processes:
            self._processes.remove(process)

    async def discard(self) -> None:
        """Throw the shared process away; the next case gets a new one."""
        client, self._shared = self._shared, None
        if client is not None:
            await self.end(client)

    async def missing(self, needs: Iterable[str]) -> str:
        """Why a case with these needs does not apply; empty where everything is there.

        Raises:
            Violation: The agent cannot be asked.
        """
        for need in needs:
            if need == "command" and not self.target.command:
                return "the agent was not launched by the checker; give its command instead of its address"
            if need == "files" and not self.target.command and not self.target.address.startswith(_LOOPBACK):
                return "the agent may run on another machine, so that it cannot reach the checker's files"
            if need not in {"command", "files"} and (lack := self.lacks(await self.client(), need)):
                return lack
        return ""

    def lacks(self, client: Client, need: str) -> str:
        """Why the agent has not "work", "echo" or a field such as "echo.child"; empty where it has."""
        echo = client.action("echo")
        if need == "work":
            if client.action(client.work_action) is not None:
                return ""
            if client.work_action != "echo":
                return f"the agent has no action '{client.work_action}'"
            return "the agent has no action 'echo', and no other action was named (--action NAME --input JSON)"
        if echo is None:
            return "the agent has no action 'echo'"
        _, _, field = need.partition(".")
        if field and field not in client.schema("echo").get("properties", {}):
            return f"the agent's action 'echo' announces no field '{field}' in its input schema"
        return ""

    @property
    def agent(self) -> str:
        """Who the shared process says it is; empty where there is none."""
        if self._shared is None:
            return ""
        manifest = self._shared.manifest
        return f"{manifest.name} {manifest.version} ({manifest.language})"

    async def tidy(self, *, failed: bool) -> None:
        """End what a case left going; after a failed one the shared process is thrown away."""
        client = self._shared
        if client is None:
            return
        if failed and client.process is not None:
            await self.discard()
            return
        try:
            await client.end_case()
        except Violation:
            if client.process is not None:
                await self.discard()
                return
        client.begin_case()

    async def obituary(self, *, expected: bool) -> str:
        """How the shared process has ended, where it has, for a message.

        Args:
            expected: Whether a connection broke, so that the end is waited for a moment.
        """
        process = self._shared.process if self._shared is not None else None
        status = await process.wait_exit(SLACK_S if expected else 0) if process is not None else None
        if process is None or status is None:
            return ""
        return f"The agent's process had ended with status {status}. {process.last_lines()}".strip()

    async def close(self) -> None:
        """End every process."""
        try:
            await self.discard()
        finally:
            for process in list(self._processes):
                self.end_process(process)
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    # --- reaching it -------------------------------------------------------------------------------------------

    async def _dial(self) -> Client:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="noa-"))
        target = self.target
        options: list[tuple[str, str | int]] = list(_OPTIONS)
        if target.server_name:
            options.append(("grpc.ssl_target_name_override", target.server_name))
        if target.ca_file or target.cert_file:
            credentials = grpc.ssl_channel_credentials(
                _read(target.ca_file), private_key=_read(target.key_file), certificate_chain=_read(target.cert_file)
            )
            channel = grpc.aio.secure_channel(target.address, credentials, options=options)
        else:
            if target.address.startswith("unix:"):
                options.append(("grpc.default_authority", "localhost"))
            channel = grpc.aio.insecure_channel(target.address, options=options)
        client = Client(channel, target.token, self._folder, target.step_timeout_s, None)
        try:
            await self._wait_status(client, serving=True)
        except Violation as error:
            await client.close()
            raise Unreachable(f"{error}; the address is {target.address}") from error
        except BaseException:
            await client.close()
            raise
        return client

    def _channel(self, process: AgentProcess) -> grpc.aio.Channel:
        options = (*_OPTIONS, ("grpc.default_authority", "localhost"))
        return grpc.aio.insecure_channel(process.listen, options=options)

    async def _wait_listening(self, process: AgentProcess) -> None:
        end_s = time.monotonic() + LISTEN_S + SLACK_S
        while not await _accepts(process):
            if process.status is not None:
                raise Violation(
                    f"the agent's process ended with status {process.status} before it listened on "
                    f"NOA_AGENT_LISTEN={process.listen}. {process.last_lines()}".rstrip()
                )
            if time.monotonic() > end_s:
                raise Violation(
                    f"the agent did not listen on NOA_AGENT_LISTEN={process.listen} within {LISTEN_S:g} s. "
                    f"{process.last_lines()}".rstrip()
                )
            await asyncio.sleep(_POLL_S)

    async def _wait_status(self, client: Client, *, serving: bool) -> None:
        """Wait until it serves, and note who it is."""
        end_s = time.monotonic() + self.target.start_timeout_s
        request = client.stub.Health(pb.HealthRequest(), metadata=client.metadata, wait_for_ready=True)
        health = await client.answer("Health", request)
        while serving and health.status != pb.HEALTH_STATUS_SERVING:
            status = pb.HealthStatus.Name(health.status) if health.status in pb.HealthStatus.values() else health.status
            if health.status == pb.HEALTH_STATUS_NOT_SERVING:
                raise Violation(f"Health says {status}: {health.message or 'without a message'}")
            if time.monotonic() > end_s:
                limit_s = self.target.start_timeout_s
                raise Violation(f"Health still said {status}, not SERVING, {limit_s:g} s after the agent listened")
            if client.process is not None and client.process.status is not None:
                raise Violation(
                    f"the agent's process ended with status {client.process.status} while Health said {status}. "
                    f"{client.process.last_lines()}".rstrip()
                )
            await asyncio.sleep(_POLL_S)
            health = await client.health()
        client.manifest, client.capacity = health.manifest, health.capacity
        known = [action.name for action in client.manifest.actions]
        for name in self.target.actions:
            if name not in known:
                raise UsageError(f"the agent has no action '{name}'. It has: {', '.join(known) or 'none'}")
        for name, inputs in self.target.actions.items():
            client.work_action, client.work_input = name, inputs
            break


async def _accepts(process: AgentProcess) -> bool:
    """Whether somebody listens where the process was told to."""
    try:
        if process.socket is not None:
            _, writer = await asyncio.open_unix_connection(str(process.socket))
        else:
            host, _, port = process.listen.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _read(path: str | None) -> bytes | None:
    """The bytes of a file of TLS.

    Raises:
        UsageError: It cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the file {path} cannot be read: {error.strerror}") from error
