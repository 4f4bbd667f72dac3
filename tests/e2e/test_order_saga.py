"""`definitions/order-saga.yaml`: whatever fails, the services have afterwards what they had before.

Nothing in the engine is told to fail: the shop is sold out, the account is empty, a service kills itself between its
commit and its answer, the engine is killed. Where a test needs a moment, it holds a service's database, as another
writer would.
"""

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from noa_order_services.inventory import InventoryAgent
from noa_order_services.payment import PaymentAgent
from noa_order_services.shipping import ShippingAgent
from tests.e2e.conftest import ROOT, Noa, kill

SAGA = ROOT / "definitions" / "order-saga.yaml"
SERVICES = ("inventory", "payment", "shipping")
GOODS = ("goods[0]/reserve", "goods[1]/reserve", "goods[2]/reserve")
TOO_MUCH = """[{"sku": "desk", "quantity": 1}, {"sku": "chair", "quantity": 4}, {"sku": "lamp", "quantity": 101}]"""
ONE_LINE = '[{"sku": "desk", "quantity": 2}]'
pytestmark = pytest.mark.timeout(180)

Books = dict[str, str]


class Shop:
    """The services' files of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {"NOA_ORDER_SERVICES": str(folder)}
        for agent in (InventoryAgent(environment), PaymentAgent(environment), ShippingAgent(environment)):
            agent.load()

    def books(self) -> Books:
        """Every table of every service as text, but what it remembers of requests."""
        found = {}
        for service in SERVICES:
            with closing(sqlite3.connect(self.folder / f"{service}.db")) as base:
                named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'requests' ORDER BY 1"
                for (table,) in base.execute(named).fetchall():
                    rows = base.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                    found[f"{service}.{table}"] = "\n".join(map(str, rows))
        return found

    @contextmanager
    def held(self, service: str) -> Iterator[Callable[[], None]]:
        """Nobody else writes in this service until the end, or until the function is called."""
        with closing(sqlite3.connect(self.folder / f"{service}.db", isolation_level=None, timeout=30)) as base:
            base.execute("BEGIN IMMEDIATE")
            yield lambda: base.execute("ROLLBACK") and None


@pytest.fixture
def shop(noa: Noa) -> Shop:
    folder = noa.home / "order-services"
    noa.env["NOA_ORDER_SERVICES"] = str(folder)
    return Shop(folder)


def order(noa: Noa, **inputs: Any) -> dict:
    given = [part for name, value in inputs.items() for part in ("--input", f"{name}={value}")]
    return noa.json("run", SAGA, "--run-id", "order", *given)


def undone(noa: Noa) -> list[str]:
    """Tasks, run by run, in the order in which their compensations succeeded."""
    return [
        event["task"].removesuffix("~compensate")
        for event in noa.events("attempt_succeeded")
        if event["task"].endswith("~compensate")
    ]


def wait_for_tasks(noa: Noa, kind: str, *tasks: str) -> None:
    """Until there is an event of this kind for each of the tasks."""
    while True:
        found = [event["task"] for event in noa.events(kind)]
        if set(tasks) <= set(found):
            return
        noa.wait_for_events(len(found) + 1, kind)


def test_order_that_succeeds_moves_goods_and_money_and_books_a_parcel(noa: Noa, shop: Shop) -> None:
    done = order(noa)
    assert (done["status"], done["outputs"]) == (
        "succeeded",
        {"amount_cents": 65800, "carrier": "river-post", "pieces": 7},
    )
    books = shop.books()
    assert "('alice', 134200, 1)" in books["payment.accounts"]
    assert books["inventory.stock"] == "('chair', 8500, 36)\n('desk', 24000, 11)\n('lamp', 3900, 98)"
    assert books["inventory.reservations"].count("'sold'") == 3
    assert books["shipping.parcels"] == "('order', 'DE', 'river-post', 7)"
    assert undone(noa) == []


def test_order_that_succeeded_is_undone_on_demand(noa: Noa, shop: Shop) -> None:
    before = shop.books()
    assert order(noa)["status"] == "succeeded"
    assert noa.json("rollback", "order")["status"] == "rolled_back"
    assert shop.books() == before
    assert undone(noa)[:2] == ["parcel/ship", "money/charge"]


@pytest.mark.parametrize(
    ("inputs", "code", "compensated"),
    [
        pytest.param({"lines": TOO_MUCH}, "OUT_OF_STOCK", [], id="reserve"),
        pytest.param({"account": "bob"}, "CARD_DECLINED", ["money/charge"], id="charge"),
        pytest.param({"country": "AQ"}, "NO_CARRIER", ["parcel/ship", "money/charge"], id="ship"),
    ],
)
def test_step_that_is_refused_undoes_all_before_it_in_reverse(
    noa: Noa, shop: Shop, inputs: dict, code: str, compensated: list
) -> None:
    before = shop.books()
    done = order(noa, **inputs)
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", code)
    assert shop.books() == before
    assert undone(noa)[:-3] == compensated
    assert sorted(undone(noa)[-3:]) == list(GOODS)


def test_confirmation_that_is_refused_undoes_the_whole_order(noa: Noa, shop: Shop) -> None:
    """Somebody cancelled one of the reservations while the parcel was being booked."""
    before = shop.books()
    with shop.held("shipping") as let_go:
        process = noa.start("run", SAGA, "--run-id", "order", "--json")
        wait_for_tasks(noa, "task_scheduled", "parcel/ship")
        with closing(sqlite3.connect(shop.folder / "inventory.db", timeout=30)) as base, base:
            base.execute("UPDATE stock SET available = available + 4 WHERE sku = 'chair'")
            base.execute("DELETE FROM reservations WHERE sku = 'chair'")
        let_go()
        out, err = process.communicate(timeout=90)
    done = json.loads(out)
    assert (process.returncode, done["status"], done["failure"]["code"]) == (1, "rolled_back", "RESERVATION_GONE"), err
    assert shop.books() == before
    assert undone(noa)[:2] == ["parcel/ship", "money/charge"]


@pytest.mark.parametrize(
    ("step", "task"),
    [
        ("inventory.reserve", "goods[0]/reserve"),
        ("payment.charge", "money/charge"),
        ("shipping.ship", "parcel/ship"),
        ("inventory.confirm", "sale/confirm"),
    ],
)
def test_step_whose_answer_is_lost_for_good_is_undone_as_well(noa: Noa, shop: Shop, step: str, task: str) -> None:
    """The service dies after its commit at each attempt: it was done, and nobody knows."""
    before = shop.books()
    noa.env["NOA_ORDER_SERVICES_CRASH"] = step
    done = order(noa, lines=ONE_LINE)
    assert done["status"] == "rolled_back"
    assert done["failure"]["code"] in ("AGENT_LOST", "POISON_TASK"), "a task that ends its agents is told so"
    lost = [event["attempt"] for event in noa.events("attempt_failed") if event["task"] == task]
    assert lost == [1, 2, 3]
    assert shop.books() == before


def test_charge_whose_answer_is_lost_once_is_asked_for_again_and_charged_once(noa: Noa, shop: Shop) -> None:
    noa.env["NOA_ORDER_SERVICES_CRASH"] = "payment.charge:1"
    done = order(noa)
    assert done["status"] == "succeeded"
    assert [event["task"] for event in noa.events("attempt_failed")] == ["money/charge"]
    assert "('alice', 134200, 1)" in shop.books()["payment.accounts"]


def test_compensation_that_fails_some_times_is_tried_until_it_works(noa: Noa, shop: Shop) -> None:
    """The refund is on disk and its answer lost, twice."""
    before = shop.books()
    noa.env["NOA_ORDER_SERVICES_CRASH"] = "payment.refund:2"
    done = order(noa, country="AQ")
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "NO_CARRIER")
    failed = [event["task"] for event in noa.events("attempt_failed")]
    assert failed == ["parcel/ship", "money/charge~compensate", "money/charge~compensate"]
    assert shop.books() == before


def test_engine_killed_in_the_middle_of_the_rollback_goes_on_with_it(noa: Noa, shop: Shop) -> None:
    before = shop.books()
    with shop.held("payment") as let_go:
        process = noa.start("run", SAGA, "--run-id", "order", "--input", "country=AQ")
        wait_for_tasks(noa, "attempt_succeeded", *GOODS)
        with shop.held("inventory"):
            let_go()
            # Independent: all releases are asked for before one of them has ended.
            wait_for_tasks(noa, "task_scheduled", *(f"{task}~compensate" for task in GOODS))
            kill(process)
            assert undone(noa) == ["parcel/ship", "money/charge"]
    done = noa.json("resume", "order")
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "NO_CARRIER")
    assert shop.books() == before
    assert undone(noa)[:2] == ["parcel/ship", "money/charge"]
    assert sorted(undone(noa)[2:]) == list(GOODS), "what was undone is not undone again"


def test_cancelled_order_is_undone(noa: Noa, shop: Shop) -> None:
    """Ctrl-C while the parcel is being booked; nobody knows whether it was."""
    before = shop.books()
    with shop.held("shipping") as let_go:
        process = noa.start("run", SAGA, "--run-id", "order", "--json")
        wait_for_tasks(noa, "task_scheduled", "parcel/ship")
        process.send_signal(signal.SIGINT)
        wait_for_tasks(noa, "task_scheduled", "parcel/ship~compensate")
        let_go()
        out, err = process.communicate(timeout=90)
    assert (process.returncode, json.loads(out)["status"]) == (1, "rolled_back"), err
    assert shop.books() == before
    assert undone(noa)[:2] == ["parcel/ship", "money/charge"]


def test_order_that_is_part_of_another_workflow_is_undone_with_it(noa: Noa, shop: Shop, tmp_path: Path) -> None:
    before = shop.books()
    whole = {"workflow": str(SAGA), "name": "whole", "inputs": {"country": "FR"}}
    gift = {"agent": "payment", "action": "charge", "inputs": {"account": "bob", "amounts_cents": [9900]}}
    stages = [{"name": "orders", "type": "sequential", "tasks": [whole, gift]}]
    parent = {"workflow": {"name": "parent", "on_failure": "rollback", "stages": stages}}
    (tmp_path / "parent.json").write_text(json.dumps(parent))
    done = noa.json("run", tmp_path / "parent.json")
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "CARD_DECLINED")
    assert shop.books() == before
    assert set(undone(noa)) == {"orders/whole", "parcel/ship", "money/charge", *GOODS}


def test_compensation_that_fails_for_good_is_named_and_is_done_once_it_is_mended(
    noa: Noa, shop: Shop, tmp_path: Path
) -> None:
    before = shop.books()
    done = order(noa, account="carol", country="AQ")
    assert (done["status"], done["failure"]["code"]) == ("rollback_failed", "ROLLBACK_FAILED")
    (over,) = noa.events("run_finished")
    assert sorted(over["left"]) == sorted([*GOODS, "money/charge"]), "what waits for the refund is left too"
    assert "money/charge" in done["failure"]["message"]
    assert "REFUND_REFUSED" in json.dumps(done["failure"])
    assert undone(noa) == ["parcel/ship"]
    assert "('carol', 134200, 0)" in shop.books()["payment.accounts"]

    mended = {"agent": "payment", "action": "seed", "inputs": {"accounts": {"carol": {"takes_refunds": True}}}}
    stages = [{"name": "mend", "type": "sequential", "tasks": [mended]}]
    (tmp_path / "mend.json").write_text(json.dumps({"workflow": {"name": "mend", "stages": stages}}))
    assert noa.json("run", tmp_path / "mend.json")["status"] == "succeeded"

    again = noa.json("retry", "order")
    assert (again["status"], again["failure"]["code"]) == ("rolled_back", "NO_CARRIER"), (
        "why it failed in the first place"
    )
    assert shop.books() == {**before, "payment.accounts": before["payment.accounts"].replace("200000, 0", "200000, 1")}
    assert undone(noa)[:2] == ["parcel/ship", "money/charge"]
    assert sorted(undone(noa)[2:]) == list(GOODS)
