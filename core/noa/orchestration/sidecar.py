"""The connection to an agent that is a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex

import grpc.aio

from noa.agent.v1 import agent_service_pb2 as pb
from noa.errors import AgentMismatchError, AgentStartError, NoaError
from noa.model.execution import Assignment, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId
from noa.orchestration.capture import OutputLog
from noa.orchestration.grpc_connection import GrpcConnection, channel_options
from noa.orchestration.launch import Listen, SidecarProcess, choose_listen, find_command, sidecar_environment
from noa.orchestration.sampling import memory_above
from noa.orchestration.wire import PROTOCOL_VERSION
from noa.plugin import AgentContext, AgentDeclaration, AgentHealth, Observe

__all__ = ["SidecarConnection"]

_EXIT_USAGE = 64
"""With it a sidecar says that it does not speak the engine's version of the contract."""

_POLL_FIRST_S = 0.01
_POLL_S = 0.05
_MEMORY_INTERVAL_S = 0.5
_EXIT_WAIT_S = 1.0
"""How long the end of a process that answers no more may stay unseen."""

_DEAF_WAIT_S = 2.0
"""After an execution was taken from an agent that had not ended it: how long until the agent is asked again."""


class SidecarConnection(GrpcConnection):
    """Launches a process, waits until Health says serving, watches it, and ends it with everything that it started."""

    def __init__(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> None:
        super().__init__(declaration, replica, context)
        self._process: SidecarProcess | None = None
        self._listen: Listen | None = None
        self._announced = 0
        self._deaf: set[ExecutionId] = set()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> AgentHealth:
        """Launch the process and wait until it serves.

        Raises:
            AgentStartError: It never served; nothing is left running. The message has its exit status and last lines.
        """
        try:
            process = await self._launch()
            if limit := self._declaration.resources.get("memory"):
                self._spawn(self._watch_memory(process, limit))
            ready = asyncio.get_running_loop().create_task(self._ready())
            try:
                await asyncio.wait([ready, process.exited], return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    await process.drained()
                    raise self._exited_early(process)
                health = await self._serving(ready, process)
            finally:
                ready.cancel()
                await asyncio.wait([ready])
        except BaseException:
            await self.close(grace_s=0.0)
            raise
        self._announced = health.capacity
        process.exited.add_done_callback(lambda _: self._spawn(self._exited(process)))
        self._watch()
        return health

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """Do the work, or join it; remembers what was taken from the agent before the agent had ended it."""
        execution = assignment.execution_id
        try:
            outcome = await super().execute(assignment, observe)
        except asyncio.CancelledError:
            self._left(execution)
            raise
        if isinstance(outcome, Failure) and outcome.code == "HEARTBEAT_TIMEOUT":
            self._left(execution)
        return outcome

    async def close(self, *, grace_s: float = 5.0) -> None:
        """End the process and its group: SIGTERM, the grace, SIGKILL. Idempotent."""
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            await process.end(grace_s)
        await super().close(grace_s=grace_s)
        if self._listen is not None:
            self._listen.remove()

    async def _launch(self) -> SidecarProcess:
        declaration, context = self._declaration, self._context
        command = find_command(declaration)
        if isinstance(command, str):
            raise AgentStartError(command, agent=self._name, permanent=True)
        label = f"{self._name}-{self._replica}"
        self._listen = choose_listen(context.runtime_dir, label, tcp=declaration.options.get("listen") == "tcp")
        token = secrets.token_urlsafe(32)
        env = sidecar_environment(declaration, os.environ) | {
            "NOA_AGENT_LISTEN": self._listen.address,
            "NOA_AGENT_TOKEN": token,
            "NOA_AGENT_PROTOCOL": str(PROTOCOL_VERSION),
        }
        output = OutputLog(context.log_dir / f"{label}.log", mask=context.mask)
        self._token = token
        launching = asyncio.get_running_loop().create_task(SidecarProcess.launch(command, env, declaration.cwd, output))
        try:
            self._process = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # Half-way it would leave a process behind: it goes on to its end, and `close` ends what it made.
            await asyncio.wait([launching])
            if launching.exception() is None:
                self._process = launching.result()
            raise
        return self._process

    async def _ready(self) -> AgentHealth:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._declaration.start_timeout_s
        assert self._listen is not None
        path, pause_s = self._listen.path, _POLL_FIRST_S
        while path is not None and not path.exists():
            if loop.time() > deadline:
                address = self._listen.address
                raise AgentStartError(f"agent '{self._name}' did not listen on NOA_AGENT_LISTEN={address}")
            await asyncio.sleep(pause_s)
            pause_s = min(_POLL_S, pause_s * 1.5)
        if path is not None:
            # Its folder keeps others out already, whatever the umask was with which the agent made it.
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        # For a unix socket grpc would send the path, percent-encoded, as the authority: strict servers refuse it.
        # The window does not grow on this machine: the backlog of an agent that floods its stream stays small, so that
        # its result is not seconds behind.
        options = channel_options(("grpc.default_authority", "localhost"), ("grpc.http2.bdp_probe", 0))
        self._open(grpc.aio.insecure_channel(self._listen.address, options=options), self._token)
        return await self._until_serving(deadline, deadline)

    async def _serving(self, ready: asyncio.Task[AgentHealth], process: SidecarProcess) -> AgentHealth:
        """The health that was waited for, or why there is none, with what the process printed."""
        try:
            return await ready
        except AgentStartError as error:
            limit_s = self._declaration.start_timeout_s
            advice = (
                ""
                if isinstance(error, AgentMismatchError)
                else (f". It has {limit_s:g} s to say SERVING (start_timeout_s). {process.output.describe()}")
            )
            raise type(error)(f"{error.message}{advice}", **error.parts) from error
        except NoaError as error:
            raise type(error)(f"{error.message}. {process.output.describe()}", **error.parts) from error

    def _exited_early(self, process: SidecarProcess) -> AgentStartError:
        lines = process.output.last_lines()
        text = f"{process.describe_exit()} before it was ready. {process.output.describe()}"
        if process.exited.result() == _EXIT_USAGE and any("protocol" in line.lower() for line in lines):
            return AgentMismatchError(
                f"agent '{self._name}' does not speak protocol {PROTOCOL_VERSION} of the agent contract: it {text}",
                agent=self._name,
                permanent=True,
            )
        by_hand = shlex.join(self._declaration.command)
        return AgentStartError(
            f"agent '{self._name}' {text}\nTo see it by hand: NOA_AGENT_LISTEN=127.0.0.1:50051 NOA_AGENT_TOKEN=x "
            f"NOA_AGENT_PROTOCOL={PROTOCOL_VERSION} {by_hand}",
            agent=self._name,
            exit_status=process.exited.result(),
        )

    async def _watch_memory(self, process: SidecarProcess, limit: float) -> None:
        """End an agent that takes more memory than it was declared with."""
        while not process.exited.done():
            used = await asyncio.to_thread(memory_above, process.pid, limit)
            if used:
                process.kill(
                    f"its memory of {_mebibytes(used)} is above its limit of {_mebibytes(limit)} (resources.memory)"
                )
                return
            await asyncio.sleep(_MEMORY_INTERVAL_S)

    def _left(self, execution: ExecutionId) -> None:
        """An execution was taken from the agent; where it ignores Cancel, a slot of it is lost."""
        if self._announced and not self._closed and self._lost is None:
            self._deaf.add(execution)
            if len(self._deaf) >= self._announced:
                self._spawn(self._count_deaf())

    async def _count_deaf(self) -> None:
        """Lose an agent whose every slot is taken by executions that ignore Cancel: it would never work again."""
        await asyncio.sleep(_DEAF_WAIT_S)
        answers = await asyncio.gather(*(self._has_ended(execution) for execution in self._deaf))
        self._deaf -= {execution for execution, ended in answers if ended}
        if self._deaf and len(self._deaf) >= self._announced:
            some = ", ".join(sorted(self._deaf)[:3])
            self._lose(f"all its {self._announced} slots are taken by executions that ignore Cancel ({some})")

    async def _has_ended(self, execution: ExecutionId) -> tuple[ExecutionId, bool]:
        try:
            answer = await self._stub.Cancel(
                pb.CancelRequest(execution_id=execution, reason="nobody waits for it"),
                metadata=self._metadata,
                timeout=_DEAF_WAIT_S,
            )
        except grpc.aio.AioRpcError:
            return execution, False
        return execution, answer.outcome != pb.CANCEL_OUTCOME_CANCELLED

    async def _exited(self, process: SidecarProcess) -> None:
        await process.drained()
        self._lose(f"its process {process.describe_exit()}. {process.output.describe()}")

    async def _alive(self) -> bool:
        process = self._process
        if process is None:
            return False
        # A stream breaks a moment before the end of its process is seen.
        await asyncio.wait([process.exited], timeout=0.05)
        if not process.exited.done():
            if await super()._alive():
                return True
            await asyncio.wait([process.exited], timeout=_EXIT_WAIT_S)
        if process.exited.done():
            await process.drained()
            self._lose(f"its process {process.describe_exit()}. {process.output.describe()}")
        return False


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
