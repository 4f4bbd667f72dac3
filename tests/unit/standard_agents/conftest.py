"""Executes actions of the standard agents in process, on real folders and a real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from noa_standard_agents import plugin

from noa.model.execution import Assignment, Observation, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.payload import Artifact
from noa.sdk.runner import ActionRunner

_AGENT_OF = {
    "data_preprocessing": "python",
    "post_processing": "worker",
    "persist_results": "storage",
    "send_alerts": "notification",
    "survey": "deployment",
    "distribute": "deployment",
    "open_shard": "deployment",
    "collect": "deployment",
    "verify": "deployment",
}


class Bench:
    """Runs actions and keeps what they said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.seen: list[Observation] = []
        self._runners = {one.name: ActionRunner(one.factory()) for one in plugin.noa_agents() if one.factory}

    async def outcome(self, action: str, **inputs: Any) -> Outcome:
        agent = _AGENT_OF[action]
        asked = Assignment(
            f"r:s/{action}:1", "key", "r", "w", "s", f"s/{action}", 1, agent, action, inputs,
            output_uri=f"file://{self.output}/",
        )  # fmt: skip
        store = f"file://{self.folder}/store/"
        return await self._runners[agent].execute(asked, observe=self.seen.append, artifact_prefix=store)

    async def run(self, action: str, **inputs: Any) -> dict[str, Any]:
        outcome = await self.outcome(action, **inputs)
        assert isinstance(outcome, Succeeded), outcome
        return outcome.outputs

    async def failure(self, action: str, **inputs: Any) -> Failure:
        outcome = await self.outcome(action, **inputs)
        assert isinstance(outcome, Failure), outcome
        return outcome

    def store(self, table: pa.Table) -> dict[str, Any]:
        """A table as an artifact."""
        from noa.sdk.artifacts import Artifacts

        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return Artifacts(f"file://{self.folder}/store/").create(sink.getvalue()).to_json()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def read_rows(reference: Any) -> list[dict[str, Any]]:
    artifact = Artifact.from_json(reference)
    assert artifact is not None
    rows: list[dict[str, Any]] = pa.ipc.open_file(artifact.uri.removeprefix("file://")).read_all().to_pylist()
    return rows


@pytest.fixture
def rows() -> Callable[[Any], list[dict[str, Any]]]:
    return read_rows
