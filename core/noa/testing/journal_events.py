"""Events, signals and small histories for tests of journals."""

from __future__ import annotations

from typing import Any

from noa.model.events import AttemptSucceeded, Event, RunCreated, RunFinished, RunStatus, TimerFired
from noa.model.ids import RunId, TaskPath
from noa.plugin.interfaces import Journal, Lease, SignalRecord

__all__ = [
    "ALSO_ELSEWHERE",
    "ELSEWHERE",
    "LEASE_MS",
    "begin",
    "created",
    "end",
    "finished",
    "kept",
    "noted",
    "signalled",
]

LEASE_MS = 60_000
ELSEWHERE = "elsewhere:boot.1:1:1:aaaa"
"""An owner of which nothing can be known from here, so that only its lease counts."""

ALSO_ELSEWHERE = "elsewhere:boot.1:2:1:bbbb"


def created(
    run: str, *, at_ms: int = 1_000, workflow: str = "pipeline", parent: str = "", key: str = "", sha256: str = "00"
) -> RunCreated:
    """A first event."""
    return RunCreated(
        at_ms=at_ms, run_id=run, workflow=workflow, version="1", definitions={"": sha256}, inputs={"n": 1},
        parent=parent, key=key,
    )  # fmt: skip


def noted(number: int) -> Event:
    """Some event that differs from others by its number."""
    return TimerFired(at_ms=2_000 + number, timer=f"timer-{number}")


def finished(status: RunStatus = "succeeded", *, at_ms: int = 9_000, degraded: bool = False) -> Event:
    """A last event."""
    return RunFinished(at_ms=at_ms, status=status, degraded=degraded)


def kept(key: str, outputs: dict[str, Any], *, at_ms: int = 5_000, ttl_ms: int = 0) -> Event:
    """A task that succeeded and whose outputs are kept under a key."""
    return AttemptSucceeded(at_ms=at_ms, task=TaskPath("s/t"), attempt=1, outputs=outputs, keep={key: ttl_ms})


def signalled(run: str, signal_id: str, *, at_ms: int = 1) -> SignalRecord:
    """A signal that asks for cancellation."""
    return SignalRecord(signal_id, RunId(run), "cancel", "ada", "enough", {"é": [1, None]}, at_ms)


async def begin(journal: Journal, run: str = "run-1", *, owner: str = ELSEWHERE, lease_ms: int = LEASE_MS) -> Lease:
    """Create a run whose history has one event."""
    return await journal.create(RunId(run), created(run), owner=owner, lease_ms=lease_ms, texts={"00": "text"})


async def end(
    journal: Journal, run: str, *, status: RunStatus = "succeeded", parent: str = "", sha256: str = "00", key: str = ""
) -> Lease:
    """Create a run that is over, and give it up; its history has two events. The lease is an old one then."""
    first = created(run, parent=parent, sha256=sha256, key=key)
    lease = await journal.create(
        RunId(run), first, owner=ELSEWHERE, lease_ms=LEASE_MS, texts={sha256: f"text {sha256}"}
    )
    await journal.append(lease, [finished(status)], expected_seq=1)
    await journal.release(lease)
    return lease
