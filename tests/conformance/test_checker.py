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
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from tests.conformance.broken.faults import FAULTS, Fault

from noa.errors import UsageError
from noa.testing.conformance import CASES, CaseResult, Report, Target, check

LONG = os.environ.get("NOA_LONG_TESTS") == "1"
AT_ONCE = 4
BROKEN = Path(__file__).with_name("broken")
REFERENCE = (sys.executable, str(BROKEN / "reference_agent.py"))
WILD = (sys.executable, str(BROKEN / "wild_agents.py"))

# Neighbours of a broken rule that are run in the short form: what takes no time, and does not measure it.
SLOW = frozenset(
    {
        *(case for case in CASES if case.startswith("launch.") and case not in {"launch.sigint", "launch.output"}),
        *("health.loading", "health.busy", "cancel.finished"),
        *("execute.heartbeats", "execute.deadline-missed", "execute.join", "execute.repeat", "execute.hang-up"),
        *("execute.many", "execute.capacity", "execute.overloaded-again"),
    }
)


@dataclass(frozen=True)
class Job:
    """A check that tests ask for.

    Args:
        command: How the agent is launched.
        only: The cases; empty is all.
        limit_s: How long the checker waits for an answer; twice that for SERVING.
        alone: Whether nothing else is done meanwhile, because it measures time or takes all there is.
    """

    command: tuple[str, ...]
    only: tuple[str, ...] = ()
    limit_s: float = 10.0
    alone: bool = False


def cases_for(fault: Fault) -> tuple[str, ...]:
    """The case of a fault, with its cheap neighbours for the first fault of each case; all in the long form."""
    if LONG:
        return ()
    group = fault.case.partition(".")[0]
    neighbours = fault.name == fault.case
    return tuple(
        case
        for case in CASES
        if case in {fault.case, *fault.also} or (neighbours and case.startswith(f"{group}.") and case not in SLOW)
    )


def wild(behaviour: str, *only: str) -> Job:
    """A program of `wild_agents`, which may take a second for each answer."""
    return Job((*WILD, behaviour), only, limit_s=1.0)


# First what is done alone, then the longest ones.
JOBS = {
    "busy": Job(REFERENCE, ("health.busy",), alone=True),
    "endless": replace(
        wild("endless", "health.manifest", "execute.terminal", "cancel.running"), limit_s=3.0, alone=True
    ),
    "never_listens": wild("never_listens", *(() if LONG else ("launch.unix", "calls.*", "execute.*"))),
    "hangs": wild("hangs", *(() if LONG else ("launch.tcp", "health.*", "execute.*"))),
    "says_nothing": wild("says_nothing", "launch.unix", "execute.*"),
    "speaks_http_1": wild("speaks_http_1", "launch.unix", "execute.*"),
    "garbles": wild("garbles", "health.manifest", "execute.terminal"),
    "exits": wild("exits"),
    "reference": Job(REFERENCE, tuple(case for case in CASES if case not in {"health.busy", "health.loading"})),
    "loading": Job((*REFERENCE, "--load-s", "4"), ("health.loading",)),
    **{
        name: Job((*REFERENCE, "--fault", name), cases_for(fault))
        for name, fault in sorted(FAULTS.items(), key=lambda item: not item[0].startswith(("launch.", "health.")))
    },
}


class Workshop:
    """Checks agents beside the tests: several at once, on one loop in a thread of its own.

    Attributes:
        marker: A variable that every process of every agent has, so that one that was left is found.
    """

    def __init__(self) -> None:
        self.marker = uuid.uuid4().hex
        self.loop = asyncio.new_event_loop()
        self.room = asyncio.Semaphore(AT_ONCE)
        self.turn = asyncio.Lock()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.reports: dict[str, Future[Report]] = {}

    def begin(self, name: str) -> None:
        """Have a job done when there is room for it."""
        self.reports[name] = asyncio.run_coroutine_threadsafe(self.check(JOBS[name]), self.loop)

    async def check(self, job: Job) -> Report:
        async with self.place(AT_ONCE if job.alone else 1):
            target = Target(
                command=job.command,
                env={"NOA_TEST_MARKER": self.marker},
                step_timeout_s=job.limit_s,
                start_timeout_s=2 * job.limit_s,
            )
            return await check(target, only=job.only)

    @asynccontextmanager
    async def place(self, count: int) -> AsyncIterator[None]:
        """So many of the places, once it is this one's turn."""
        async with self.turn:
            for _ in range(count):
                await self.room.acquire()
        try:
            yield
        finally:
            for _ in range(count):
                self.room.release()

    def report(self, name: str) -> Report:
        """The report of a job."""
        return self.reports[name].result()

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
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """Does the jobs of all tests that were asked for; leaves nothing."""
    items = [item for item in request.session.items if item.path == Path(__file__)]
    wanted = {item.callspec.params["job"] for item in items if hasattr(item, "callspec")}
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="noa-") as folder:
        tempfile.tempdir = folder
        made = Workshop()
        try:
            for name in JOBS:
                if name in wanted:
                    made.begin(name)
            yield made
        finally:
            made.close()
            tempfile.tempdir = before
        assert made.left() == [], "the checker leaves no process"
        assert os.listdir(folder) == [], "the checker leaves no file"


