"""The services inventory, payment and shipping: each request has one effect and one answer, and each can be undone."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from noa_order_services.inventory import InventoryAgent
from noa_order_services.overview import overview
from noa_order_services.payment import PaymentAgent
from noa_order_services.shipping import ShippingAgent

from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import RunId
from noa.sdk.runner import ActionRunner

_NUMBER = count(1)
_AGENT_OF = {
    "reserve": "inventory", "release": "inventory", "confirm": "inventory",
    "charge": "payment", "refund": "payment",
    "ship": "shipping", "recall": "shipping",
}  # fmt: skip
_DONE = {
    "reserve": {"sku": "desk", "quantity": 2, "reservation": "one"},
    "charge": {"account": "alice", "amounts_cents": [100, 250], "charge": "one"},
    "ship": {"country": "DE", "lines": [{"sku": "desk", "quantity": 2}], "parcel": "one"},
}
_UNDONE = {
    "release": {"reservation": "one"},
    "refund": {"charge": "one"},
    "recall": {"parcel": "one"},
}
PAIRS = list(zip(_DONE, _UNDONE, strict=True))


class Shop:
    """Executes actions of the services in process, each under a key of its own unless one is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {"NOA_ORDER_SERVICES": str(folder)}
        agents = [InventoryAgent(environment), PaymentAgent(environment), ShippingAgent(environment)]
        for agent in agents:
            agent.load()
        self._runners = {agent.name: ActionRunner(agent) for agent in agents}

    async def outcome(self, action: str, inputs: dict[str, Any], *, key: str = "", agent: str = "") -> Outcome:
        agent = agent or _AGENT_OF[action]
        execution = f"r:s/{action}:{next(_NUMBER)}"
        asked = Assignment(execution, key or execution, "r", "w", "s", f"s/{action}", 1, agent, action, inputs)
        return await self._runners[agent].execute(asked, observe=lambda _: None, artifact_prefix="")

    async def do(self, action: str, inputs: dict[str, Any] | None = None, *, key: str = "", agent: str = "") -> Any:
        inputs = {**_DONE, **_UNDONE}[action] if inputs is None else inputs
        outcome = await self.outcome(action, inputs, key=key, agent=agent)
        assert isinstance(outcome, Succeeded), outcome
        return outcome.outputs

    async def refusal(self, action: str, inputs: dict[str, Any], *, key: str = "") -> Failure:
        outcome = await self.outcome(action, inputs, key=key)
        assert isinstance(outcome, Failure), outcome
        return outcome

    async def cancel(self, agent: str, *, run: str) -> int:
        return await self._runners[agent].cancel(run=RunId(run))

    def rows(self, service: str, table: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / f"{service}.db")) as base:
            return base.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()

    def business(self) -> dict[str, list[tuple[Any, ...]]]:
        """All tables but what the services remember of requests."""
        tables = {"inventory": "stock reservations", "payment": "accounts charges", "shipping": "carriers parcels"}
        return {table: self.rows(service, table) for service, names in tables.items() for table in names.split()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "shop")


@pytest.mark.parametrize("action", _DONE)
async def test_same_request_under_the_same_key_has_one_effect_and_one_answer(shop: Shop, action: str) -> None:
    before = shop.business()
    first = await shop.do(action, key="k")
    once = shop.business()
    assert once != before
    assert await shop.do(action, key="k") == first
    assert shop.business() == once


@pytest.mark.parametrize(("action", "undo"), PAIRS)
async def test_what_was_done_is_undone_and_undone_again_without_effect(shop: Shop, action: str, undo: str) -> None:
    before = shop.business()
    await shop.do(action)
    for key in ("k", "k", "another"):
        await shop.do(undo, key=key)
        assert shop.business() == before


@pytest.mark.parametrize(("action", "undo"), PAIRS)
async def test_undoing_what_was_never_done_is_fine_and_closes_it_for_late_requests(
    shop: Shop, action: str, undo: str
) -> None:
    before = shop.business()
    await shop.do(undo)
    late = await shop.refusal(action, _DONE[action])
    assert (late.code, late.retryable) == ("ALREADY_UNDONE", False)
    assert shop.business() == before


@pytest.mark.parametrize("action", _DONE)
async def test_name_that_is_taken_is_refused_to_another_request(shop: Shop, action: str) -> None:
    await shop.do(action)
    once = shop.business()
    assert (await shop.refusal(action, _DONE[action])).code == "DUPLICATE"
    assert shop.business() == once


@pytest.mark.parametrize("action", _DONE)
async def test_name_is_made_where_none_is_given_and_is_the_same_for_the_same_key(shop: Shop, action: str) -> None:
    inputs = {name: value for name, value in _DONE[action].items() if value != "one"}
    first = await shop.do(action, inputs, key="k")
    assert first == await shop.do(action, inputs, key="k")
    assert first != await shop.do(action, inputs, key="other")


