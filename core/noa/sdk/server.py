"""A sidecar process around an agent object: listens, serves the contract, and ends when the engine does."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2_grpc
from noa.sdk.agent import Agent
from noa.sdk.launch import EXIT_TERMINATED, EXIT_USAGE, Launch, LaunchError, end_children, leave, watch_stdin
from noa.sdk.runner import ActionRunner
from noa.sdk.service import AgentService
from noa.sdk.workshop import Workshop

__all__ = ["Sidecar", "actions_for_testing", "prepare_process", "serve"]

log = logging.getLogger("noa.sdk")
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
_SERVICE = "noa.agent.v1.AgentService"
_SWITCH_INTERVAL_S = 0.001
_LAST_WORDS_S = 1.0
_STREAMS_END_S = 2.0
_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    # Pings of one in 10 s are the engine's right; the default complains about more than one in 5 minutes.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


def serve(agent: Agent, *, environment: Mapping[str, str] | None = None) -> int:
    """Serve an agent until the engine ends it. Call it from the main thread of a process of its own.

    Args:
        agent: The agent object.
        environment: Where the NOA_AGENT_* variables stand; None is the process's.

    Returns:
        Exit status: 0 after a drain, 64 where the environment is not the contract's, 1 where it cannot listen. A second
        SIGTERM ends the process with 143 instead.

    Raises:
        PluginError: The agent is declared wrongly.
    """
    prepare_process()
    variables = os.environ if environment is None else environment
    try:
        launch = Launch.from_environment(variables)
    except LaunchError as error:
        print(f"noa agent {agent.name}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - asked for by the contract
        return EXIT_USAGE
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workshop = Workshop(ActionRunner(agent, also=actions_for_testing(variables)))
    workshop.start()
    watch_stdin(lambda: _abandoned(workshop))
    return asyncio.run(Sidecar(workshop, launch).run())


def actions_for_testing(environment: Mapping[str, str]) -> list[Agent]:
    """Who has the action that the contract prescribes for testing, where it is asked for."""
    if environment.get("NOA_AGENT_CONFORMANCE") != "1":
        return []
    from noa.sdk.echo import Echo  # nobody else needs it

    return [Echo()]


def prepare_process() -> None:
    """Set up what belongs to the whole process: logging to stderr, and how threads take turns."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # Actions that burn the processor give way sooner, so that Health answers within 100 ms beside several of them.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


class Sidecar:
    """The serving side of an agent's process, until it is told to end.

    Args:
        workshop: Where the actions run; started.
        launch: Where to listen, and the token.
    """

    streams_end_s = _STREAMS_END_S
    """How long clients may take to read the ends of their streams, after the work has ended."""

    def __init__(self, workshop: Workshop, launch: Launch) -> None:
        self._workshop = workshop
        self._launch = launch
        self._service = AgentService(workshop, launch.token)
        self._probes = health.aio.HealthServicer()
        self._terminated = asyncio.Event()

    def listen(self, server: grpc.aio.Server) -> None:
        """Give the server its port. Raises RuntimeError where it cannot be had."""
        server.add_insecure_port(self._launch.listen)

    async def linger(self) -> None:
        """Wait as long as a drain takes at the least."""

    async def run(self) -> int:
        """Serve until `terminate`, then drain; the exit status."""
        server = grpc.aio.server(options=_OPTIONS)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._probes, server)
        try:
            self.listen(server)
        except RuntimeError as error:
            print(f"cannot listen on {self._launch.listen}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            return 1
        await self._show_health()
        await server.start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.terminate)
        loading = asyncio.create_task(self._load())
        await self._terminated.wait()
        loading.cancel()
        await asyncio.gather(self._service.table.wait_idle(), self.linger())
        await server.stop(self.streams_end_s)
        end_children()
        return 0

    async def _load(self) -> None:
        await self._workshop.call(self._workshop.runner.load())
        await self._show_health()

    def terminate(self) -> None:
        """Drain and end; the second time at once."""
        if self._terminated.is_set():
            end_children()
            leave(EXIT_TERMINATED)
        self._service.draining = True
        self._terminated.set()
        self._draining = asyncio.ensure_future(self._show_health())

    async def _show_health(self) -> None:
        serving = self._service.status == "serving"
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", _SERVICE):
            await self._probes.set(name, status)


def _abandoned(workshop: Workshop) -> None:
    """The engine is gone: let the actions clean up for a moment, then end with everything they started."""
    guard = threading.Timer(_LAST_WORDS_S + 0.5, leave, (0,))
    guard.daemon = True
    guard.start()
    workshop.cancel_all_and_wait(_LAST_WORDS_S, "the engine is gone")
    end_children()
    leave(0)