def by_status(report: Report, status: str) -> dict[str, CaseResult]:
    """The results that came out so, by the ids of their cases."""
    return {result.id: result for result in report.results if result.status == status}


def told(report: Report) -> str:
    """A report for the message of a test that fails."""
    return "\n" + report.to_text()


def asks(*jobs: str) -> pytest.MarkDecorator:
    """The jobs that a test needs, one by one."""
    return pytest.mark.parametrize("job", jobs)


pytestmark = pytest.mark.timeout(7200 if LONG else 600)


# --- an agent that keeps the contract


@asks("reference", "busy", "loading")
def test_the_reference_agent_passes(workshop: Workshop, job: str) -> None:
    report = workshop.report(job)
    assert tuple(by_status(report, "passed")) == JOBS[job].only, told(report)


def test_the_reference_agent_is_asked_for_every_case() -> None:
    asked = [case for job in ("reference", "busy", "loading") for case in JOBS[job].only]
    assert sorted(asked) == sorted(CASES)


# --- agents that break one rule


def test_every_case_has_a_fault() -> None:
    assert {fault.case for fault in FAULTS.values()} == set(CASES)


def test_faults_that_fail_more_than_their_case_are_few_and_have_a_reason() -> None:
    wide = {name: fault.also for name, fault in FAULTS.items() if fault.also}
    assert len(wide) <= 5
    assert all(case in CASES and reason for also in wide.values() for case, reason in also.items())


@asks(*FAULTS)
def test_fault_fails_its_case(workshop: Workshop, job: str) -> None:
    fault = FAULTS[job]
    report = workshop.report(job)
    failed = by_status(report, "failed")
    assert set(failed) == {fault.case, *fault.also}, told(report)
    message = failed[fault.case].message.lower()
    assert [word for word in fault.says if word not in message] == [], failed[fault.case].message
    assert failed[fault.case].advice, "it is said what to change"


# --- programs that are no agents


def assert_nothing_passes(report: Report, *says: str) -> None:
    """Check that a program passes nothing, is told why at once, and that no case waits for it again and again."""
    failed = by_status(report, "failed")
    assert failed, told(report)
    assert not by_status(report, "passed"), told(report)
    first = next(iter(failed.values())).message.lower()
    assert [word for word in says if word not in first] == [], told(report)


@asks("exits")
def test_an_agent_that_exits_at_once_is_told_with_its_status_and_its_last_words(workshop: Workshop, job: str) -> None:
    assert_nothing_passes(workshop.report(job), "status 3", "the model file is not there")


@asks("never_listens")
def test_an_agent_that_never_listens_is_given_up(workshop: Workshop, job: str) -> None:
    report = workshop.report(job)
    assert_nothing_passes(report, "did not listen", "within 10 s")
    assert len(by_status(report, "skipped")) > len(report.results) / 2, told(report)
    assert report.seconds < 300


@asks("hangs", "says_nothing", "speaks_http_1")
def test_a_program_that_answers_no_call_is_given_up(workshop: Workshop, job: str) -> None:
    report = workshop.report(job)
    assert_nothing_passes(report, "health")
    assert len(by_status(report, "skipped")) > len(report.results) / 2, told(report)
    assert report.seconds < 100


@asks("garbles")
def test_an_agent_whose_answers_are_no_messages_fails(workshop: Workshop, job: str) -> None:
    assert_nothing_passes(workshop.report(job))


@asks("endless")
def test_an_agent_that_never_ends_a_stream_is_told_so(workshop: Workshop, job: str) -> None:
    report = workshop.report(job)
    message = by_status(report, "failed")["execute.terminal"].message
    assert "the stream of Execute" in message
    assert "more, heartbeat, heartbeat" in message
    assert len(message) < 500, "what arrived is told in a few words"
    assert report.seconds < 300


def test_a_program_that_is_not_there_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match=r"there-is-no-such-agent.*was not found"):
        asyncio.run(check(Target(command=["there-is-no-such-agent"])))
    with pytest.raises(UsageError, match=r"/no/such/agent does not exist"):
        asyncio.run(check(Target(command=["/no/such/agent"])))
