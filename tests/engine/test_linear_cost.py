"""What a task costs does not grow with the run: folding a journal, storms of retries, rollbacks. Ratios, no seconds.

Figures of the whole engine with its store are printed by `benchmarks/reliability.py`.
"""

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from noa.engine.state import RunState
from noa.model.events import RunReopened, decode_event, encode_event
from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.plan import Plan
from noa.plugin import Registry
from noa.testing.simulation import Asked, Simulation

SMALL, LARGE = 300, 4_000
GENEROUS = 3.0
"""A cost that grew with the run would be 13 times as large (7 where half as many tasks are decided)."""

RETRY = [{"retry": {"max_attempts": 5, "delay_s": 0.01}}]
UNDO = {"agent": "a", "action": "undo"}


class Plans:
    """Plans of many equal tasks."""

    def __init__(self, compile_stages: Callable[..., Plan]) -> None:
        self._compile = compile_stages

    def of(self, count: int, **keys: Any) -> Plan:
        tasks = [{"name": f"t{i}", "agent": "a", "action": "act", "inputs": {}, **keys} for i in range(count)]
        return self._compile({"name": "s", "type": "parallel", "max_parallel": 16, "tasks": tasks})


@pytest.fixture
def plans(compile_stages: Callable[..., Plan]) -> Plans:
    return Plans(compile_stages)


def fine(_asked: Asked) -> Outcome:
    return Succeeded({})


def fails_three_times(asked: Asked) -> Outcome:
    return Succeeded({}) if asked.attempt > 3 else Failure("FLAKY", "not yet", retryable=True)


def cost(work: Callable[[], Any], count: int) -> float:
    """CPU seconds of a task, the best of two."""
    taken = []
    for _ in range(2):
        gc.collect()
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken) / count


def test_folding_a_journal_costs_the_same_a_task_in_a_large_run(registry: Registry, plans: Plans) -> None:
    def folding(count: int) -> float:
        plan = plans.of(count)
        journal = [encode_event(e) for e in Simulation(plan, fine, registry=registry).run().journal]

        def fold() -> None:
            state = RunState(plan)
            for body in journal:
                state.apply(decode_event(body))
            assert state.status == "succeeded"

        return cost(fold, count)

    assert folding(LARGE) < GENEROUS * folding(SMALL)


@pytest.mark.parametrize(
    ("keys", "work"),
    [({"recovery": RETRY}, fails_three_times), ({"compensate": UNDO, "recovery": RETRY}, fine)],
    ids=["a storm of retries", "compensations that are not needed"],
)
def test_deciding_costs_the_same_a_task_in_a_large_run(
    registry: Registry, plans: Plans, keys: dict[str, Any], work: Callable[[Asked], Outcome]
) -> None:
    def deciding(count: int) -> float:
        plan = plans.of(count, **keys)
        return cost(lambda: Simulation(plan, work, registry=registry).run(), count)

    assert deciding(LARGE // 2) < GENEROUS * deciding(SMALL)


def test_a_storm_of_retries_leaves_no_more_memory_than_a_calm_run(registry: Registry, plans: Plans) -> None:
    def held(work: Callable[[Asked], Outcome]) -> float:
        plan = plans.of(800, recovery=RETRY)
        run = Simulation(plan, work, registry=registry)
        tracemalloc.start()
        run.run()
        run.journal.clear()
        run.executed.clear()
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] / 800
        tracemalloc.stop()
        return size

    held(fine)
    calm, storm = held(fine), held(fails_three_times)
    assert storm < calm + 2_500, f"a task that failed holds {storm:,.0f} bytes, one that did not {calm:,.0f}"


def test_undoing_costs_the_same_a_task_in_a_large_run(registry: Registry, plans: Plans) -> None:
    def undoing(count: int) -> float:
        plan = plans.of(count, compensate=UNDO)
        done = Simulation(plan, fine, registry=registry).run()
        journal = [*done.journal, RunReopened(at_ms=done.journal[-1].at_ms + 1, rollback=True)]

        def undo() -> None:
            again = Simulation(plan, fine, registry=registry, history=journal).run()
            assert again.state.status == "rolled_back"

        return cost(undo, count)

    assert undoing(LARGE // 2) < GENEROUS * undoing(SMALL)
