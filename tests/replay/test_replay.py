"""Journals that earlier versions wrote are folded by today's engine, for ever: the files here are never changed."""

import json
from pathlib import Path

import pytest
from tests.engine.conftest import EngineTestPlugin
from tests.engine.test_crashes import work

from noa.definitions import load_plan
from noa.engine.state import RunState
from noa.model.events import decode_event
from noa.plugin import Registry
from noa.testing.simulation import Simulation

RECORDED = sorted(Path(__file__).parent.glob("v*/*.jsonl"))


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(EngineTestPlugin(), "engine-test")
    return made


def test_something_is_recorded() -> None:
    assert RECORDED


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recorded_journal_folds_to_the_end_that_it_had(path: Path, registry: Registry) -> None:
    head, *lines = path.read_text().splitlines()
    state = RunState(load_plan(json.loads(head)["definition"], registry=registry))
    for line in lines:
        state.apply(decode_event(line))
    assert state.status == path.stem
    assert state.pending == {}
    assert state.outputs == json.loads(lines[-1]).get("outputs", {})


@pytest.mark.parametrize("path", RECORDED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_prefix_of_a_recorded_journal_can_be_resumed(path: Path, registry: Registry) -> None:
    head, *lines = path.read_text().splitlines()
    plan = load_plan(json.loads(head)["definition"], registry=registry)
    events = [decode_event(line) for line in lines]
    for cut in range(1, len(events)):
        inputs = {"items": [1, 2, 3, 4]}
        done = Simulation(plan, work, registry=registry, seed=cut, inputs=inputs, history=events[:cut]).run()
        assert done.state.finished
