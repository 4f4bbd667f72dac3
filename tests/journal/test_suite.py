"""The suite over every journal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from noa.plugin import Journal
from noa.storage import SqliteJournal
from noa.testing.journal_suite import JournalSuite
from noa.testing.memory_journal import MemoryJournal


class TestSqliteJournal(JournalSuite):
    @pytest.fixture
    def journal_factory(self, tmp_path: Path) -> Callable[[], Journal]:
        return lambda: SqliteJournal(f"sqlite://{tmp_path}/deep/journal.db")


class TestMemoryJournal(JournalSuite):
    @pytest.fixture
    def journal_factory(self) -> Callable[[], Journal]:
        journal = MemoryJournal("memory://")
        return lambda: journal
