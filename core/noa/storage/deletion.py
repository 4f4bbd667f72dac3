"""Removes runs from a store, and the definitions that then nobody needs. Each call is part of a transaction."""

from __future__ import annotations

import sqlite3

from noa.storage.migrations import OVER, SEQ_BITS, SEQ_MASK
from noa.storage.ownership import is_held

__all__ = ["delete_run", "delete_unused_definitions"]


def delete_run(connection: sqlite3.Connection, run: str, now_ms: int) -> bool:
    """Delete a run with its events and signals; False where it is not there, not over, or held by a live engine."""
    row = connection.execute("SELECT id, status, owner, lease_until_ms FROM runs WHERE run_id = ?", (run,)).fetchone()
    if row is None:
        return False
    number, status, owner, until_ms = row
    if status not in OVER or is_held(owner, until_ms, now_ms):
        return False
    base = number << SEQ_BITS
    connection.execute("DELETE FROM events WHERE id BETWEEN ? AND ?", (base, base | SEQ_MASK))
    connection.execute("DELETE FROM signals WHERE run_id = ?", (run,))
    connection.execute("DELETE FROM runs WHERE id = ?", (number,))
    return True


def delete_unused_definitions(connection: sqlite3.Connection) -> int:
    """Delete the texts that no run pinned; how many."""
    return connection.execute(
        "DELETE FROM definitions WHERE sha256 NOT IN (SELECT pinned.value FROM runs "
        f"JOIN events ON events.id = runs.id << {SEQ_BITS} | 1, "
        "json_each(CAST(events.body AS TEXT), '$.definitions') AS pinned)"
    ).rowcount
