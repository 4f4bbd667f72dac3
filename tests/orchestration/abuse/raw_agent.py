"""An agent that speaks HTTP/2 with its own hands, and so can do what no gRPC library lets a server do.

`python raw_agent.py`: the action of an execution says what happens to its stream or its connection. Requests are told
apart by their bodies, so headers need not be decoded; a token is not asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import threading
import time
from collections import defaultdict

from google.protobuf.message import DecodeError

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1.payload_pb2 import Payload

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE_BYTES = 24
FRAME_BYTES = 16_384
RESPONSE = b"\x88" + b"\x0f\x10\x10application/grpc"  # :status 200, content-type
TRAILERS = b"\x00\x0bgrpc-status\x010"


def framed(message: pb.ExecuteResponse | pb.HealthResponse | pb.CancelResponse) -> bytes:
    """A message with gRPC's five bytes before it."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


ACCEPTED = framed(pb.ExecuteResponse(accepted=pb.Accepted()))
HEALTH = framed(
    pb.HealthResponse(
        status=pb.HEALTH_STATUS_SERVING,
        manifest=pb.Manifest(name="raw", language="python", version="1", protocol_versions=[1]),
    )
)
FLOODS = {
    "flood-progress": pb.ExecuteResponse(progress=pb.Progress(fraction=0.5, done=7)),
    "flood-logs": pb.ExecuteResponse(log=pb.Log(message="a line of the flood")),
    "flood-heartbeats": pb.ExecuteResponse(heartbeat=pb.Heartbeat()),
    "flood-large-chunks": pb.ExecuteResponse(output=pb.OutputChunk(data=b"x" * 200_000)),
    "flood-chunks": pb.ExecuteResponse(output=pb.OutputChunk(data=b"x" * 1000)),
}


def completed(outputs: object) -> bytes:
    return framed(pb.ExecuteResponse(completed=pb.Completed(output=Payload(inline=json.dumps(outputs).encode()))))


class Connection:
    """One connection of the engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.bodies: dict[int, bytes] = defaultdict(bytes)
        self.first_window = 65_535
        self.window = 65_535
        self.windows: dict[int, int] = {}
        self.grown = asyncio.Event()
        self.deaf = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        await self.reader.readexactly(PREFACE_BYTES)
        self.frame(SETTINGS, 0, 0, b"")
        while True:
            head = await self.reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            self.take(kind, flags, stream, payload)
            while self.deaf:  # from now on nothing is read from this connection
                await asyncio.Event().wait()

    def frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.writer.write(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream))
        self.writer.write(payload)

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                    self.first_window = value
            self.frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self.windows[stream] = self.windows.get(stream, self.first_window) + more
            else:
                self.window += more
            self.grown.set()
        elif kind == DATA:
            if payload:
                for number in (0, stream):
                    self.frame(WINDOW_UPDATE, 0, number, struct.pack(">I", len(payload)))
            self.bodies[stream] += payload
            if flags & END_STREAM:
                task = asyncio.get_running_loop().create_task(self.answer(stream, self.bodies.pop(stream)[5:]))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def send(self, stream: int, data: bytes) -> None:
        """Send bytes of a stream as far and as soon as the engine takes them."""
        view = memoryview(data)
        while view:
            room = min(FRAME_BYTES, self.window, self.windows.setdefault(stream, self.first_window))
            if room <= 0:
                self.grown.clear()
                await self.grown.wait()
                continue
            part, view = view[:room], view[room:]
            self.window -= len(part)
            self.windows[stream] -= len(part)
            self.frame(DATA, 0, stream, bytes(part))
            await self.writer.drain()

    async def answer(self, stream: int, body: bytes) -> None:
        request = pb.ExecuteRequest()
        try:
            request.ParseFromString(body)
        except DecodeError:
            request.Clear()
        self.frame(HEADERS, END_HEADERS, stream, RESPONSE)
        if request.action:
            await self.send(stream, ACCEPTED)
            await self.execute(stream, request)
        elif body:
            await self.send(stream, framed(pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)))
        else:
            await self.send(stream, HEALTH)
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS)
        await self.writer.drain()

    async def execute(self, stream: int, request: pb.ExecuteRequest) -> None:
        action, inputs = request.action, json.loads(request.input.inline or b"{}")
        if action in FLOODS:
            message, count = framed(FLOODS[action]), 0
            each = max(1, 100_000 // len(message))
            block = message * each
            until = time.monotonic() + inputs["seconds"]
            while time.monotonic() < until:
                await self.send(stream, block)
                count += each
            await self.send(stream, completed({"sent": count}))
        elif action == "stop-reading":
            self.deaf = True
            await asyncio.Event().wait()
        elif action == "cut":
            self.writer.transport.abort()
        elif action == "noise":
            self.writer.write(b"HTTP/1.1 500 this is no frame\r\n\r\n" * 1000)
            await asyncio.Event().wait()
        elif action == "goodbye":
            self.frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0))
            await self.send(stream, completed({}))
        else:
            await self.send(stream, completed(inputs))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await Connection(reader, writer).serve()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    path = os.environ["NOA_AGENT_LISTEN"].removeprefix("unix:")
    async with await asyncio.start_unix_server(serve, path) as server:
        await server.serve_forever()


def end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(main())
