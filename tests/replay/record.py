"""Records the journals that `test_replay.py` replays: once for each version of the events, never again for an old one.

.venv/bin/python -m tests.replay.record tests/replay/v2

A file is `STATUS.jsonl` or `STATUS.SCENARIO.jsonl`: how the run ended, and the scenario of tests/chaos that it is. Its
first line is the definition, with the files that it names; then come the events.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.lives import RUN, Store, live
from tests.chaos.scenarios import SCENARIOS, Scenario
from tests.engine.conftest import EngineTestPlugin
from tests.engine.test_crashes import ALL_FEATURES, OUTPUTS, work

from noa.definitions import load_plan
from noa.model.events import encode_event
from noa.plugin import Registry
from noa.testing.simulation import Simulation

SCENARIOS_RECORDED = (
    "answered", "remembered", "hedged", "asked", "saga", "decided", "undone-later", "cancelled-saga", "reopened",
    "done-again",
)  # fmt: skip


def record(folder: Path) -> None:
    registry = Registry()
    registry.register(EngineTestPlugin(), "engine-test")
    definition = {"workflow": {"name": "w", "version": "1", "stages": ALL_FEATURES, "outputs": OUTPUTS}}
    inputs = {"items": [1, 2, 3, 4]}
    plan = load_plan(definition, registry=registry)
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in {"succeeded": {}, "cancelled": {"cancel_after": 12}}.items():
        half = Simulation(plan, work, registry=registry, seed=1, inputs=inputs, **options).run(stop_after=20)
        done = Simulation(plan, work, registry=registry, seed=2, inputs=inputs, history=half.journal).run()
        lines = [json.dumps({"definition": definition}), *(encode_event(e).decode() for e in done.journal)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def record_scenarios(folder: Path, names: Sequence[str] = SCENARIOS_RECORDED) -> None:
    """Record real runs of real engines, of which the first one died half way."""
    os.environ.setdefault("NOA_SECRET_CHAOS_TOKEN", "hunter2-hunter2")
    for scenario in SCENARIOS:
        if scenario.name in names:
            with tempfile.TemporaryDirectory() as made:
                lines = asyncio.run(_lived(scenario, Path(made)))
            (folder / f"{scenario.status}.{scenario.name}.jsonl").write_text("\n".join(lines) + "\n")


async def _lived(scenario: Scenario, folder: Path) -> list[str]:
    whole = await live(scenario, Store(folder / "whole"))
    store = Store(folder / "lived")
    await live(scenario, store, at=whole.writes * 2 // 3)
    await live(scenario, store)
    head = {"definition": scenario.definition, "files": dict(scenario.files)}
    return [json.dumps(head), *(_of_nobody(event) for event in store.events()[RUN])]


def _of_nobody(event: dict[str, Any]) -> str:
    """An event without the names of the machine and the person that recorded it."""
    for key, value in {"owner": "engine", "actor": "ann", "output_uri": "file:///srv/noa/output/r1/"}.items():
        if key in event:
            event[key] = value
    return json.dumps(event, separators=(",", ":"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        pytest.exit("name the folder to record into", 2)
    record(Path(sys.argv[1]))
    record_scenarios(Path(sys.argv[1]))
