"""Engines in processes of their own die as by kill -9: beside a write, inside its transaction, or amid its commit."""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import LONG, made_effects
from .lives import Store, judge
from .nursery import Nursery
from .scenarios import SCENARIOS, Scenario
from .torn import tear_last_commit

SAMPLE = {"kill-before": 1, "kill-after": 1, "kill-inside": 2, "torn": 2}
"""Points for each scenario by the way to die; the long form tries all of them."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


def points(last: int, how: str, chance: random.Random) -> list[int]:
    """At which writes to die."""
    every = range(1, last + 1)
    return list(every) if LONG else sorted(chance.sample(every, min(SAMPLE[how], last)))


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, secret: None) -> Iterator[Callable[[Scenario, str], tuple[Store, dict[str, Any]]]]:
    """Lives whole lives, each once: where it is, and how it ended."""
    lived: dict[tuple[str, str], tuple[Store, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def whole(scenario: Scenario, way: str) -> tuple[Store, dict[str, Any]]:
            key = scenario.name, way if way == "kill-inside" else ""
            if key not in lived:
                store = Store(Path(folder) / "-".join(key))
                end = nursery.live(scenario.name, store, at=1_000_000, how=way)
                assert end is not None
                lived[key] = store, end
            return lived[key]

        yield whole


@pytest.mark.parametrize("how", ["kill-before", "kill-after", "kill-inside", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_process_killed_at_a_write_loses_nothing(
    scenario: Scenario,
    how: str,
    nursery: Nursery,
    undisturbed: Callable[[Scenario, str], tuple[Store, dict[str, Any]]],
    folder: Path,
    tried: Counter[str],
) -> None:
    chance = random.Random(f"{scenario.name} {how}")
    way = "kill-after" if how == "torn" else how
    before, end = undisturbed(scenario, way)
    for at in points(end["writes"], how, chance):
        store = Store(folder / str(at))
        where = f"{scenario.name}: {how} {at}"
        if (early := nursery.live(scenario.name, store, at=at, how=way)) is not None:
            assert early["writes"] < at, where
            continue  # chance made it write less often this time
        if how == "torn":
            where += f", {tear_last_commit(store.database, chance)}"
        deaths = [(store.ledger.stat().st_size, store.events())]
        again = nursery.live(scenario.name, store)
        assert again is not None
        assert again | {"writes": 0} == end | {"writes": 0}, where
        assert judge(scenario, store, deaths) == [], where
        assert made_effects(store, scenario) == made_effects(before, scenario), where
        tried[f"crash points: processes killed, {how}"] += 1
