"""Secrets in a runtime that lives on: what its own agents give away, and secrets that change between runs."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from noa import Runtime
from noa.model.execution import OutputChunk
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.sdk import Agent, Context, action

SECRET = "hunter2-" + "correct-horse-" * 10 + "battery"

OUTSIDE = '''
import hashlib, os
from noa.sdk import Agent, action

class Keeper(Agent):
    """Knows a secret by its environment."""

    name = "keeper"
    version = "1"

    @action()
    def digest(self) -> dict:
        """Of the secret."""
        return {"sha256": hashlib.sha256(os.environ["KEY"].encode()).hexdigest()}
'''


class Careless(Agent):
    """Gives secrets away in ways that are not whole words."""

    name = "careless"
    version = "1"

    @action()
    def count(self, number: int) -> dict[str, int]:
        """Refuses text, and quotes the beginning of it."""
        return {"number": number}

    @action()
    def stream(self, context: Context, key: str) -> dict[str, str]:
        """Gives it in pieces."""
        for start in range(0, len(key), 7):
            context.output(key[start : start + 7])
        context.output(" and on it goes, hunter")
        return {"key": key}

    async def on_release(self, run: str) -> None:
        raise RuntimeError(f"cannot let go of {SECRET}")


class Plugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name="careless", factory=Careless)]


def workflow(*tasks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"workflow": {"name": "w", "stages": [{"name": "s", "type": "sequential", "tasks": list(tasks)}], **more}}


async def test_parts_of_a_secret_and_tracebacks_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOA_SECRET_KEY", SECRET)
    registry = Registry.load(())
    registry.register(Plugin(), "careless", origin="here")
    seen: list[str] = []

    def observe(_run: object, _task: object, _attempt: object, observation: object) -> None:
        if isinstance(observation, OutputChunk):
            seen.append(observation.text)

    async with Runtime(registry=registry, home=tmp_path, on_observation=observe) as runtime:
        key = "${{ secrets.KEY }}"
        failed = await runtime.run(workflow({"agent": "careless", "action": "count", "inputs": {"number": key}}))
        done = await runtime.run(workflow({"agent": "careless", "action": "stream", "inputs": {"key": key}}))
    assert failed.failure is not None
    assert "got '***...)" in failed.failure.message
    assert done.status == "succeeded"
    assert "".join(seen) == "*** and on it goes, hunter"
    assert "cannot let go of ***" in caplog.text
    searched = [caplog.text.encode(), *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())]
    assert len(searched) > 2
    for data in searched:
        assert b"correct-horse" not in data


async def test_an_agent_whose_secret_changed_is_not_refused_and_starts_with_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keeper.py").write_text(OUTSIDE)
    env = {"PYTHONPATH": str(tmp_path), "KEY": "${{ secrets.KEY }}"}
    agents = {"keeper": {"command": [sys.executable, "-m", "noa.sdk", "keeper:Keeper"], "env": env}}
    definition = workflow(
        # What a run held ends with it, so that the next run starts it anew.
        {"agent": "factory", "action": "spawn", "inputs": {"agent": "keeper"}},
        {"agent": "keeper", "action": "digest"},
        agents=agents,
        outputs={"sha256": "${{ stages.s.digest.outputs.sha256 }}"},
    )
    async with Runtime(home=tmp_path / "home") as runtime:
        for value in ("the first of them", "the second of them"):
            monkeypatch.setenv("NOA_SECRET_KEY", value)
            done = await runtime.run(definition)
            assert done.outputs == {"sha256": hashlib.sha256(value.encode()).hexdigest()}, done.failure
        assert "of them" not in repr(runtime.factory._declarations["keeper"])
