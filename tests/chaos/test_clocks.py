"""The wall clock jumps by hours, to and fro, while runs go on and between two lives of an engine."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noa.engine.engine import Running
from noa.engine.ports import SystemClock, Timer
from noa.model.events import Event, RecoveryChosen
from noa.model.ids import RunId
from noa.runtime import Runtime
from noa.storage import SqliteJournal

from .fleet import until
from .ledger import Ledger
from .lives import runtime_of
from .scenarios import stage, task

HOUR_MS = 3_600_000
PROMPTLY_S = 30
"""Far longer than anything here takes, far shorter than a jump."""


class JumpingClock(SystemClock):
    """The system's clock, put forward or back by `ahead_ms`. Delays are measured as the system's clock does it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms

    def call_at(self, due_ms: int, call: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, (due_ms - self.now_ms()) / 1000), call)


async def opened(folder: Path, ledger: Ledger, clock: JumpingClock, **options: Any) -> Runtime:
    """A runtime whose engine and whose leases go by a clock."""
    runtime = runtime_of(folder, ledger, **options)
    await runtime.open()
    runtime.engine._clock = clock
    journal = runtime.journal
    assert isinstance(journal, SqliteJournal)
    journal._now_ms = clock.now_ms
    return runtime


STAGES = [
    stage("s", "sequential", task("first", inputs={"value": 1, "sleep_ms": 20}),
          task("flaky", inputs={"fail_first": 2, "value": 2},
               recovery=[{"retry": {"max_attempts": 3, "delay_s": 0.2, "jitter": 0}}]),
          task("limited", inputs={"hang": True}, timeout={"total": "200ms"}, optional=True)),
    stage("t", "sequential", task("last", inputs={"value": 3}), depends_on=["s"]),
]  # fmt: skip
DEFINITION = {"workflow": {"name": "w", "version": "1", "timeout": "12h", "stages": STAGES}}


MOMENTS: dict[str, Callable[[Running, Ledger], bool]] = {
    "during an attempt": lambda _running, ledger: len(ledger.entries()) == 1,
    "during a retry's delay": lambda running, _ledger: "retry:s/flaky" in running.live._timers,
    "during a limit": lambda running, ledger: ledger.entries()[-1:] != [] and ledger.entries()[-1].task == "s/limited",
}


