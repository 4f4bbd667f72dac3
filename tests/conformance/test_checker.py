"""The checker is checked: an agent that keeps the contract passes every case, and each case is seen to fail.

`broken/` has the agent, written against the contract alone, and for each case copies of it that break one rule. The
short form runs the broken rule's case and its cheap neighbours on each; with NOA_LONG_TESTS=1 it runs all cases.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from noa.errors import UsageError
from noa.testing.conformance import CASES, CaseResult, Report, Target, check
from tests.conformance.broken.faults import FAULTS, Fault

LONG = os.environ.get("NOA_LONG_TESTS") == "1"
AT_ONCE = 3
BROKEN = Path(__file__).with_name("broken")
REFERENCE = (sys.executable, str(BROKEN / "reference_agent.py"))
WILD = (sys.executable, str(BROKEN / "wild_agents.py"))

# What takes more than a second with the reference agent, or measures time: run where it is looked at itself.
SLOW = frozenset(
    {
        *(id for id in CASES if id.startswith("launch.") and id not in {"launch.sigint", "launch.output"}),
        *("health.loading", "health.busy"),
        *("execute.heartbeats", "execute.deadline-missed", "execute.join", "execute.repeat", "execute.hang-up"),
        *("execute.many", "cancel.finished"),
    }
)


class Bench:
    """Checks agents beside the tests: several at once, on one loop in a thread of its own.

    Attributes:
        marker: A variable that every process of every agent has, so that one that was left is found.
    """

    def __init__(self) -> None:
        self.marker = uuid.uuid4().hex
        self.loop = asyncio.new_event_loop()
        self.free = asyncio.Semaphore(AT_ONCE)
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.futures: dict[str, Future[Report]] = {}

    def submit(self, work: Coroutine[Any, Any, Report]) -> Future[Report]:
        """Begin when there is room."""

        async def when_free() -> Report:
            async with self.free:
                return await work

        return asyncio.run_coroutine_threadsafe(when_free(), self.loop)

    def check(self, *command: str, only: tuple[str, ...] = (), **limits: float) -> Future[Report]:
        """Check an agent that is launched so."""
        target = Target(command=command, env={"NOA_TEST_MARKER": self.marker}, **limits)
        return self.submit(check(target, only=only))

    def left(self) -> list[str]:
        """Processes of agents that are still there."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get("NOA_TEST_MARKER") == self.marker:
                    found.append(f"{process.pid}: {process.cmdline()}")
        return found

    def close(self) -> None:
        """End the thread, and whatever it still does."""

        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel_all(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="noa-") as folder:
        tempfile.tempdir = folder
        made = Bench()
        try:
            yield made
        finally:
            made.close()
            tempfile.tempdir = before
        assert made.left() == [], "the checker leaves no process"
        assert os.listdir(folder) == [], "the checker leaves no file"


def cases_for(fault: Fault) -> tuple[str, ...]:
    """The case of a fault with its cheap neighbours, or all cases in the long form."""
    if LONG:
        return ()
    group = fault.case.partition(".")[0]
    return tuple(id for id in CASES if id == fault.case or (id.startswith(f"{group}.") and id not in SLOW))


@pytest.fixture(scope="module")
def checked(bench: Bench, request: pytest.FixtureRequest) -> Mapping[str, Future[Report]]:
    """The reports on the broken agents that are asked for, made several at once."""
    wanted = [item.callspec.params["name"] for item in request.session.items if is_fault_test(item)]
    return {name: bench.check(*REFERENCE, "--fault", name, only=cases_for(FAULTS[name])) for name in wanted}


def is_fault_test(item: Any) -> bool:
    return item.name.startswith("test_fault_fails_its_case[") and item.path == Path(__file__)


def by_status(report: Report, status: str) -> dict[str, CaseResult]:
    return {result.id: result for result in report.results if result.status == status}


def told(report: Report) -> str:
    """For the message of a test that fails."""
    return "\n" + report.to_text()


# --- an agent that keeps the contract


@pytest.mark.timeout(300)
def test_the_reference_agent_passes_every_case(bench: Bench) -> None:
    report = bench.check(*REFERENCE, "--load-s", "2").result()
    assert list(by_status(report, "passed")) == list(CASES), told(report)


# --- agents that break one rule


def test_every_case_has_a_fault() -> None:
    assert {fault.case for fault in FAULTS.values()} == set(CASES)


def test_faults_that_fail_more_than_their_case_are_few_and_have_a_reason() -> None:
    wide = {name: fault.also for name, fault in FAULTS.items() if fault.also}
    assert len(wide) <= 5
    assert all(case in CASES and reason for also in wide.values() for case, reason in also.items())


@pytest.mark.timeout(3600 if LONG else 300)
@pytest.mark.parametrize("name", FAULTS)
def test_fault_fails_its_case(checked: Mapping[str, Future[Report]], name: str) -> None:
    fault = FAULTS[name]
    report = checked[name].result()
    failed = by_status(report, "failed")
    expected = {fault.case} | {case for case in fault.also if case in {result.id for result in report.results}}
    assert set(failed) == expected, told(report)
    message = failed[fault.case].message.lower()
    assert [word for word in fault.says if word not in message] == [], failed[fault.case].message
    assert failed[fault.case].advice, "it is said what to change"


# --- programs that are no agents


def wild(bench: Bench, behaviour: str, *only: str) -> Future[Report]:
    """A check of a program of `wild_agents`, which may take a second for each answer."""
    return bench.check(*WILD, behaviour, only=only, step_timeout_s=1.0, start_timeout_s=2.0)


def assert_nothing_passes(report: Report, *says: str) -> None:
    failed = by_status(report, "failed")
    assert failed, told(report)
    assert not by_status(report, "passed"), told(report)
    first = next(iter(failed.values())).message.lower()
    assert [word for word in says if word not in first] == [], told(report)


def test_an_agent_that_exits_at_once_is_told_with_its_status_and_its_last_words(bench: Bench) -> None:
    report = wild(bench, "exits").result()
    assert_nothing_passes(report, "status 3", "the model file is not there")


def test_a_program_that_is_not_there_is_the_callers_mistake(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"there-is-no-such-agent.*was not found"):
        bench.check("there-is-no-such-agent").result()
    with pytest.raises(UsageError, match=r"/no/such/agent does not exist"):
        bench.check("/no/such/agent").result()
