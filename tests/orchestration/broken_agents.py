"""Agents that break the contract on purpose: `python broken_agents.py BEHAVIOUR`.

The behaviour says how the process starts; the action of an execution says what the work does.
"""

from __future__ import annotations

import asyncio
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
CAPACITY = int(os.environ.get("TEST_CAPACITY", "0"))


def accepted(joined: bool = False) -> pb.ExecuteResponse:
    return pb.ExecuteResponse(accepted=pb.Accepted(joined=joined))


def completed(data: bytes = b"{}") -> pb.ExecuteResponse:
    return pb.ExecuteResponse(completed=pb.Completed(output=Payload(inline=data)))


def failed(code: str, **fields: Any) -> pb.ExecuteResponse:
    return pb.ExecuteResponse(failed=pb.Failed(failure=Failure(code=code, message=f"{code} was asked for", **fields)))


class Service(pb_grpc.AgentServiceServicer):
    def __init__(self) -> None:
        self.cancelled: dict[str, asyncio.Event] = {}
        self.calls: dict[str, int] = {}
        self.released: list[str] = []

    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        if BEHAVIOUR == "unauthenticated":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        status = {
            "starting": pb.HEALTH_STATUS_STARTING,
            "not-serving": pb.HEALTH_STATUS_NOT_SERVING,
        }.get(BEHAVIOUR, pb.HEALTH_STATUS_SERVING)
        manifest = pb.Manifest(
            name="broken",
            language="python",
            version="1",
            protocol_versions=[2, 3] if BEHAVIOUR == "protocol" else [1],
            actions=[pb.Action(name="echo", idempotent=True)],
        )
        return pb.HealthResponse(status=status, message="loading the model", manifest=manifest, capacity=CAPACITY)

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> AsyncIterator[pb.ExecuteResponse]:  # noqa: N802, PLR0915
        key = request.execution_id
        number = self.calls[key] = self.calls.get(key, 0) + 1
        cancelled = self.cancelled.setdefault(key, asyncio.Event())
        action = request.action
        if action.startswith("status-"):
            await context.abort(grpc.StatusCode[action.removeprefix("status-")], "as asked")
        yield accepted(number > 1)
        if action == "echo":
            yield completed(request.input.inline or b"{}")
        elif action == "two":
            yield completed(b'{"n": 1}')
            yield completed(b'{"n": 2}')
        elif action == "lingers":
            yield completed(b'{"n": 1}')
            await asyncio.Event().wait()
        elif action == "none":
            return
        elif action == "garbage":
            yield completed(b'{"n": 1, oops')
        elif action == "array":
            yield completed(b"[1, 2]")
        elif action == "big":
            yield completed(b'{"x": "' + b"x" * (5 * 1024 * 1024) + b'"}')
        elif action == "flood":
            for index in range(20_000):
                yield pb.ExecuteResponse(progress=pb.Progress(fraction=index / 20_000, done=index))
            yield pb.ExecuteResponse(progress=pb.Progress(fraction=1.0, done=20_000))
            yield completed()
        elif action == "observe":
            yield pb.ExecuteResponse(heartbeat=pb.Heartbeat())
            yield pb.ExecuteResponse(log=pb.Log(level=pb.LOG_LEVEL_WARNING, message="careful"))
            yield pb.ExecuteResponse(output=pb.OutputChunk(data=b"piece"))
            yield completed()
        elif action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "exit":
            print("the disk is on fire", file=sys.stderr, flush=True)
            os._exit(7)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "hang":
            await asyncio.Event().wait()
        elif action == "hang aloud":
            yield pb.ExecuteResponse(log=pb.Log(level=pb.LOG_LEVEL_INFO, message="hanging"))
            await asyncio.Event().wait()
        elif action == "slow":
            await cancelled.wait()
            yield failed("CANCELLED")
        elif action == "beats":
            while True:
                yield pb.ExecuteResponse(heartbeat=pb.Heartbeat())
                await asyncio.sleep(0.02)
        elif action == "overloaded":
            if number < 3:
                answer = failed("OVERLOADED", retryable=True)
                answer.failed.failure.retry_after.FromMilliseconds(20)
                yield answer
            else:
                yield completed(b'{"calls": %d}' % number)
        elif action == "always-overloaded":
            yield failed("OVERLOADED", retryable=True)
        elif action == "drops":
            if number == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream broke")
            yield completed(b'{"calls": %d}' % number)
        elif action == "drops-always":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream broke")
        elif action == "child":
            child = subprocess.Popen(["sleep", "1000"])
            yield completed(b'{"pid": %d}' % child.pid)
        elif action == "pid":
            yield completed(b'{"pid": %d}' % os.getpid())
        elif action == "environment":
            names = ",".join(f'"{name}"' for name in sorted(os.environ))
            yield completed(f'{{"names": [{names}]}}'.encode())
        elif action == "released":
            names = ",".join(f'"{name}"' for name in self.released)
            yield completed(f'{{"runs": [{names}]}}'.encode())
        else:
            yield failed("UNKNOWN_ACTION")

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        if BEHAVIOUR == "ignores-cancel":
            await asyncio.Event().wait()
        if request.run_id:
            self.released.append(request.run_id)
        event = self.cancelled.get(request.execution_id)
        if event is not None:
            event.set()
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)


class Token(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)
        assert metadata.get("authorization") == f"Bearer {os.environ['NOA_AGENT_TOKEN']}"
        return await continuation(details)


def end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


async def main() -> None:
    listen = os.environ["NOA_AGENT_LISTEN"]
    server = grpc.aio.server(interceptors=[Token()], options=[("grpc.max_send_message_length", -1)])
    pb_grpc.add_AgentServiceServicer_to_server(Service(), server)
    server.add_insecure_port(listen)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    if BEHAVIOUR == "exit":
        sys.exit("cannot open the model")
    if BEHAVIOUR == "exit-64":
        print("this agent speaks protocol 2, NOA_AGENT_PROTOCOL is 1", file=sys.stderr)
        sys.exit(64)
    if BEHAVIOUR == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    if BEHAVIOUR == "mute":
        threading.Event().wait()
    print("listening", flush=True)
    asyncio.run(main())
