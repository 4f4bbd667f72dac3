"""Real agents of each language as an engine would start them, and a client that knows nothing but the contract."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc

TOKEN = "conformance"
# The client must be able to break the limits that the agents have to keep.
OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", 4 << 20),
)
PROGRAMS = {"rust": "noa-rust-agent", "go": "noa-go-agent"}
MODULES = {"python": ["noa.sdk", "noa.sdk.echo:EchoAgent"], "model-server": ["noa_model_server"]}


def command_of(kind: str) -> Sequence[str]:
    """How an agent is started; skips the test where it is not installed."""
    if kind in PROGRAMS:
        program = shutil.which(PROGRAMS[kind], path=str(Path(sys.executable).parent)) or shutil.which(PROGRAMS[kind])
        if program is None:
            pytest.skip(f"{PROGRAMS[kind]} is not built")
        return [program]
    if find_spec(MODULES[kind][0]) is None:
        pytest.skip(f"{MODULES[kind][0]} is not installed")
    return [sys.executable, "-m", *MODULES[kind]]


class AgentProcess:
    """A started agent.

    Args:
        kind: Which one.
        folder: Where its socket, its output and its artifacts lie.
        env: Changes to the variables of the contract; None takes one away.
    """

    def __init__(self, kind: str, folder: Path, **env: str | None) -> None:
        self.kind = kind
        self.folder = folder
        self.listen = f"unix:{folder}/agent.sock"
        given = {"NOA_AGENT_LISTEN": self.listen, "NOA_AGENT_TOKEN": TOKEN, "NOA_AGENT_PROTOCOL": "1"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("NOA_")}
        variables = inherited | given | env
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command_of(kind),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in variables.items() if value is not None},
                cwd=folder,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it wrote to stdout and stderr."""
        return (self.folder / "output").read_text()

    async def exit_status(self, within_s: float) -> int:
        """Its exit status; fails where it does not end in time."""
        return await asyncio.to_thread(self.process.wait, within_s)

    def end(self) -> None:
        """End it whatever it does."""
        self.close_stdin()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close_stdin(self) -> None:
        """Let it find that the engine is gone."""
        assert self.process.stdin is not None
        self.process.stdin.close()


class Client:
    """Calls an agent as an engine does."""

    _numbers = itertools.count(1)

    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent
        self.process = agent.process
        self.channel = grpc.aio.insecure_channel(agent.listen, options=OPTIONS)
        self.stub: Any = agent_service_pb2_grpc.AgentServiceStub(self.channel)
        self.metadata = (("authorization", f"Bearer {TOKEN}"),)
        self.run_id = f"run-{next(self._numbers)}"

    async def health(self) -> Any:
        """Ask until it listens."""
        return await self.stub.Health(pb.HealthRequest(), metadata=self.metadata, timeout=20, wait_for_ready=True)

    async def wait_status(self, status: int) -> Any:
        """Ask every 20 ms until Health says this."""
        while (health := await self.health()).status != status:
            await asyncio.sleep(0.02)
        return health

    def request(self, **fields: Any) -> pb.ExecuteRequest:
        """An execution of `echo` with an id of its own, of this client's run."""
        number = next(self._numbers)
        given = {
            "execution_id": f"{self.run_id}:s/t:{number}",
            "idempotency_key": f"key-{number}",
            "run_id": self.run_id,
            "workflow": "conformance",
            "stage": "s",
            "task": "s/t",
            "attempt": 1,
            "action": "echo",
            "artifact_prefix": f"file://{self.agent.folder}/artifacts/",
            "output_prefix": f"file://{self.agent.folder}/output-files/",
        }
        request = pb.ExecuteRequest(**(given | {name: value for name, value in fields.items() if name != "inline"}))
        if "inline" in fields:
            request.input.inline = fields["inline"]
        return request

    def long(self, **fields: Any) -> pb.ExecuteRequest:
        """An execution that goes on for longer than any test."""
        return self.request(inline=b'{"sleep_s": 600}', **fields)

    def open(self, request: pb.ExecuteRequest) -> Any:
        """A stream."""
        return self.stub.Execute(request, metadata=self.metadata, timeout=30)

    async def begin(self, request: pb.ExecuteRequest, *, joined: bool = False) -> Any:
        """A stream whose `accepted` has arrived."""
        stream = self.open(request)
        first = await stream.read()
        assert first.WhichOneof("event") == "accepted", first
        assert first.accepted.joined is joined
        return stream

    async def execute(self, request: pb.ExecuteRequest, *, joined: bool = False) -> Any:
        """The terminal message of a whole stream that keeps the contract's order."""
        return await self.terminal(await self.begin(request, joined=joined))

    async def terminal(self, stream: Any) -> Any:
        """The last message of a stream that is past `accepted`: exactly one terminal message, then the end."""
        messages = []
        while (message := await stream.read()) is not grpc.aio.EOF:
            messages.append(message)
        assert await stream.code() is grpc.StatusCode.OK
        kinds = [message.WhichOneof("event") for message in messages]
        assert kinds, "the stream ended without a terminal message"
        assert kinds[-1] in {"completed", "failed"}, kinds
        assert not {"accepted", "completed", "failed"} & set(kinds[:-1]), kinds
        return messages[-1]

    async def failure(self, request: pb.ExecuteRequest) -> Any:
        """How an execution fails."""
        return (await self.execute(request)).failed.failure

    async def cancel(self, **fields: Any) -> tuple[int, int]:
        """Outcome and count."""
        answer = await self.stub.Cancel(pb.CancelRequest(**fields), metadata=self.metadata, timeout=20)
        return answer.outcome, answer.cancelled


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="noa-") as made:  # short enough for a socket's path, and of mode 0700
        yield Path(made)


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[[str], AgentProcess]]:
    """One process of each kind for all tests that leave it as it was."""
    processes: dict[str, AgentProcess] = {}
    with tempfile.TemporaryDirectory(prefix="noa-") as made:

        def process_of(kind: str) -> AgentProcess:
            if kind not in processes:
                command_of(kind)
                folder = Path(made) / kind
                folder.mkdir(mode=0o700)
                processes[kind] = AgentProcess(kind, folder)
            return processes[kind]

        yield process_of
        for process in processes.values():
            process.end()


@pytest.fixture
async def client(kind: str, running: Callable[[str], AgentProcess]) -> AsyncIterator[Client]:
    """A client of the shared process, which serves."""
    client = Client(running(kind))
    async with client.channel:
        await asyncio.wait_for(client.wait_status(pb.HEALTH_STATUS_SERVING), 60)
        yield client


@pytest.fixture
async def own(kind: str, folder: Path) -> AsyncIterator[Client]:
    """A client of a process that the test may end. It listens; whether it serves already is the test's concern."""
    agent = AgentProcess(kind, folder)
    client = Client(agent)
    async with client.channel:
        try:
            await client.health()
            yield client
        finally:
            agent.end()


@pytest.fixture
def launch(kind: str, folder: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts processes with other variables, several at once."""
    started: list[AgentProcess] = []

    def start(**env: str | None) -> AgentProcess:
        place = folder / str(len(started))
        place.mkdir(mode=0o700)
        started.append(AgentProcess(kind, place, **env))
        return started[-1]

    yield start
    for agent in started:
        agent.end()
