"""What is found out: faults planted in a store and in a ledger, and that the scenarios use what there is."""

import json
import sqlite3
from pathlib import Path

import pytest

import noa.builtins
from noa.model.events import ANSWERS
from noa.plugin import Registry

from .lives import RUN, Store, judge, live
from .scenarios import SCENARIOS, SEQUENCE

pytestmark = pytest.mark.usefixtures("secret", "quick_signals")


async def test_a_journal_that_forgets_what_it_acknowledged_is_found_out(folder: Path) -> None:
    store = Store(folder / "forgetful")
    assert (await live(SEQUENCE, store, at=7)).state is None
    deaths = [(store.ledger.stat().st_size, store.events())]
    _forget_last_success(store)
    assert (await live(SEQUENCE, store)).state is not None
    found = judge(SEQUENCE, store, deaths)
    assert any("was done before the death and began again" in wrong for wrong in found), found
    assert any("had ended before and began again" in wrong for wrong in found), found


async def test_an_effect_that_the_ledger_never_saw_or_with_other_inputs_is_found_out(folder: Path) -> None:
    store = Store(folder / "odd")
    await live(SEQUENCE, store)
    assert judge(SEQUENCE, store, []) == []
    lines = store.ledger.read_text().splitlines()
    other = json.loads(lines[-1]) | {"what": "begin", "digest": "0" * 16}
    store.ledger.write_text("\n".join([*lines, json.dumps(other), ""]))
    assert [wrong for wrong in judge(SEQUENCE, store, []) if "2 different things" in wrong]
    store.ledger.write_text("\n".join([*lines[:-1], ""]))
    assert [wrong for wrong in judge(SEQUENCE, store, []) if "the ledger knows nothing of it" in wrong]


def _forget_last_success(store: Store) -> None:
    base = sqlite3.connect(store.database, isolation_level=None)
    last = max(seq for seq, event in enumerate(store.events()[RUN], 1) if event["type"] == "attempt_succeeded")
    base.execute("DELETE FROM events WHERE id & 0xffffffff >= ?", (last,))
    base.execute("UPDATE runs SET last_seq = 1, last_hash = (SELECT hash FROM events WHERE id & 0xffffffff = 1)")
    base.close()


def test_the_scenarios_use_every_stage_type_every_strategy_and_every_answer() -> None:
    text = json.dumps([[scenario.definition, scenario.files] for scenario in SCENARIOS])
    registry = Registry()
    registry.register(noa.builtins, "noa")
    for name in (*registry.stage_types, *registry.recovery_strategies):
        assert f'"{name}"' in text, f"no scenario uses '{name}'"
    answers = {wish.body.get("choice") for scenario in SCENARIOS for wish in scenario.wishes}
    assert set(ANSWERS) <= answers
    for key in ("compensate", "cache", "on_failure", "optional", "when", "run_on", "needs", "resources", "timeout"):
        assert f'"{key}"' in text
