"""Agents that abuse the engine: `python abusive_agent.py BEHAVIOUR`.

The behaviour is what the process and its Health do; the action of an execution is what its stream does.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc
from noa.agent.v1.failure_pb2 import Failure
from noa.agent.v1.payload_pb2 import Payload

BEHAVIOUR = sys.argv[1] if len(sys.argv) > 1 else "ok"
ANNOUNCED = int(os.environ.get("TEST_ANNOUNCED", "0"))
"""What it says that it takes at once."""
REAL = int(os.environ.get("TEST_REAL", "0"))
"""What it takes at once; 0 is all."""

OUTPUTS = {
    "bad-utf-8": b'{"text": "\xff\xfe"}',
    "half": b'{"a": [1, 2',
    "text": b"hello",
    "nothing": b"",
    "deep": b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "infinite": b'{"a": 1e999}',
    "surrogate": b'{"a": "\\ud800"}',
}


def completed(data: bytes = b"{}", **fields: Any) -> pb.ExecuteResponse:
    return pb.ExecuteResponse(completed=pb.Completed(output=Payload(inline=data, **fields)))


def answer(**outputs: Any) -> pb.ExecuteResponse:
    return completed(json.dumps(outputs).encode())


def failed(code: str, message: str = "as asked", **fields: Any) -> pb.ExecuteResponse:
    return pb.ExecuteResponse(failed=pb.Failed(failure=Failure(code=code, message=message, **fields)))


class Service(pb_grpc.AgentServiceServicer):
    def __init__(self) -> None:
        self.status = pb.HEALTH_STATUS_SERVING
        self.mute = BEHAVIOUR == "hangs-in-health"
        self.running: set[str] = set()
        self.kept: list[Any] = []
        self.told: dict[str, str] = {}
        self.cancelled: dict[str, asyncio.Event] = {}

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        if self.mute:
            await asyncio.Event().wait()
        manifest = pb.Manifest(name="abusive", language="python", version="1", protocol_versions=[1])
        return pb.HealthResponse(
            status=self.status, message="as asked", manifest=manifest, capacity=ANNOUNCED, in_flight=len(self.running)
        )

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> AsyncIterator[pb.ExecuteResponse]:  # noqa: N802
        if request.action != "no-accepted":
            yield pb.ExecuteResponse(accepted=pb.Accepted())
        if REAL and len(self.running) >= REAL:
            yield failed("OVERLOADED", retryable=True)
            return
        self.running.add(request.execution_id)
        try:
            async for message in self.act(request, context):
                yield message
        finally:
            # Work that ignores its client goes on without it.
            if request.action != "ignores-all":
                self.running.discard(request.execution_id)

    async def act(self, request: pb.ExecuteRequest, context: Any) -> AsyncIterator[pb.ExecuteResponse]:  # noqa: PLR0915
        inputs = json.loads(request.input.inline or b"{}")
        action, _, what = request.action.partition(":")
        cancelled = self.cancelled.setdefault(request.execution_id, asyncio.Event())
        if action == "echo":
            yield answer(**inputs)
        elif action == "pid":
            yield answer(pid=os.getpid())
        elif action == "sleep":
            await asyncio.sleep(inputs["seconds"])
            yield answer(**inputs)
        elif action in {"hang", "ignores-all"}:
            await asyncio.Event().wait()
        elif action == "no-accepted":
            yield answer()
        elif action == "status":
            yield pb.ExecuteResponse(progress=pb.Progress(fraction=0.5))
            await context.abort(grpc.StatusCode[what], "as asked")
        elif action == "output":
            yield completed(OUTPUTS[what])
        elif action == "content-type":
            yield completed(b"\x89PNG", content_type="image/png")
        elif action == "inline":
            yield completed(b'{"x": "' + b"x" * inputs["size"] + b'"}')
        elif action == "long-texts":
            text = "x" * 1_000_000
            yield pb.ExecuteResponse(log=pb.Log(message=text))
            yield pb.ExecuteResponse(progress=pb.Progress(message=text))
            yield failed("LONG", text)
        elif action == "late":
            # A result after it was told to end, and as if nothing had happened.
            await cancelled.wait()
            yield answer(late=True)
        elif action == "told":
            yield answer(told=self.told)
        elif action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "health":
            self.status = pb.HealthStatus.Value(f"HEALTH_STATUS_{what}")
            yield answer()
        elif action == "mute":
            self.mute = True
            yield answer()
        elif action == "leak":
            for _ in range(inputs["mebibytes"]):
                self.kept.append(os.urandom(1 << 20))
                await asyncio.sleep(0.001)
            await asyncio.Event().wait()
        elif action == "child-leak":
            text = f"import os, time; kept = os.urandom({inputs['mebibytes']} << 20); time.sleep(1000)"
            subprocess.Popen([sys.executable, "-c", text])
            await asyncio.Event().wait()
        elif action == "children":
            # One in the group of the agent, and a daemon: in a session of its own, its parent gone.
            child = subprocess.Popen(["sleep", "1000"])
            text = "import os, time; os.setsid(); print(os.getpid(), flush=True) if os.fork() == 0 else os._exit(0)"
            daemon = subprocess.Popen([sys.executable, "-c", f"{text}; time.sleep(1000)"], stdout=subprocess.PIPE)
            assert daemon.stdout is not None
            pid = int(await asyncio.to_thread(daemon.stdout.readline))
            await asyncio.to_thread(daemon.wait)
            yield answer(child=child.pid, daemon=pid)
        elif action == "stderr":
            line = b"a line of a flood that nobody will ever read " * 2 + b"\n"
            await asyncio.to_thread(write_all, line * 1000, inputs["bytes"])
            yield answer()
        else:
            yield failed("UNKNOWN_ACTION")

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        self.told[request.execution_id] = request.reason
        event = self.cancelled.get(request.execution_id)
        if event is not None:
            event.set()
        if request.execution_id in self.running:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_ALREADY_FINISHED)


def write_all(block: bytes, size: int) -> None:
    while size > 0:
        size -= os.write(2, block[:size])


def end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


async def main() -> None:
    if BEHAVIOUR == "late":
        await asyncio.sleep(1.0)
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    pb_grpc.add_AgentServiceServicer_to_server(Service(), server)
    server.add_insecure_port(os.environ["NOA_AGENT_LISTEN"])
    await server.start()
    if BEHAVIOUR == "dies-at-once":
        await asyncio.sleep(0.2)
        os._exit(3)
    await server.wait_for_termination()


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(main())
