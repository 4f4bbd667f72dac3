"""A caller that knows the protos and nothing else, and tells in words what an agent did instead."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc
from noa.testing.conformance.case import Violation
from noa.testing.conformance.process import AgentProcess

__all__ = ["AGENT_SERVICE", "LONG_S", "Client", "Stream", "brief", "outputs_of"]

AGENT_SERVICE = "noa.agent.v1.AgentService"
LONG_S = 60
"""How long work sleeps that must not end by itself while a case looks at it."""

_SETTLE_S = 1.0
_POLL_S = 0.01
_TERMINAL = ("completed", "failed")
_numbers = itertools.count(1)
# An agent that goes on remembers the ids of the last check for a minute.
_OF_THIS_PROCESS = secrets.token_hex(4)


def brief(message: Any) -> str:
    """A message of the contract in a few words."""
    kind = message.WhichOneof("event")
    if kind == "accepted":
        return f"accepted(joined={str(message.accepted.joined).lower()})"
    if kind == "failed":
        failure = message.failed.failure
        retry = "retryable" if failure.retryable else "not retryable"
        return f"failed({failure.code or 'no code'}, {retry}, {failure.message[:200]!r})"
    return kind or "a message without an event"


class Stream:
    """The stream of an Execute call.

    Attributes:
        messages: What has arrived.
        closed: Whether its end has arrived, with status OK.
    """

    def __init__(self, call: Any, limit_s: float) -> None:
        self._call = call
        self._limit_s = limit_s
        self.messages: list[Any] = []
        self.closed = False

    async def next(self, within_s: float | None = None) -> Any:
        """The next message; None at the end.

        Raises:
            Violation: Nothing comes in time, or the call ends with a status that is not OK.
        """
        limit_s = self._limit_s if within_s is None else within_s
        try:
            message = await asyncio.wait_for(self._call.read(), limit_s)
        except TimeoutError:
            raise Violation(f"nothing arrived on the stream of Execute for {limit_s:g} s {self.seen}") from None
        except grpc.aio.AioRpcError as error:
            raise Violation(f"Execute ended with the gRPC status {_status(error)} {self.seen}") from error
        if message is None:  # what grpc gives for bytes that it cannot read
            raise Violation(f"what arrived on the stream of Execute is no ExecuteResponse of the protos, {self.seen}")
        if message is grpc.aio.EOF:
            self.closed = True
            return None
        self.messages.append(message)
        return message

    @property
    def seen(self) -> str:
        """What has arrived, for a message."""
        kinds = [brief(message) for message in self.messages]
        if len(kinds) > 8:
            kinds = [*kinds[:4], f"{len(kinds) - 7} more", *kinds[-3:]]
        return f"after: {', '.join(kinds)}" if kinds else "before any message"

    @property
    def over(self) -> bool:
        """Whether the result is known, so that nothing of it goes on."""
        return self.closed or any(message.WhichOneof("event") in _TERMINAL for message in self.messages)

    async def first(self) -> Any:
        """The first message."""
        if not self.messages and await self.next() is None:
            raise Violation("the stream of Execute ended without any message")
        return self.messages[0]

    async def terminal(self, within_s: float | None = None) -> Any:
        """The first terminal message, however many other messages come before."""
        limit_s = self._limit_s if within_s is None else within_s
        end_s = time.monotonic() + limit_s
        for message in self.messages:
            if message.WhichOneof("event") in _TERMINAL:
                return message
        while True:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise Violation(f"no terminal message arrived within {limit_s:g} s {self.seen}")
            try:
                message = await asyncio.wait_for(self.next(limit_s), left_s)
            except TimeoutError:
                continue
            if message is None:
                raise Violation(f"the stream of Execute ended without completed or failed, {self.seen}")
            if message.WhichOneof("event") in _TERMINAL:
                return message

    async def rest(self) -> None:
        """Read to the end."""
        end_s = time.monotonic() + self._limit_s
        while not self.closed:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise Violation(f"the stream of Execute did not end within {self._limit_s:g} s {self.seen}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.next(), left_s)

    def hang_up(self) -> None:
        """End the call from the caller's side."""
        self._call.cancel()


