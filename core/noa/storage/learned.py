"""What was learned of workflows: one row each, replaced as a whole by whoever read it last."""

from __future__ import annotations

import sqlite3

__all__ = ["read_learned", "write_learned"]


def read_learned(connection: sqlite3.Connection, workflow: str) -> tuple[bytes, int]:
    """What is kept of a workflow, and its revision; nothing and 0 where it was never written."""
    row = connection.execute("SELECT body, revision FROM learned WHERE workflow = ?", (workflow,)).fetchone()
    return (b"", 0) if row is None else (bytes(row[0]), int(row[1]))


def write_learned(connection: sqlite3.Connection, workflow: str, body: bytes, revision: int) -> bool:
    """Put a body in the place of the one of this revision (0: of none); False where that is not the one there now."""
    if revision == 0:
        added = connection.execute("INSERT OR IGNORE INTO learned VALUES (?, 1, ?)", (workflow, body)).rowcount
        return added == 1
    changed = connection.execute(
        "UPDATE learned SET body = ?, revision = revision + 1 WHERE workflow = ? AND revision = ?",
        (body, workflow, revision),
    ).rowcount
    return changed == 1
