"""How the reference agent listens, says how it is, and ends: everything but Execute and Cancel."""

from __future__ import annotations

import asyncio
import hmac
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc

from .actions import Actions
from .executions import Executions
from .payloads import Payloads

__all__ = ["SERVICES", "Serving"]

SERVICES = ("", "noa.agent.v1.AgentService")
MESSAGE_LIMIT = 4 << 20


class Serving(pb_grpc.AgentServiceServicer):
    """An agent without its work: it listens, says how it is, and ends.

    Args:
        listen: As in NOA_AGENT_LISTEN.
        token: As in NOA_AGENT_TOKEN.
        payloads: What reads inputs and writes outputs.
        work: What does the work.
        executions: What knows the executions.

    Attributes:
        load_s: How long it prepares before it serves.
        capacity: Executions at once; 0 means no limit.
        message_limit: Bytes of a message that it takes.
    """

    load_s = 0.0
    capacity = 64
    message_limit = MESSAGE_LIMIT

    def __init__(self, listen: str, token: str, *, payloads: Payloads, work: Actions, executions: Executions) -> None:
        self.listen = listen
        self.token = token
        self.payloads = payloads
        self.work = work
        self.executions = executions
        self.probes = health.aio.HealthServicer()
        self.loaded = False
        self.draining = False
        self.exit_status: asyncio.Future[int]

    # --- from launch to exit

    async def serve(self) -> int:
        """Serve until told to end, and return the exit status."""
        loop = asyncio.get_running_loop()
        self.exit_status = loop.create_future()
        self.server = grpc.aio.server(options=self.options())
        pb_grpc.add_AgentServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.probes, self.server)
        await self.tell_probes()
        self.server.add_insecure_port(self.address())
        self.watch_signals(loop)
        await self.server.start()
        threading.Thread(target=self.watch_stdin, args=(loop,), daemon=True).start()
        loading = asyncio.create_task(self.load())
        status = await self.exit_status
        loading.cancel()
        return status

    def address(self) -> str:
        """Where to listen."""
        return self.listen

    def options(self) -> list[tuple[str, Any]]:
        """Limits of messages, and patience with keepalive pings."""
        return [
            ("grpc.max_receive_message_length", self.message_limit),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
        ]

    async def load(self) -> None:
        """Prepare, and serve from then on."""
        await asyncio.sleep(self.load_s)
        self.loaded = True
        await self.tell_probes()

    def watch_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGTERM drains, the second one ends; SIGINT is not for agents."""
        loop.add_signal_handler(signal.SIGTERM, self.on_sigterm)
        loop.add_signal_handler(signal.SIGINT, self.on_sigint)

    def on_sigint(self) -> None:
        """Nothing: the engine decides."""

    def on_sigterm(self) -> None:
        """Drain, or end at once where it drains already."""
        if self.draining:
            self.on_second_sigterm()
        else:
            self.drain_task = asyncio.create_task(self.drain())

    def on_second_sigterm(self) -> None:
        """End at once."""
        self.quit(128 + signal.SIGTERM)

    async def drain(self) -> None:
        """Let what runs end, take nothing new, then go."""
        self.draining = True
        await self.tell_probes()
        idle = not self.executions.active
        for execution in list(self.executions.active.values()):
            await execution.ended.wait()
        await self.server.stop(2)
        self.clear()
        self.exit_status.set_result(self.status_after_drain(idle))

    def status_after_drain(self, idle: bool) -> int:
        """The exit status after SIGTERM; `idle` says that there was nothing to wait for."""
        return 0

    def watch_stdin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait in a thread until the engine is gone."""
        while os.read(sys.stdin.fileno(), 4096):
            pass
        loop.call_soon_threadsafe(self.on_stdin_end)

    def on_stdin_end(self) -> None:
        """The engine is gone: so shall this."""
        self.quit(0)

    def quit(self, status: int) -> NoReturn:
        """End at once, with all that was started."""
        self.clear()
        sys.stderr.flush()
        os._exit(status)

    def clear(self) -> None:
        """Leave no process and no half-written file behind."""
        self.work.release_all()
        self.payloads.remove_temporary()

    # --- every call

    async def authenticate(self, request: Any, context: Any) -> None:
        """Refuse who does not know the token."""
        given = dict(context.invocation_metadata()).get("authorization")
        if not self.is_authentic(given):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "metadata authorization: Bearer TOKEN is required")

    def is_authentic(self, given: str | None) -> bool:
        """Whether the metadata is right, compared in constant time."""
        return hmac.compare_digest((given or "").encode(), f"Bearer {self.token}".encode())

    # --- Health

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        """Who this is, and whether it can take work."""
        await self.authenticate(request, context)
        return await self.health()

    async def health(self) -> pb.HealthResponse:
        """The answer."""
        return pb.HealthResponse(
            status=self.status(),
            message="loading" if not self.loaded else "",
            manifest=self.manifest(),
            capacity=self.capacity,
            in_flight=self.in_flight(),
        )

    def status(self) -> pb.HealthStatus.ValueType:
        """Whether it can take work."""
        if self.draining:
            return pb.HEALTH_STATUS_DRAINING
        return pb.HEALTH_STATUS_SERVING if self.loaded else pb.HEALTH_STATUS_STARTING

    def in_flight(self) -> int:
        """Executions that go on."""
        return len(self.executions.active)

    def manifest(self) -> pb.Manifest:
        """Who this is."""
        actions = [action.message() for action in self.work.actions.values()]
        return pb.Manifest(name="reference", language="python", version="1", protocol_versions=[1], actions=actions)

    def probes_status(self) -> Any:
        """What stock probes are told: the same as Health says."""
        if self.status() == pb.HEALTH_STATUS_SERVING:
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING

    def probes_services(self) -> tuple[str, ...]:
        """The names that stock probes may ask for."""
        return SERVICES

    async def tell_probes(self) -> None:
        """Have stock probes told what Health says now."""
        for service in self.probes_services():
            await self.probes.set(service, self.probes_status())