def outputs_of(terminal: Any) -> Any:
    """The JSON value of a completed execution, inline or from its artifact.

    Raises:
        Violation: It failed, or what it gave is not JSON.
    """
    if terminal.WhichOneof("event") != "completed":
        raise Violation(f"work that should end well ended with {brief(terminal)}")
    output = terminal.completed.output
    kind = output.WhichOneof("value")
    if kind is None:
        return {}
    if kind == "artifact":
        try:
            data = Path(unquote(output.artifact.uri.removeprefix("file://"))).read_bytes()
        except OSError as error:
            raise Violation(f"the output's artifact {output.artifact.uri} cannot be read: {error}") from error
    else:
        data = output.inline
    try:
        return json.loads(data)
    except ValueError as error:
        raise Violation(f"the output is not JSON: {error}; it begins with {data[:80]!r}") from error


class Client:
    """Calls one agent.

    Args:
        channel: To it; closed by `close`.
        token: That every call carries; empty for none.
        folder: Where artifacts go.
        limit_s: How long one answer may take.
        process: The agent's, where it was launched.

    Attributes:
        manifest: Who the agent says it is; set by the bench when it serves.
        capacity: As its Health said then.
    """

    def __init__(
        self, channel: grpc.aio.Channel, token: str, folder: Path, limit_s: float, process: AgentProcess | None
    ) -> None:
        self.channel = channel
        self.process = process
        self.folder = folder
        self.limit_s = limit_s
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.token = token
        self.stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.probes: Any = health_pb2_grpc.HealthStub(channel)
        self.manifest: Any = pb.Manifest()
        self.capacity = 0
        self.work_action = "echo"
        self.work_input: Mapping[str, Any] = {}
        self.run_id = ""
        self._streams: list[tuple[str, Stream]] = []
        self._held: set[str] = set()
        self.begin_case()

    # --- who it is ---------------------------------------------------------------------------------------------

    @property
    def artifact_prefix(self) -> str:
        """The store that executions may write to."""
        return f"file://{self.folder}/artifacts/"

    def action(self, name: str) -> Any:
        """The manifest's action of that name; None where there is none."""
        return next((action for action in self.manifest.actions if action.name == name), None)

    def schema(self, name: str, which: str = "input_schema") -> dict[str, Any]:
        """A JSON Schema of an action; empty where it has none."""
        action = self.action(name)
        if action is None or not action.HasField(which):
            return {}
        schema: dict[str, Any] = json_format.MessageToDict(getattr(action, which))
        return schema

    # --- calls -------------------------------------------------------------------------------------------------

    async def answer(self, name: str, call: Awaitable[Any], within_s: float | None = None) -> Any:
        """What a unary call answers.

        Raises:
            Violation: It does not answer in time, or with a status that is not OK.
        """
        limit_s = self.limit_s if within_s is None else within_s
        try:
            answered = await asyncio.wait_for(call, limit_s)
        except TimeoutError:
            raise Violation(f"{name} did not answer within {limit_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            raise Violation(f"{name} ended with the gRPC status {_status(error)}") from error
        if answered is None:  # what grpc gives for bytes that it cannot read
            raise Violation(f"what {name} answered is not the message that the protos say")
        return answered

    async def status(self, call: Awaitable[Any]) -> grpc.StatusCode:
        """The status that a call ends with; for a stream, give its first read."""
        try:
            await asyncio.wait_for(call, self.limit_s)
        except TimeoutError:
            raise Violation(f"a call that should be refused had no answer within {self.limit_s:g} s") from None
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def health(self, within_s: float | None = None) -> Any:
        """What Health answers."""
        return await self.answer("Health", self.stub.Health(pb.HealthRequest(), metadata=self.metadata), within_s)

    async def probe(self, service: str = "") -> int:
        """What a stock probe sees, without a token."""
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self.answer(f"grpc.health.v1 Check of {service!r}", self.probes.Check(request))
        return int(answer.status)

    async def cancel(
        self, *, execution_id: str = "", run_id: str = "", grace_s: float | None = None, within_s: float | None = None
    ) -> Any:
        """What Cancel of an execution or of a run answers."""
        request = pb.CancelRequest(reason="conformance")
        if run_id:
            request.run_id = run_id
        else:
            request.execution_id = execution_id
        if grace_s is not None:
            request.grace.CopyFrom(Duration(nanos=int(grace_s * 1e9) % 10**9, seconds=int(grace_s)))
        return await self.answer("Cancel", self.stub.Cancel(request, metadata=self.metadata), within_s)

    def open(self, request: pb.ExecuteRequest) -> Stream:
        """Ask for an execution."""
        stream = Stream(self.stub.Execute(request, metadata=self.metadata), self.limit_s)
        self._streams.append((request.run_id, stream))
        return stream

    async def begin(self, request: pb.ExecuteRequest) -> Stream:
        """Ask for an execution, and wait until the agent says the first word about it."""
        stream = self.open(request)
        await stream.first()
        return stream

    async def execute(self, request: pb.ExecuteRequest) -> Any:
        """The terminal message of an execution."""
        return await self.open(request).terminal()

    async def failure(self, request: pb.ExecuteRequest) -> Any:
        """How an execution fails, as Failure.

        Raises:
            Violation: It ends well.
        """
        terminal = await self.execute(request)
        if terminal.WhichOneof("event") != "failed":
            raise Violation("the execution ended with completed")
        return terminal.failed.failure

    # --- requests ----------------------------------------------------------------------------------------------

    def request(self, action: str, inputs: Mapping[str, Any] | bytes | None = None, **fields: Any) -> pb.ExecuteRequest:
        """An execution with an id of its own, of this case's run."""
        number = next(_numbers)
        given: dict[str, Any] = {
            "execution_id": f"{self.run_id}:conformance/task:{number}",
            "idempotency_key": f"key-{number}",
            "run_id": self.run_id,
            "workflow": "conformance",
            "stage": "conformance",
            "task": "conformance/task",
            "attempt": 1,
            "action": action,
            "artifact_prefix": self.artifact_prefix,
            "output_prefix": f"file://{self.folder}/files/",
        }
        request = pb.ExecuteRequest(**(given | fields))
        if inputs is not None:
            request.input.inline = inputs if isinstance(inputs, bytes) else json.dumps(inputs).encode()
        return request

    def echo(self, **inputs: Any) -> pb.ExecuteRequest:
        """An execution of `echo`."""
        if inputs.get("child"):
            self._held.add(self.run_id)
        return self.request("echo", inputs)

    def long(self, **fields: Any) -> pb.ExecuteRequest:
        """An execution of `echo` that does not end by itself."""
        return self.request("echo", {"sleep_s": LONG_S}, **fields)

    def work(self, **fields: Any) -> pb.ExecuteRequest:
        """An execution that ends well."""
        return self.request(self.work_action, self.work_input, **fields)

    # --- between cases -----------------------------------------------------------------------------------------

    def begin_case(self) -> None:
        """Take a new run."""
        self.run_id = f"conformance-{_OF_THIS_PROCESS}-{next(_numbers)}"
        self._streams = []
        self._held = set()

    async def end_case(self) -> None:
        """Cancel what the case left going.

        Raises:
            Violation: That cannot be done.
        """
        runs = self._held | {run for run, stream in self._streams if not stream.over}
        for _, stream in self._streams:
            stream.hang_up()
        if not runs:
            return
        for run in sorted(filter(None, runs)):
            await self.cancel(run_id=run, grace_s=0, within_s=3)
        # What was told to end may need a moment; it must not count against the next case.
        end_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < end_s:
            if not (await self.health()).in_flight:
                return
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """Close the channel."""
        await self.channel.close()


def _status(error: grpc.aio.AioRpcError) -> str:
    details = (error.details() or "").strip()
    return f"{error.code().name} ({details[:300]})" if details else error.code().name
