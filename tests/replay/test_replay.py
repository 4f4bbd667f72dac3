"""Journals that earlier versions wrote are folded by today's engine, for ever: the files here are never changed."""

import json
from pathlib import Path

import pytest
from tests.engine.conftest import EngineTestPlugin
from tests.engine.test_crashes import work

from noa.definitions import Evaluator, load_plan
from noa.engine.core import Core
from noa.engine.decide import Decider
from noa.engine.state import RunState
from noa.model.events import Event, RunFinished, decode_event
from noa.model.plan import Plan
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.testing.simulation import Simulation

RECORDED = sorted(Path(__file__).parent.glob("v*/*.jsonl"))
SIMULATED = [path for path in RECORDED if path.suffixes == [".jsonl"]]
"""Those whose tasks a simulation can do; in the others people answer, and sub-workflows are runs of their own."""


class LedgerPlugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name="ledger", kind="nowhere")]


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(EngineTestPlugin(), "engine-test")
    made.register(LedgerPlugin(), "ledger")
    return made


def recorded(path: Path, registry: Registry, folder: Path) -> tuple[Plan, list[Event]]:
    """The plan and the events of a file."""
    head, *lines = path.read_text().splitlines()
    pinned = json.loads(head)
    for name, definition in {"main.json": pinned["definition"], **pinned.get("files", {})}.items():
        (folder / name).write_text(json.dumps(definition))
    return load_plan(folder / "main.json", registry=registry), [decode_event(line) for line in lines]


def test_something_is_recorded() -> None:
    assert RECORDED


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recorded_journal_folds_to_the_end_that_it_had(path: Path, registry: Registry, tmp_path: Path) -> None:
    plan, events = recorded(path, registry, tmp_path)
    state = RunState(plan)
    for event in events:
        state.apply(event)
    end = next(event for event in reversed(events) if isinstance(event, RunFinished))
    assert state.status == path.name.split(".")[0] == end.status
    assert state.pending == {}
    assert state.outputs == end.outputs
    assert state.degraded == end.degraded


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_prefix_of_a_recorded_journal_says_what_it_waits_for(
    path: Path, registry: Registry, tmp_path: Path
) -> None:
    plan, events = recorded(path, registry, tmp_path)
    for cut in range(1, len(events) + 1):
        core = Core(RunState(plan), Decider(registry, Evaluator()))
        core.replay(events[:cut])
        decided, wanted = core.outstanding(events[cut - 1].at_ms + 1)
        held = any(task.status == "held" for task in core.state.tasks.values())
        assert decided or wanted or held or core.state.finished, f"nothing follows after event {cut}: {events[cut - 1]}"


@pytest.mark.parametrize("path", SIMULATED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_prefix_of_a_recorded_journal_can_be_resumed(path: Path, registry: Registry, tmp_path: Path) -> None:
    plan, events = recorded(path, registry, tmp_path)
    for cut in range(1, len(events)):
        inputs = {"items": [1, 2, 3, 4]}
        done = Simulation(plan, work, registry=registry, seed=cut, inputs=inputs, history=events[:cut]).run()
        assert done.state.finished
