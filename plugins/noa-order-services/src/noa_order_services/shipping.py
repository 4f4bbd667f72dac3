"""The service `shipping`: which carrier goes where, and the parcels that are booked."""

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

__all__ = ["ShippingAgent"]

_TABLES = """
CREATE TABLE carriers (country TEXT PRIMARY KEY, carrier TEXT NOT NULL) STRICT;
CREATE TABLE parcels (
    id TEXT PRIMARY KEY, country TEXT NOT NULL REFERENCES carriers, carrier TEXT NOT NULL, pieces INTEGER NOT NULL
) STRICT;
INSERT INTO carriers VALUES ('CH', 'alpine-freight'), ('DE', 'river-post'), ('FR', 'river-post'), ('US', 'ocean-line');
"""

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Line(BaseModel):
    """A line of an order."""

    sku: str
    quantity: Annotated[int, Field(ge=1)]


class Shipped(TypedDict):
    """Outputs of ship."""

    parcel: Annotated[str, Field(description="Its name, for recall.")]
    carrier: str


class Recalled(TypedDict):
    """Outputs of recall."""

    parcel: str
    recalled: Annotated[bool, Field(description="False where no such parcel was booked.")]


class ParcelRow(TypedDict):
    """A line of status."""

    parcel: str
    country: str
    carrier: str
    pieces: int


class ShippingStatus(TypedDict):
    """Outputs of status and seed."""

    carriers: Annotated[dict[str, str], Field(description="By country.")]
    parcels: list[ParcelRow]


class ShippingAgent(Agent):
    """Books parcels."""

    name = "shipping"
    version = __version__

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._store = Store("shipping", _TABLES, environment)

    def load(self) -> None:
        """Open the state."""
        self._store.open()

    @action(idempotent=True)
    def ship(
        self,
        ctx: Context,
        country: Annotated[str, Field(description="Two letters, such as DE.")],
        lines: Annotated[list[Line], Field(min_length=1, description="What is in it.")],
        parcel: Annotated[str, Field(description="A name for it; one is made where none is given.")] = "",
    ) -> Shipped:
        """Book a parcel with the carrier of a country."""
        name = self._store.name(parcel, ctx, "parcel")
        pieces = sum(line.quantity for line in lines)

        def effect(base: sqlite3.Connection) -> Shipped:
            row = base.execute("SELECT carrier FROM carriers WHERE country = ?", (country,)).fetchone()
            if row is None:
                known = [row["country"] for row in base.execute("SELECT country FROM carriers ORDER BY country")]
                raise ActionFailed(
                    "NO_CARRIER",
                    f"no carrier goes to '{country}'. They go to: {', '.join(known)}",
                    details={"country": country},
                )
            if base.execute("SELECT 1 FROM parcels WHERE id = ?", (name,)).fetchone():
                raise ActionFailed("DUPLICATE", f"there is a parcel '{name}' already; give each its own name")
            base.execute("INSERT INTO parcels VALUES (?, ?, ?, ?)", (name, country, row["carrier"], pieces))
            return {"parcel": name, "carrier": row["carrier"]}

        return self._store.once(
            ctx,
            "ship",
            name,
            {"country": country, "lines": [line.model_dump() for line in lines], "parcel": name},
            effect,
        )

    @action(idempotent=True)
    def recall(self, ctx: Context, parcel: Name) -> Recalled:
        """Cancel a parcel. One that is not known is fine: then there is nothing to do."""

        def effect(base: sqlite3.Connection) -> Recalled:
            gone = base.execute("DELETE FROM parcels WHERE id = ?", (parcel,)).rowcount
            return {"parcel": parcel, "recalled": bool(gone)}

        return self._store.once(ctx, "recall", parcel, {"parcel": parcel}, effect, undo=True)

    @action(idempotent=True)
    def seed(
        self, ctx: Context, carriers: Annotated[dict[str, str], Field(description="By country.")]
    ) -> ShippingStatus:
        """Say which carrier goes to countries; others stay as they are."""
        with self._store.transaction(ctx) as base:
            base.executemany(
                "INSERT INTO carriers VALUES (?, ?) ON CONFLICT (country) DO UPDATE SET carrier = excluded.carrier",
                list(carriers.items()),
            )
            return _status(base)

    @action(idempotent=True)
    def status(self, ctx: Context) -> ShippingStatus:
        """Say which carriers there are and what is booked."""
        with self._store.transaction(ctx) as base:
            return _status(base)


def _status(base: sqlite3.Connection) -> ShippingStatus:
    carriers = {row["country"]: row["carrier"] for row in base.execute("SELECT * FROM carriers ORDER BY country")}
    parcels = base.execute("SELECT id AS parcel, country, carrier, pieces FROM parcels ORDER BY id")
    return {"carriers": carriers, "parcels": [ParcelRow(**dict(row)) for row in parcels]}  # type: ignore[typeddict-item]
