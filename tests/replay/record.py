"""Records the journals that `test_replay.py` replays: once for each version of the events, never again for an old one.

.venv/bin/python -m tests.replay.record tests/replay/v2
"""

import json
import sys
from pathlib import Path

import pytest
from tests.engine.conftest import EngineTestPlugin
from tests.engine.test_crashes import ALL_FEATURES, OUTPUTS, work

from noa.definitions import load_plan
from noa.model.events import encode_event
from noa.plugin import Registry
from noa.testing.simulation import Simulation


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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        pytest.exit("name the folder to record into", 2)
    record(Path(sys.argv[1]))
