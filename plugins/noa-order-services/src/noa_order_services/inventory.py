"""The service `inventory`: what a shop has, what of it is held for orders, and what is sold."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Context, action
from noa_order_services import __version__
from noa_order_services.store import Store

__all__ = ["InventoryAgent"]

_TABLES = """
CREATE TABLE stock (
    sku TEXT PRIMARY KEY, price_cents INTEGER NOT NULL, available INTEGER NOT NULL CHECK (available >= 0)
) STRICT;
CREATE TABLE reservations (
    id TEXT PRIMARY KEY, sku TEXT NOT NULL REFERENCES stock, quantity INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'sold'))
) STRICT;
INSERT INTO stock VALUES ('chair', 8500, 40), ('desk', 24000, 12), ('lamp', 3900, 100);
"""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Cents = Annotated[int, Field(ge=0, description="In hundredths.")]


class Reserved(TypedDict):
    """Outputs of reserve."""

    reservation: Annotated[str, Field(description="Its name, for release and confirm.")]
    sku: str
    quantity: int
    amount_cents: Cents


class Released(TypedDict):
    """Outputs of release."""

    reservation: str
    returned: Annotated[int, Field(ge=0, description="Pieces that went back; 0 where nothing was held.")]


class Confirmed(TypedDict):
    """Outputs of confirm."""

    sold: Annotated[int, Field(ge=0, description="Pieces.")]


class Article(BaseModel):
    """What a shop has of something."""

    available: Annotated[int, Field(ge=0)]
    price_cents: Annotated[int, Field(ge=0)]


class StockRow(TypedDict):
    """A line of status."""

    sku: str
    price_cents: Cents
    available: int
    held: int
    sold: int


class StockStatus(TypedDict):
    """Outputs of status and seed."""

    stock: list[StockRow]


class InventoryAgent(Agent):
    """Reserves goods."""

    name = "inventory"
    version = __version__

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._store = Store("inventory", _TABLES, environment)

    def load(self) -> None:
        """Open the state."""
        self._store.open()

    @action(idempotent=True)
    def reserve(
        self,
        ctx: Context,
        sku: Name,
        quantity: Annotated[int, Field(ge=1)],
        reservation: Annotated[str, Field(description="A name for it; one is made where none is given.")] = "",
    ) -> Reserved:
        """Hold pieces of an article for an order."""
        name = self._store.name(reservation, ctx, "reservation")

        def effect(base: sqlite3.Connection) -> Reserved:
            article = base.execute("SELECT * FROM stock WHERE sku = ?", (sku,)).fetchone()
            if article is None:
                raise _unknown_sku(base, sku)
            if article["available"] < quantity:
                raise ActionFailed(
                    "OUT_OF_STOCK",
                    f"{quantity} of '{sku}' were asked for, {article['available']} are there",
                    details={"sku": sku, "wanted": quantity, "available": article["available"]},
                )
            if base.execute("SELECT 1 FROM reservations WHERE id = ?", (name,)).fetchone():
                raise ActionFailed("DUPLICATE", f"there is a reservation '{name}' already; give each its own name")
            base.execute("UPDATE stock SET available = available - ? WHERE sku = ?", (quantity, sku))
            base.execute("INSERT INTO reservations VALUES (?, ?, ?, 'held')", (name, sku, quantity))
            amount = quantity * article["price_cents"]
            return {"reservation": name, "sku": sku, "quantity": quantity, "amount_cents": amount}

        request = {"sku": sku, "quantity": quantity, "reservation": name}
        return self._store.once(ctx, "reserve", name, request, effect)

    @action(idempotent=True)
    def release(self, ctx: Context, reservation: Name) -> Released:
        """Give back what a reservation holds or sold. One that is not known is fine: then there is nothing to do."""

        def effect(base: sqlite3.Connection) -> Released:
            held = base.execute("SELECT * FROM reservations WHERE id = ?", (reservation,)).fetchone()
            if held is None:
                return {"reservation": reservation, "returned": 0}
            base.execute("UPDATE stock SET available = available + ? WHERE sku = ?", (held["quantity"], held["sku"]))
            base.execute("DELETE FROM reservations WHERE id = ?", (reservation,))
            return {"reservation": reservation, "returned": held["quantity"]}

        return self._store.once(ctx, "release", reservation, {"reservation": reservation}, effect, undo=True)

    @action(idempotent=True)
    def confirm(self, ctx: Context, reservations: Annotated[list[Name], Field(min_length=1)]) -> Confirmed:
        """Turn what is held into sales: all of the reservations, or none."""

        def effect(base: sqlite3.Connection) -> Confirmed:
            sold = 0
            for name in reservations:
                held = base.execute("SELECT * FROM reservations WHERE id = ?", (name,)).fetchone()
                if held is None or held["state"] != "held":
                    why = "is not there (it was released)" if held is None else "was sold before"
                    raise ActionFailed("RESERVATION_GONE", f"reservation '{name}' {why}", details={"reservation": name})
                base.execute("UPDATE reservations SET state = 'sold' WHERE id = ?", (name,))
                sold += held["quantity"]
            return {"sold": sold}

        return self._store.once(ctx, "confirm", " ".join(reservations), {"reservations": reservations}, effect)

    @action(idempotent=True)
    def seed(self, ctx: Context, stock: dict[str, Article]) -> StockStatus:
        """Set what there is of articles; others stay as they are."""
        with self._store.transaction(ctx) as base:
            for sku, article in stock.items():
                base.execute(
                    "INSERT INTO stock VALUES (?, ?, ?) ON CONFLICT (sku) DO UPDATE"
                    " SET price_cents = excluded.price_cents, available = excluded.available",
                    (sku, article.price_cents, article.available),
                )
            return _status(base)

    @action(idempotent=True)
    def status(self, ctx: Context) -> StockStatus:
        """Say what there is, what is held and what was sold."""
        with self._store.transaction(ctx) as base:
            return _status(base)


def _unknown_sku(base: sqlite3.Connection, sku: str) -> ActionFailed:
    known = [row["sku"] for row in base.execute("SELECT sku FROM stock ORDER BY sku LIMIT 20")]
    return ActionFailed("UNKNOWN_SKU", f"there is no article '{sku}'. There are: {', '.join(known)}")


def _status(base: sqlite3.Connection) -> StockStatus:
    rows = base.execute(
        "SELECT sku, price_cents, available,"
        " coalesce(sum(quantity) FILTER (WHERE state = 'held'), 0) AS held,"
        " coalesce(sum(quantity) FILTER (WHERE state = 'sold'), 0) AS sold"
        " FROM stock LEFT JOIN reservations USING (sku) GROUP BY sku ORDER BY sku"
    )
    return {"stock": [StockRow(**dict(row)) for row in rows]}  # type: ignore[typeddict-item]