@pytest.mark.parametrize(
    ("action", "change", "code"),
    [
        ("reserve", {"quantity": 13}, "OUT_OF_STOCK"),
        ("reserve", {"sku": "sofa"}, "UNKNOWN_SKU"),
        ("charge", {"account": "bob", "amounts_cents": [5001]}, "CARD_DECLINED"),
        ("charge", {"account": "nobody"}, "UNKNOWN_ACCOUNT"),
        ("ship", {"country": "AQ"}, "NO_CARRIER"),
        ("confirm", {"reservations": ["one"]}, "RESERVATION_GONE"),
    ],
)
async def test_refusal_changes_nothing_and_is_final(shop: Shop, action: str, change: dict[str, Any], code: str) -> None:
    before = shop.business()
    refused = await shop.refusal(action, {**_DONE.get(action, {}), **change})
    assert (refused.code, refused.retryable) == (code, False)
    assert shop.business() == before


async def test_what_was_refused_may_be_asked_for_again_under_its_key(shop: Shop) -> None:
    wanted = {**_DONE["reserve"], "quantity": 13}
    assert (await shop.refusal("reserve", wanted, key="k")).code == "OUT_OF_STOCK"
    await shop.do("seed", {"stock": {"desk": {"available": 13, "price_cents": 1}}}, agent="inventory")
    assert (await shop.do("reserve", wanted, key="k"))["amount_cents"] == 13


async def test_another_request_under_a_used_key_is_refused(shop: Shop) -> None:
    await shop.do("reserve", key="k")
    refused = await shop.refusal("reserve", {**_DONE["reserve"], "quantity": 1}, key="k")
    assert refused.code == "KEY_REUSED"
    assert "quantity" in refused.message


async def test_sale_is_confirmed_whole_or_not_at_all_and_released_as_well(shop: Shop) -> None:
    before = shop.business()
    await shop.do("reserve")
    held = shop.business()
    assert (await shop.refusal("confirm", {"reservations": ["one", "two"]})).code == "RESERVATION_GONE"
    assert shop.business() == held
    assert await shop.do("confirm", {"reservations": ["one"]}) == {"sold": 2}
    assert await shop.do("release") == {"reservation": "one", "returned": 2}
    assert shop.business() == before


async def test_refund_that_an_account_does_not_take_keeps_the_charge_until_it_does(shop: Shop) -> None:
    before = shop.business()
    await shop.do("charge", {**_DONE["charge"], "account": "carol"})
    assert (await shop.refusal("refund", _UNDONE["refund"], key="k")).code == "REFUND_REFUSED"
    assert len(shop.business()["charges"]) == 1
    await shop.do("seed", {"accounts": {"carol": {"takes_refunds": True}}}, agent="payment")
    assert await shop.do("refund", key="k") == {"charge": "one", "refunded_cents": 350}
    assert shop.business()["charges"] == before["charges"]


async def test_status_and_overview_say_what_there_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.do("reserve")
    await shop.do("charge")
    await shop.do("ship")
    stock = (await shop.do("status", {}, agent="inventory"))["stock"]
    assert {"sku": "desk", "price_cents": 24000, "available": 10, "held": 2, "sold": 0} in stock
    accounts = (await shop.do("status", {}, agent="payment"))["accounts"]
    assert {"account": "alice", "balance_cents": 199650, "charged_cents": 350, "takes_refunds": True} in accounts
    await shop.do("seed", {"carriers": {"AQ": "sledge"}}, agent="shipping")
    shipping = await shop.do("status", {}, agent="shipping")
    assert shipping["parcels"] == [{"parcel": "one", "country": "DE", "carrier": "river-post", "pieces": 2}]
    assert shipping["carriers"]["AQ"] == "sledge"
    monkeypatch.setenv("NOA_ORDER_SERVICES", str(shop.folder))
    shown = overview().splitlines()
    assert "inventory  desk: 10 available, 2 held, 0 sold" in shown
    assert "payment    alice: 1996.50" in shown
    assert "shipping   one: 2 pieces to DE by river-post" in shown


async def test_state_outlives_the_service(shop: Shop) -> None:
    await shop.do("reserve", key="k")
    again = Shop(shop.folder)
    assert again.business() == shop.business()
    await again.do("reserve", key="k")
    assert again.business() == shop.business()


async def test_request_waits_for_another_one_that_writes_and_is_cancelled_meanwhile_without_effect(shop: Shop) -> None:
    before = shop.business()
    with closing(sqlite3.connect(shop.folder / "inventory.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.ensure_future(shop.outcome("reserve", _DONE["reserve"])) for _ in range(2)]
        done, _ = await asyncio.wait(waiting, timeout=0.3)
        assert not done
        assert await shop.cancel("inventory", run="r") == 2
        outcomes = await asyncio.gather(*waiting)
    assert [outcome.code for outcome in outcomes] == ["CANCELLED"] * 2
    assert shop.business() == before