@pytest.mark.parametrize("jump_h", [-3, 3], ids=["back", "forward"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_clock_that_jumps_while_a_run_goes_on_neither_loses_nor_delays_it(
    moment: str, jump_h: int, tmp_path: Path, tried: Counter[str]
) -> None:
    clock, ledger = JumpingClock(), Ledger(tmp_path / "ledger")
    runtime = await opened(tmp_path, ledger, clock)
    runtime.engine._lease_ms = 300
    try:
        async with asyncio.timeout(PROMPTLY_S):
            running = await runtime.start(DEFINITION, run_id="r1")
            await until(lambda: MOMENTS[moment](running, ledger))
            clock.ahead_ms += jump_h * HOUR_MS
            state = await running.wait()
    finally:
        await runtime.close()
        ledger.close()
    tried["clock jumps"] += 1
    assert state.status == "succeeded"
    assert {path: task.status for path, task in state.tasks.items()} == {
        "s/first": "succeeded", "s/flaky": "succeeded", "s/limited": "failed", "t/last": "succeeded",
    }  # fmt: skip
    done = [entry.task for entry in ledger.entries() if entry.what == "done"]
    assert done == ["s/first", "s/flaky", "t/last"]


@pytest.mark.parametrize("jump_h", [-3, 3], ids=["back", "forward"])
async def test_a_lease_is_kept_and_given_up_whatever_the_clock_does(
    jump_h: int, tmp_path: Path, tried: Counter[str]
) -> None:
    clock = JumpingClock()
    ledgers = Ledger(tmp_path / "first"), Ledger(tmp_path / "second")
    first, second = [await opened(tmp_path, ledger, clock) for ledger in ledgers]
    tasks = task("slow", inputs={"sleep_ms": 800}), task("last", inputs={"value": 1})
    definition = {"workflow": {"name": "w", "version": "1", "stages": [stage("s", "sequential", *tasks)]}}
    for runtime in (first, second):
        runtime.engine._lease_ms = 2000
    try:
        async with asyncio.timeout(PROMPTLY_S):
            running = await first.start(definition, run_id="r1")
            await until(lambda: len(ledgers[0].entries()) == 1)
            clock.ahead_ms += jump_h * HOUR_MS
            adopted = await second.engine.adopt()  # forward, the lease is over by the clock that both go by
            ends = await asyncio.gather(running.wait(), *(other.wait() for other in adopted), return_exceptions=True)
    finally:
        await first.close()
        await second.close()
    tried["clock jumps"] += 1
    statuses = [getattr(end, "status", type(end).__name__) for end in ends]
    assert statuses in (["succeeded"], ["OwnershipError", "succeeded"])
    assert len(adopted) <= (jump_h > 0)  # forward, whoever looks first has it
    done = [entry.key for ledger in ledgers for entry in ledger.entries() if entry.what == "done"]
    assert set(done) == {"r1:s/slow", "r1:s/last"}
    assert done.count("r1:s/last") == 1
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("jump_h", [-3, 3], ids=["back", "forward"])
@pytest.mark.parametrize("timer", ["retry", "total", "hold"])
async def test_timers_of_a_run_that_is_resumed_under_another_time_are_not_late_by_hours(
    timer: str, jump_h: int, tmp_path: Path, tried: Counter[str]
) -> None:
    definition, status = _waiting(timer)
    clock, ledger = JumpingClock(), Ledger(tmp_path / "ledger")
    runtime = await opened(tmp_path, ledger, clock)
    running = await runtime.start(definition, run_id="r1")
    await until(lambda: running.live._timers != {})
    await runtime.close()
    clock.ahead_ms += jump_h * HOUR_MS
    again = await opened(tmp_path, ledger, clock)
    try:
        async with asyncio.timeout(PROMPTLY_S):
            state = await (await again.engine.resume(running.run_id)).wait()
    finally:
        await again.close()
        ledger.close()
    tried["clock jumps"] += 1
    assert state.status == status


async def test_a_clock_that_is_put_back_just_before_a_timer_is_set_does_not_put_it_off(
    tmp_path: Path, tried: Counter[str]
) -> None:
    definition, status = _waiting("retry")
    clock, ledger = JumpingClock(), Ledger(tmp_path / "ledger")

    def jump(_run: RunId, _seq: int, event: Event) -> None:
        if isinstance(event, RecoveryChosen):  # on disk, and what follows from it is about to be done
            clock.ahead_ms -= 3 * HOUR_MS

    runtime = await opened(tmp_path, ledger, clock, on_event=jump)
    try:
        async with asyncio.timeout(PROMPTLY_S):
            state = await (await runtime.start(definition, run_id="r1")).wait()
    finally:
        await runtime.close()
        ledger.close()
    tried["clock jumps"] += 1
    assert state.status == status


def _waiting(timer: str) -> tuple[dict[str, Any], str]:
    """A workflow that waits for a timer of 0.3 s, and how it ends."""
    kinds: dict[str, tuple[dict[str, Any], str]] = {
        "retry": (task("t", inputs={"fail_first": 1},
                       recovery=[{"retry": {"max_attempts": 2, "delay_s": 0.3, "jitter": 0}}]), "succeeded"),
        "total": (task("t", inputs={"hang": True}, timeout={"total": "300ms"}), "failed"),
        "hold": (task("t", inputs={"fail": "BROKEN"},
                      recovery=[{"ask": {"timeout": "300ms", "on_timeout": "skip"}}]), "succeeded"),
    }  # fmt: skip
    made, status = kinds[timer]
    return {"workflow": {"name": "w", "version": "1", "stages": [stage("s", "sequential", made)]}}, status
