"""The service `payment`: accounts with balances, and what they were charged."""

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

__all__ = ["PaymentAgent"]

_TABLES = """
CREATE TABLE accounts (
    id TEXT PRIMARY KEY, balance_cents INTEGER NOT NULL CHECK (balance_cents >= 0),
    takes_refunds INTEGER NOT NULL CHECK (takes_refunds IN (0, 1))
) STRICT;
CREATE TABLE charges (
    id TEXT PRIMARY KEY, account TEXT NOT NULL REFERENCES accounts, amount_cents INTEGER NOT NULL
) STRICT;
INSERT INTO accounts VALUES ('alice', 200000, 1), ('bob', 5000, 1), ('carol', 200000, 0);
"""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Cents = Annotated[int, Field(ge=0, description="In hundredths.")]


class Charged(TypedDict):
    """Outputs of charge."""

    charge: Annotated[str, Field(description="Its name, for refund.")]
    amount_cents: Cents


class Refunded(TypedDict):
    """Outputs of refund."""

    charge: str
    refunded_cents: Annotated[int, Field(ge=0, description="What went back; 0 where nothing was charged.")]


class Account(BaseModel):
    """What to set of an account; what is not given stays as it is."""

    balance_cents: Annotated[int, Field(ge=0)] | None = None
    takes_refunds: bool | None = None


class AccountRow(TypedDict):
    """A line of status."""

    account: str
    balance_cents: Cents
    charged_cents: Cents
    takes_refunds: bool


class PaymentStatus(TypedDict):
    """Outputs of status and seed."""

    accounts: list[AccountRow]


class PaymentAgent(Agent):
    """Charges accounts."""

    name = "payment"
    version = __version__

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._store = Store("payment", _TABLES, environment)

    def load(self) -> None:
        """Open the state."""
        self._store.open()

    @action(idempotent=True)
    def charge(
        self,
        ctx: Context,
        account: Name,
        amounts_cents: Annotated[list[Cents], Field(description="Of the lines of the order.")],
        charge: Annotated[str, Field(description="A name for it; one is made where none is given.")] = "",
    ) -> Charged:
        """Take the sum of the amounts from an account."""
        name = self._store.name(charge, ctx, "charge")
        total = sum(amounts_cents)

        def effect(base: sqlite3.Connection) -> Charged:
            row = _account(base, account)
            if row["balance_cents"] < total:
                raise ActionFailed(
                    "CARD_DECLINED",
                    f"the account '{account}' cannot pay {total / 100:.2f}",
                    details={"account": account, "amount_cents": total},
                )
            if base.execute("SELECT 1 FROM charges WHERE id = ?", (name,)).fetchone():
                raise ActionFailed("DUPLICATE", f"there is a charge '{name}' already; give each its own name")
            base.execute("UPDATE accounts SET balance_cents = balance_cents - ? WHERE id = ?", (total, account))
            base.execute("INSERT INTO charges VALUES (?, ?, ?)", (name, account, total))
            return {"charge": name, "amount_cents": total}

        request = {"account": account, "amount_cents": total, "charge": name}
        return self._store.once(ctx, "charge", name, request, effect)

    @action(idempotent=True)
    def refund(self, ctx: Context, charge: Name) -> Refunded:
        """Give back what was charged. A charge that is not known is fine: then there is nothing to do."""

        def effect(base: sqlite3.Connection) -> Refunded:
            made = base.execute("SELECT * FROM charges WHERE id = ?", (charge,)).fetchone()
            if made is None:
                return {"charge": charge, "refunded_cents": 0}
            account, amount = made["account"], made["amount_cents"]
            if not _account(base, account)["takes_refunds"]:
                raise ActionFailed(
                    "REFUND_REFUSED",
                    f"the account '{account}' takes no refunds, so charge '{charge}' stays. Once it does "
                    "(action seed, takes_refunds), ask again",
                    details={"account": account, "amount_cents": amount},
                )
            base.execute("UPDATE accounts SET balance_cents = balance_cents + ? WHERE id = ?", (amount, account))
            base.execute("DELETE FROM charges WHERE id = ?", (charge,))
            return {"charge": charge, "refunded_cents": amount}

        return self._store.once(ctx, "refund", charge, {"charge": charge}, effect, undo=True)

    @action(idempotent=True)
    def seed(self, ctx: Context, accounts: dict[str, Account]) -> PaymentStatus:
        """Open accounts, or set what they have; others stay as they are."""
        with self._store.transaction(ctx) as base:
            for name, account in accounts.items():
                base.execute("INSERT INTO accounts VALUES (?, 0, 1) ON CONFLICT DO NOTHING", (name,))
                base.execute(
                    "UPDATE accounts SET balance_cents = coalesce(?, balance_cents),"
                    " takes_refunds = coalesce(?, takes_refunds) WHERE id = ?",
                    (account.balance_cents, account.takes_refunds, name),
                )
            return _status(base)

    @action(idempotent=True)
    def status(self, ctx: Context) -> PaymentStatus:
        """Say what the accounts have and what they were charged."""
        with self._store.transaction(ctx) as base:
            return _status(base)


def _account(base: sqlite3.Connection, name: str) -> sqlite3.Row:
    row: sqlite3.Row | None = base.execute("SELECT * FROM accounts WHERE id = ?", (name,)).fetchone()
    if row is None:
        raise ActionFailed("UNKNOWN_ACCOUNT", f"there is no account '{name}'")
    return row


def _status(base: sqlite3.Connection) -> PaymentStatus:
    rows = base.execute(
        "SELECT accounts.id, balance_cents, takes_refunds, coalesce(sum(amount_cents), 0) AS charged_cents"
        " FROM accounts LEFT JOIN charges ON charges.account = accounts.id GROUP BY accounts.id ORDER BY accounts.id"
    )
    return {
        "accounts": [
            {
                "account": row["id"],
                "balance_cents": row["balance_cents"],
                "charged_cents": row["charged_cents"],
                "takes_refunds": bool(row["takes_refunds"]),
            }
            for row in rows
        ]
    }
