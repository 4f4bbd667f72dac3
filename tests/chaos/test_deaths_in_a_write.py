"""Engines in processes of their own die as by kill -9: beside a write, inside its transaction, or amid its commit."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import LONG, made_effects
from .lives import Store, judge
from .nursery import Nursery
from .scenarios import SCENARIOS, Scenario
from .torn import tear_last_commit

SAMPLE = 3
"""Points for each scenario and way to die; the long form tries all of them."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


def points(last: int, chance: random.Random) -> list[int]:
    """At which writes to die."""
    every = range(1, last + 1)
    return list(every) if LONG else sorted(chance.sample(every, min(SAMPLE, last)))


@pytest.mark.parametrize("how", ["kill-before", "kill-after", "kill-inside", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_process_killed_at_a_write_loses_nothing(
    scenario: Scenario, how: str, nursery: Nursery, secret: None, folder: Path, tried: Counter[str]
) -> None:
    chance = random.Random(f"{scenario.name} {how}")
    way = "kill-after" if how == "torn" else how
    undisturbed = Store(folder / "whole")
    end = nursery.live(scenario.name, undisturbed, at=1_000_000, how=way)
    assert end is not None
    for at in points(end.pop("writes"), chance):
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
        del again["writes"]
        assert again == end, where
        assert judge(scenario, store, deaths) == [], where
        assert made_effects(store, scenario) == made_effects(undisturbed, scenario), where
        tried[f"crash points: processes killed, {how}"] += 1
