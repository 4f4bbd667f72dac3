"""The engine dies at each write of its journal, before and after it, and goes on: the same end, nothing done again."""

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from .conftest import LONG, made_effects
from .lives import Store, judge, live, snapshot
from .scenarios import SCENARIOS, Scenario

LIMIT = 10_000

pytestmark = pytest.mark.usefixtures("secret", "quick_signals")


async def whole(scenario: Scenario, folder: Path) -> tuple[Store, dict, int]:
    """The undisturbed run: where it is, how it ended, how often its journal was written."""
    store = Store(folder / "whole")
    life = await live(scenario, store)
    assert life.state is not None
    assert life.state.status == scenario.status, life.state.failure
    assert judge(scenario, store, []) == []
    return store, snapshot(life.state), life.writes


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_an_engine_that_dies_at_any_write_ends_as_if_it_had_not(
    scenario: Scenario, how: str, folder: Path, tried: Counter[str]
) -> None:
    undisturbed, end, _ = await whole(scenario, folder)
    for at in itertools.count(1):
        assert at < LIMIT
        store = Store(folder / str(at))
        first = await live(scenario, store, at=at, how=how)
        if first.state is not None:
            break
        deaths = [(store.ledger.stat().st_size, store.events())]
        second = await live(scenario, store)
        assert second.state is not None
        where = f"{scenario.name}: died {how} write {at}"
        assert snapshot(second.state) == end, where
        assert judge(scenario, store, deaths) == [], where
        assert made_effects(store, scenario) == made_effects(undisturbed, scenario), where
        tried["crash points: the engine thrown away before or after a write"] += 1
    assert at > 5, "hardly anything was written"


@pytest.mark.parametrize("seed", range(40 if LONG else 1))
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
async def test_an_engine_that_dies_again_and_again_ends_as_if_it_had_not(
    scenario: Scenario, seed: int, folder: Path, tried: Counter[str]
) -> None:
    chance = random.Random(f"{scenario.name} {seed}")
    undisturbed, end, writes = await whole(scenario, folder)
    store = Store(folder / "dying")
    deaths = []
    for _ in range(8):
        life = await live(
            scenario, store, at=chance.randint(1, max(2, writes // 3)), how=chance.choice(["before", "after"])
        )
        if life.state is not None:
            break
        deaths.append((store.ledger.stat().st_size, store.events()))
        tried["crash points: the engine thrown away before or after a write"] += 1
    else:
        life = await live(scenario, store)
    assert life.state is not None
    where = f"{scenario.name}: seed {seed}, {len(deaths)} deaths"
    assert snapshot(life.state) == end, where
    assert judge(scenario, store, deaths) == [], where
    assert made_effects(store, scenario) == made_effects(undisturbed, scenario), where
