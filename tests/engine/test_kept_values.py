"""Values that are too large for the journal: agents and sub-workflows get them as they were; no text holds them."""

import json
from pathlib import Path
from typing import Any

import pytest

from noa import Runtime
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.runtime import RunResult
from noa.sdk import Agent, action

SIZE = 300_000


class Large(Agent):
    """Gives much, and says what it gets."""

    name = "large"
    version = "1"

    @action()
    def give(self, turn: int = 0) -> dict[str, Any]:
        """More than the journal holds."""
        return {"text": "x" * SIZE, "turn": turn}

    @action()
    def take(self, text: str = "", turn: int = 0, results: list[dict[str, Any]] | None = None) -> dict[str, int]:
        """Sizes."""
        return {"size": len(text), "sum": sum(len(each["text"]) + each["turn"] for each in results or [])}


class Plugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name="large", factory=Large)]


GIVE = {"agent": "large", "action": "give"}


def sequential(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "s", "type": "sequential", "tasks": list(tasks), **more}


async def run(folder: Path, *stages: dict[str, Any], **more: Any) -> RunResult:
    registry = Registry.load(())
    registry.register(Plugin(), "large", origin="here")
    (folder / "main.json").write_text(json.dumps({"workflow": {"name": "main", "stages": list(stages), **more}}))
    async with Runtime(registry=registry, home=folder / "home") as runtime:
        return await runtime.run(folder / "main.json")


@pytest.mark.parametrize("given", [{"inputs": {"text": "${{ tasks.give.outputs.text }}"}}, {}])
async def test_a_sub_workflow_gets_the_value_as_its_input(tmp_path: Path, given: dict[str, Any]) -> None:
    below = {
        "name": "below",
        "inputs": {"text": {"type": "string", "minLength": SIZE}},
        "outputs": {"size": "${{ stages.s.take.outputs.size }}", "text": "${{ inputs.text }}"},
        "stages": [sequential({"agent": "large", "action": "take", "inputs": {"text": "${{ inputs.text }}"}})],
    }
    (tmp_path / "below.json").write_text(json.dumps({"workflow": below}))
    again = {"agent": "large", "action": "take", "inputs": {"text": "${{ tasks.child.outputs.text }}"}}
    done = await run(
        tmp_path,
        sequential(GIVE, {"name": "child", "workflow": "below.json", **given}, again),
        outputs={"sizes": ["${{ stages.s.child.outputs.size }}", "${{ stages.s.take.outputs.size }}"]},
    )
    assert done.outputs == {"sizes": [SIZE, SIZE]}, done.failure


async def test_results_of_a_loop_are_taken_whole(tmp_path: Path) -> None:
    loop = {"name": "l", "type": "loop", "for_each": [1, 2], "max_parallel": 2}
    loop["tasks"] = [{**GIVE, "inputs": {"turn": "${{ item }}"}}]
    take = {"agent": "large", "action": "take", "inputs": {"results": "${{ stages.l.give.outputs }}"}}
    done = await run(
        tmp_path, loop, sequential(take, depends_on=["l"]), outputs={"sum": "${{ stages.s.take.outputs.sum }}"}
    )
    assert done.outputs == {"sum": 2 * SIZE + 3}, done.failure


@pytest.mark.parametrize("text", ["got ${{ tasks.give.outputs.text }}", "${{ tasks.give.outputs.text }}${{ run.id }}"])
async def test_text_with_such_a_value_in_it_is_refused(tmp_path: Path, text: str) -> None:
    done = await run(tmp_path, sequential(GIVE, {"agent": "large", "action": "take", "inputs": {"text": text}}))
    assert done.failure is not None
    assert done.failure.code == "EXPRESSION_ERROR"
    assert "its value of 300,002 bytes is kept outside of the journal" in done.failure.message
