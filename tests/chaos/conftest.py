"""What was broken on purpose, counted and told at the end."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .ledger import effects_of, read
from .lives import Store
from .scenarios import Scenario

LONG = os.environ.get("NOA_LONG_TESTS") == "1"
TRIED: Counter[str] = Counter()


@pytest.fixture
def tried() -> Counter[str]:
    """Figures by name; what tests add is printed at the end."""
    return TRIED


@pytest.fixture(scope="session")
def secret() -> Iterator[None]:
    """The secret that a scenario passes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOA_SECRET_CHAOS_TOKEN", "hunter2-hunter2")
        yield


@pytest.fixture
def quick_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines look for signals at once."""
    monkeypatch.setattr("noa.engine.engine.SIGNAL_POLL_S", 0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is the order of writes, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


def made_effects(store: Store, scenario: Scenario) -> set[str]:
    """Idempotency keys of the effects that were made, apart from those of tasks that race with what ends them."""
    return {
        effect.begin.key
        for effect in effects_of(read(store.ledger))
        if effect.end and effect.end.what == "done" and effect.begin.task not in scenario.loose
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRIED:
        terminalreporter.section("broken on purpose")
        for name, count in sorted(TRIED.items()):
            terminalreporter.line(f"{count:>8,}  {name}")
