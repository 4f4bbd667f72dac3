"""Thousands of random workflows to which everything happens that can. A failing one is made smaller, to be replayed.

`NOA_LONG_TESTS=1` plays 200,000 schedules instead of 10,400.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from noa.engine import core, interventions, reopening, rollback, state
from noa.engine.commands import SetTimer
from noa.orchestration.resources import ResourceLedger
from noa.testing.simulation import Schedules, Script, SimulationError
from noa.testing.simulation.__main__ import main
from noa.testing.simulation.graphs import iter_tasks
from noa.testing.simulation.world import FAULTS

PARTS = 8
SCHEDULES = 200_000 if os.environ.get("NOA_LONG_TESTS") else 10_400


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Counts of all parts, printed at the end."""
    counts: Counter[str] = Counter()
    yield counts
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None and counts:
        rest = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\nsimulated: {rest}")


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(3600 if SCHEDULES > 20_000 else 300)
def test_nothing_is_lost_doubled_or_stuck_in_random_schedules(played: Counter[str], part: int) -> None:
    each = SCHEDULES // PARTS
    schedules = Schedules()
    schedules.play_all(range(part * each, (part + 1) * each))
    played.update(schedules.counts)
    assert schedules.counts["schedules"] == each
    assert all(schedules.counts[kind] for kind in FAULTS), "every kind of fault was injected"
    assert all(schedules.counts[f"runs {end}"] for end in ("succeeded", "failed", "cancelled", "rolled_back"))
    assert schedules.counts["runs rollback_failed"]


# --- the checks can fail: faults that are planted in the engine are found


def _slots_are_given_back_twice(patch: pytest.MonkeyPatch) -> None:
    whole = state.RunState._free_slot

    def free_slot(self: Any, task: Any) -> None:
        task.stage.active -= bool(task.slot)
        whole(self, task)

    patch.setattr(state.RunState, "_free_slot", free_slot)


def _dependencies_are_ignored(patch: pytest.MonkeyPatch) -> None:
    def met(self: Any, task: Any, *, bad: bool) -> None:
        task.unmet = 0
        if task.status == "pending":
            self._unblocked(task)
            self._pump(task.stage)

    patch.setattr(state.RunState, "_dependency_met", met)


def _every_result_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state.RunState, "accepts", lambda self, task, attempt: task in self.tasks)


def _timers_are_lost_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    whole = core.Core.outstanding

    def outstanding(self: Any, at_ms: int) -> Any:
        events, effects = whole(self, at_ms)
        return events, [effect for effect in effects if not isinstance(effect, SetTimer)]

    patch.setattr(core.Core, "outstanding", outstanding)


def _all_is_undone_at_once(patch: pytest.MonkeyPatch) -> None:
    def first(self: Any) -> Any:
        self._pass([node for node in self._needs if not self._waiting.get(node)])
        return list(self.left.values())

    patch.setattr(rollback.Undoing, "first", first)
    patch.setattr(rollback.Undoing, "undone", lambda self, task: self.left.pop(task.path) and [])


def _nothing_is_left_to_undo(patch: pytest.MonkeyPatch) -> None:
    whole = rollback.undo_plan
    _wherever_it_is(patch, whole, lambda task, children: whole(task, children) if task.index else None)


def _everything_is_done_again(patch: pytest.MonkeyPatch) -> None:
    whole = reopening.reset_of

    def reset_of(stages: Any, tasks: Any, from_task: Any) -> Any:
        reset = whole(stages, tasks, from_task)
        reset.tasks.update({path: task for path, task in tasks.items() if task.stage.plan.name not in reset.stages})
        return reset

    _wherever_it_is(patch, whole, reset_of)


def _resources_are_over_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ResourceLedger, "_fits", lambda self, ticket: True)


def _signals_count_twice(patch: pytest.MonkeyPatch) -> None:
    whole = core.judge

    def judge(run: Any, signal: Any, *rest: Any) -> Any:
        run.signals.discard(signal.signal_id)
        return whole(run, signal, *rest)

    patch.setattr(core, "judge", judge)


def _an_answer_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(interventions.APPLIED, "answer", lambda run, event: run._release(run.tasks[event.task]))


def _wherever_it_is(patch: pytest.MonkeyPatch, function: Any, other: Any) -> None:
    """Replace a function in all modules of the engine that imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("noa.engine") and getattr(module, function.__name__, None) is function:
            patch.setattr(module, function.__name__, other)


PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (_slots_are_given_back_twice, "at most|slots"),
    (_dependencies_are_ignored, "begins before"),
    (_every_result_is_taken, "was not going on"),
    (_timers_are_lost_in_a_crash, "nothing does it|nothing will ever move"),
    (_all_is_undone_at_once, "which depend on it"),
    (_nothing_is_left_to_undo, "were not undone either"),
    (_everything_is_done_again, "is executed again"),
    (_resources_are_over_granted, "over-granted"),
    (_signals_count_twice, "counts twice"),
    (_an_answer_is_forgotten, "nothing will ever move|waits? for"),
]


@pytest.mark.parametrize(("plant", "found"), PLANTED, ids=[plant.__name__.strip("_") for plant, _ in PLANTED])
def test_a_fault_planted_in_the_engine_is_found(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], found: str
) -> None:
    plant(monkeypatch)
    schedules = Schedules()
    failures: list[str] = []
    for seed in range(400):
        failed = schedules.play(Script(seed))
        if failed is not None:
            failures.append(failed.why)
            if re.search(found, failed.why):
                return
    pytest.fail(f"not found, but {failures[:5]}")


# --- a failing schedule is made smaller, and is the same each time it is played


def test_a_failing_schedule_is_made_smaller_and_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _dependencies_are_ignored(monkeypatch)
    with pytest.raises(SimulationError) as caught:
        Schedules().play_all(range(40, 400))
    failed = caught.value.failed
    stages = failed.script.definition()["workflow"]["stages"]
    assert sum(len(tasks) for stage in stages for tasks in iter_tasks(stage)) <= 6
    again = Schedules().play(failed.script, tell=True)
    assert again is not None
    assert (again.why, again.story) == (failed.why, failed.story)
    assert f"replay: python -m noa.testing.simulation --seed {failed.script.seed}" in str(caught.value)


def test_a_schedule_is_the_same_in_every_process() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-m", "noa.testing.simulation", "--seed", "1000", "--count", "60", "--digest"],
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in (1, 2)
    ]
    assert told[0] == told[1]
    assert len(told[0].splitlines()) == 60


def test_one_schedule_is_told_in_full(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["simulation", "--seed", "7", "--without", "hedge,cache", "--faults", "2"])
    main()
    told = capsys.readouterr().out
    assert "nothing failed" in told
    assert "--seed 7 --without 'cache,hedge' --faults 2" in told
    assert "run_created" in told
    assert "run_finished" in told
