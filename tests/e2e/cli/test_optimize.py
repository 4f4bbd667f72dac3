"""`noa optimize` as a person calls it, over runs of real processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Done, Noa

AGENT = """
import asyncio

from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import ActionFailed, Agent, Context, action


class Waits(Agent):
    name = "waits"

    @action(idempotent=True)
    async def wait(self, seconds: float) -> dict:
        await asyncio.sleep(seconds)
        return {}

    @action(idempotent=True)
    async def second_time(self, ctx: Context) -> dict:
        if ctx.attempt == 1:
            raise ActionFailed("BUSY", "too many ask at once", retryable=True)
        return {}


@hookimpl
def noa_agents():
    return [AgentDeclaration("waits", factory=Waits)]
"""


def task(name: str, seconds: float, **keys: Any) -> dict[str, Any]:
    return {"name": name, "agent": "waits", "action": "wait", "inputs": {"seconds": seconds}, **keys}


def write(noa: Noa, *tasks: dict[str, Any], name: str = "nightly", **workflow: Any) -> Path:
    noa.write("waits.py", AGENT)
    stage = {"name": "s", "type": "parallel", "tasks": list(tasks)}
    made = {"name": name, "version": "1", "max_parallel": 1, **workflow, "stages": [stage]}
    return noa.write(f"{name}.json", json.dumps({"workflow": made}))


def run(noa: Noa, file: Path, *args: str, **env: str) -> None:
    done = noa("run", file, "-q", "--plugin", "waits.py", *args, plugin=False, **env)
    assert done.code == 0, done.err


def optimize(noa: Noa, *args: str, **env: str) -> Done:
    return noa("optimize", *args, "--plugin", "waits.py", plugin=False, **env)


def begun(noa: Noa) -> list[str]:
    """Tasks of the latest run in the order in which they began."""
    events = noa("events", "latest", "--json").out.splitlines()
    found = [json.loads(line) for line in events]
    return [e["task"] for e in found if e["type"] == "task_scheduled" and e["attempt"] == 1]


@pytest.fixture
def nightly(noa: Noa) -> Path:
    retried = {"name": "retried", "agent": "waits", "action": "second_time", "recovery": [{"retry": {"delay_s": 0}}]}
    return write(noa, task("short", 0.0), task("long", 0.2), task("after", 0.1, needs=["long"]), retried)


def test_what_was_learned_is_shown_applied_and_forgotten(noa: Noa, nightly: Path) -> None:
    run(noa, nightly)
    assert begun(noa)[0] == "s/short", "in the order of the file"
    run(noa, nightly)
    assert begun(noa)[:2] == ["s/long", "s/after"], "the longest way to the end first"
    shown = optimize(noa, "nightly")
    assert shown.code == 0, shown.err
    assert "nightly: learned from 2 runs, version 1" in shown.out
    assert "2 BUSY (a retry helped 2 of 2 times)" in shown.out
    assert "begins first" in shown.out
    assert "1 run in the order of the file took" in shown.out
    assert "1 run in learned order took" in shown.out
    assert "lower bound" in shown.out

    known = optimize(noa, nightly.name, "--json").json
    assert known["runs"] == 2
    assert known["applied"]["order"] is True
    assert known["applied"]["expected_ms"]["s/long"] >= 199
    assert known["tasks"]["s/long"]["count"] == 2
    assert known["tasks"]["s/retried"]["failures"] == {"BUSY": {"count": 2, "retried": 2, "helped": 2}}
    assert [past["learned"] for past in known["past"]] == [False, True]
    assert known["gained"]["arrival"]["runs"] == known["gained"]["learned"]["runs"] == 1
    assert known["estimate"]["capacity"] == 1
    assert known["estimate"]["learned_ms"] == known["estimate"]["bound_ms"] == known["estimate"]["work_ms"]

    assert optimize(noa, "nightly", "--forget").out.strip() == "what was learned of workflow 'nightly' is forgotten"
    assert optimize(noa, "nightly", "--forget", "--json").json == {"workflow": "nightly", "forgotten": False}


def test_learning_is_switched_off_by_the_option_and_by_the_environment(noa: Noa, nightly: Path) -> None:
    run(noa, nightly, "--no-learn")
    run(noa, nightly, NOA_LEARN="0")
    assert optimize(noa, "nightly").code == 2, "neither run taught anything"
    run(noa, nightly)
    run(noa, nightly, "--no-learn")
    assert begun(noa)[0] == "s/short"
    assert "nothing: NOA_LEARN is 0" in optimize(noa, "nightly", NOA_LEARN="off").out
    wrong = noa("run", nightly, "--plugin", "waits.py", plugin=False, NOA_LEARN="perhaps")
    assert wrong.code == 2
    assert "NOA_LEARN=perhaps: expected 1 or 0" in wrong.err


def test_proposals_are_printed_as_the_part_of_a_definition_that_they_change(noa: Noa) -> None:
    noa.write("waits.py", AGENT)
    stage = {"name": "s", "type": "loop", "for_each": [1, 2, 3, 4, 5], "tasks": [task("each", 0.02)]}
    run(noa, noa.write("daily.json", json.dumps({"workflow": {"name": "daily", "version": "1", "stages": [stage]}})))
    found = optimize(noa, "daily", "--json").json
    assert {proposal["kind"] for proposal in found["proposals"]} == {"timeout"}
    changed = yaml.safe_load(found["snippet"])["workflow"]["stages"][0]
    assert changed == {"name": "s", "tasks": [{"name": "each", "timeout": "10s"}]}


def test_what_nobody_ran_is_refused_and_a_missing_plugin_costs_the_estimate_only(noa: Noa, nightly: Path) -> None:
    run(noa, nightly)
    for name, hint in (("nightli", "Did you mean 'nightly'?"), ("zzz", "Workflows with runs: nightly")):
        done = optimize(noa, name)
        assert done.code == 2
        assert hint in done.err
    shown = noa("optimize", "nightly", plugin=False)
    assert shown.code == 0, shown.err
    assert "s/long" in shown.out
    assert "cannot be read now" in shown.out
