"""Puts signals into a run's inbox, durably, and waits for what the engine that drives it makes of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import Any

from noa.cli.session import now_ms
from noa.model.events import CancelRequested, SignalApplied, SignalRefused
from noa.model.ids import RunId
from noa.plugin import Journal, SignalRecord
from noa.runtime import current_actor

__all__ = ["put_signal", "wait_judged"]

_POLL_S = 0.05


async def put_signal(
    journal: Journal, run: RunId, kind: str, *, reason: str, actor: str = "", body: Mapping[str, Any] | None = None
) -> str:
    """Record a signal; its id. It counts also where no engine drives the run: then when one goes on with it.

    Args:
        actor: Who wants it, as `actor_of` says; empty is the user of the operating system.
    """
    signal = SignalRecord(
        signal_id=uuid.uuid4().hex,
        run_id=run,
        kind=kind,
        actor=actor or current_actor(),
        reason=reason,
        body=dict(body or {}),
        created_at_ms=now_ms(),
    )
    await journal.put_signal(signal)
    return signal.signal_id


async def wait_judged(
    journal: Journal, run: RunId, signal: str, *, after: int, timeout_s: float
) -> SignalApplied | SignalRefused | None:
    """The event that records what became of a signal; None where there is none in time.

    Args:
        after: Sequence number of an event before it.
    """
    end = time.monotonic() + timeout_s
    while True:
        for seq, event in await journal.read(run, after=after):
            after = seq
            if isinstance(event, SignalApplied | SignalRefused) and event.signal == signal:
                return event
            if isinstance(event, CancelRequested) and event.signal == signal:
                return None
        if time.monotonic() >= end:
            return None
        await asyncio.sleep(_POLL_S)
