"""Programs that are no agents at all, for the checker to survive: `python wild_agents.py BEHAVIOUR`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc

LISTEN = os.environ["NOA_AGENT_LISTEN"]


def wait_for_ever() -> NoReturn:
    """Until it is killed; nothing else ends it."""
    while True:
        signal.pause()


def be_deaf() -> None:
    """Take no signal that can be refused."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def never_listens() -> None:
    """Lives, leaves children in sessions of their own, and does not listen."""
    be_deaf()
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    wait_for_ever()


def exits() -> None:
    """Ends at once with a word about it."""
    print("the model file is not there", file=sys.stderr)
    sys.exit(3)


def listening() -> socket.socket:
    """A raw socket where the agent should listen."""
    if LISTEN.startswith("unix:"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(LISTEN.removeprefix("unix:"))
    else:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        host, _, port = LISTEN.rpartition(":")
        made.bind((host, int(port)))
    made.listen()
    return made


def answers_every_connection(answer: Callable[[socket.socket], None]) -> NoReturn:
    """Do this with each connection, for ever."""
    be_deaf()
    server = listening()
    while True:
        connection, _ = server.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def speaks_http_1() -> None:
    """A web server of the last century listens on the socket."""

    def answer(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    answers_every_connection(answer)


def says_nothing() -> None:
    """Connections are taken, and nothing is ever said."""
    held: list[socket.socket] = []
    answers_every_connection(held.append)


class Handler(grpc.GenericRpcHandler):
    """Answers every method alike."""

    def __init__(self, answer: Callable[[Any, Any], Any]) -> None:
        self.answer = answer

    def service(self, handler_call_details: Any) -> Any:
        """One handler for unary and streaming answers."""
        if handler_call_details.method.endswith("/Execute"):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([self.answer(request, context)]))
        return grpc.unary_unary_rpc_method_handler(self.answer)


def serve(handler: grpc.GenericRpcHandler | pb_grpc.AgentServiceServicer) -> NoReturn:
    """A gRPC server that does not end by itself."""
    be_deaf()
    server = grpc.server(futures.ThreadPoolExecutor(64))
    if isinstance(handler, pb_grpc.AgentServiceServicer):
        pb_grpc.add_AgentServiceServicer_to_server(handler, server)
    else:
        server.add_generic_rpc_handlers([handler])
    server.add_insecure_port(LISTEN)
    server.start()
    wait_for_ever()


def hangs() -> None:
    """Every call is taken and none is answered."""
    serve(Handler(lambda request, context: threading.Event().wait()))


def garbles() -> None:
    """Every answer is bytes that are no message."""
    serve(Handler(lambda request, context: b"\xff\xff\xff\xff no message"))


class Endless(pb_grpc.AgentServiceServicer):
    """Health is well, and every execution says that it works, as fast as it can, without end."""

    def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        """All is well."""
        manifest = pb.Manifest(name="endless", language="python", version="1", protocol_versions=[1])
        action = manifest.actions.add(name="echo")
        action.input_schema.update({"type": "object", "properties": {"sleep_s": {"type": "number"}}})
        return pb.HealthResponse(status=pb.HEALTH_STATUS_SERVING, manifest=manifest)

    def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        """Finds nothing."""
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)

    def Execute(self, request: pb.ExecuteRequest, context: Any) -> Iterator[pb.ExecuteResponse]:  # noqa: N802
        """Never comes to an end."""
        yield pb.ExecuteResponse(accepted=pb.Accepted())
        while context.is_active():
            yield pb.ExecuteResponse(heartbeat=pb.Heartbeat())


def endless() -> None:
    """Streams that never end."""
    serve(Endless())


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (never_listens, exits, speaks_http_1, says_nothing, hangs, garbles, endless)
}

if __name__ == "__main__":
    BEHAVIOURS[sys.argv[1]]()
