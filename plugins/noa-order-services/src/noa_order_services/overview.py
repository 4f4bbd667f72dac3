"""What is in the state of the three services, as text for a person. It is read past the services, in whatever state."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from noa_order_services.store import connect, state_folder

__all__ = ["overview"]

_STOCK = """
SELECT sku, available, coalesce(sum(quantity) FILTER (WHERE state = 'held'), 0) AS held,
    coalesce(sum(quantity) FILTER (WHERE state = 'sold'), 0) AS sold
FROM stock LEFT JOIN reservations USING (sku) GROUP BY sku ORDER BY sku
"""


def overview() -> str:
    """A line for each article, account and parcel."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    for row in _rows("inventory", _STOCK):
        yield f"inventory  {row['sku']}: {row['available']} available, {row['held']} held, {row['sold']} sold"
    for row in _rows("payment", "SELECT * FROM accounts ORDER BY id"):
        refunds = "" if row["takes_refunds"] else ", takes no refunds"
        yield f"payment    {row['id']}: {row['balance_cents'] / 100:.2f}{refunds}"
    parcels = _rows("shipping", "SELECT * FROM parcels ORDER BY id")
    for row in parcels:
        yield f"shipping   {row['id']}: {row['pieces']} pieces to {row['country']} by {row['carrier']}"
    if not parcels:
        yield "shipping   no parcels"


def _rows(service: str, query: str) -> list[sqlite3.Row]:
    path = state_folder() / f"{service}.db"
    if not path.exists():
        return []
    with closing(connect(path)) as base:
        return base.execute(query).fetchall()
