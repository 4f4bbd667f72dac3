"""A factory over real agents, and what its tests ask it."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noa.errors import ArtifactError
from noa.model.execution import Assignment, Observation
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.model.payload import Artifact
from noa.orchestration import AgentEvent, AgentFactory, ResourceLedger
from noa.orchestration.kinds import BUILTIN_AGENT_KINDS
from noa.plugin import AgentDeclaration, ArtifactStore, Registry, hookimpl
from noa.sdk.echo import EchoAgent

BROKEN = Path(__file__).with_name("broken_agents.py")


class FolderStore(ArtifactStore):
    """Artifacts as files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def prefix(self) -> str:
        return f"file://{self.folder}/"

    def put(self, data: bytes, content_type: str) -> Artifact:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return Artifact(f"file://{path}", len(data), digest, content_type)

    def get(self, artifact: Artifact) -> bytes:
        try:
            return Path(artifact.uri.removeprefix("file://")).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{artifact.uri}: {error}") from error

    def stream(self, artifact: Artifact, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        yield self.get(artifact)

    def exists(self, artifact: Artifact) -> bool:
        return Path(artifact.uri.removeprefix("file://")).exists()


class BuiltinKinds:
    @hookimpl
    def noa_agent_kinds(self) -> Any:
        return BUILTIN_AGENT_KINDS


class Bench:
    """A factory, and what it told."""

    def __init__(self, folder: Path) -> None:
        registry = Registry()
        registry.register(BuiltinKinds(), "builtin")
        self.folder = folder
        self.events: list[AgentEvent] = []
        self.seen: list[Observation] = []
        self.resources = ResourceLedger({"cpu": 2.0, "memory": 1000.0})
        self.artifacts = FolderStore(folder / "artifacts")
        self.factory = AgentFactory(
            registry=registry,
            declarations={"echo": AgentDeclaration("echo", factory=EchoAgent)},
            runtime_dir=folder / "run",
            log_dir=folder / "logs",
            artifacts=self.artifacts,
            resources=self.resources,
            on_event=self.events.append,
        )
        self._numbers = itertools.count(1)

    def broken(self, behaviour: str = "ok", *, name: str = "broken", **changes: Any) -> str:
        """Declare a broken agent; its name."""
        changes.setdefault("command", (sys.executable, str(BROKEN), behaviour))
        changes.setdefault("kind", "sidecar")
        self.factory.add({name: AgentDeclaration(name, **changes)})
        return name

    def task(self, agent: str, action: str, *, run: str = "run", **changes: Any) -> Assignment:
        """A new assignment."""
        number = next(self._numbers)
        return Assignment(
            execution_id=ExecutionId(f"{run}:s/t{number}:1"),
            idempotency_key=f"key-{number}",
            run_id=RunId(run),
            workflow="w",
            stage="s",
            task=TaskPath(f"s/t{number}"),
            attempt=1,
            agent=agent,
            action=action,
            **changes,
        )

    async def execute(self, agent: str, action: str, **changes: Any) -> Any:
        return await self.factory.execute(self.task(agent, action, **changes), self.seen.append)

    def states(self, agent: str = "broken") -> list[str]:
        """What happened to an agent, in order."""
        return [event.state for event in self.events if event.agent == agent]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.factory.close(grace_s=1.0)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Any]:
    """Wait for what another process does: look again until it is true, at most ten seconds."""
    import asyncio
    import time

    async def wait(condition: Callable[[], Any]) -> Any:
        until = time.monotonic() + 10
        while not (value := condition()):
            assert time.monotonic() < until, "it did not become true within 10 s"
            await asyncio.sleep(0.01)
        return value

    return wait
