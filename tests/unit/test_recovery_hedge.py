"""`hedge`: when a second attempt begins."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_recovery_chain import PROPERTY, failed, past

from noa.recovery import HedgeOptions, HedgeStrategy
from noa.recovery.hedge import percentile


def after(durations_ms: list[int], past_attempts: int = 0, **options: Any) -> int | None:
    return HedgeStrategy().hedge_after_ms(durations_ms, past_attempts, HedgeOptions.model_validate(options))


@PROPERTY
@given(st.lists(st.integers(0, 10**9), min_size=2).map(sorted), st.integers(1, 99))
def test_percentile_is_that_of_statistics(values: list[int], part: int) -> None:
    expected = statistics.quantiles(values, n=100, method="inclusive")[part - 1]
    assert percentile(values, part) == pytest.approx(expected)


@PROPERTY
@given(st.lists(st.integers(0, 10**9), min_size=1).map(sorted), st.floats(0.001, 100))
def test_second_attempt_begins_within_the_past_durations(values: list[int], part: float) -> None:
    found = after(values, percentile=part, min_samples=1)
    assert found is not None
    assert max(1, values[0]) <= found <= max(1, values[-1])


def test_percentile_of_the_past_counts_once_there_is_enough_of_it() -> None:
    few, enough = list(range(100, 119)), list(range(100, 121))
    assert (after(few), after(few, delay="2s")) == (None, 2_000)
    assert (after(enough), after(enough, delay="2s"), after(enough, percentile=50)) == (119, 119, 110)
    assert after(few, min_samples=19, percentile=100) == 118


def test_only_the_first_attempts_have_a_second_one_beside_them() -> None:
    assert [after([], n, delay=1) for n in range(3)] == [1_000, None, None]
    assert [after([], n, delay=1, max_hedges=2) for n in range(3)] == [1_000, 1_000, None]


def test_work_that_takes_no_time_is_not_done_twice_at_once() -> None:
    assert after([0] * 20) == 1


def test_answers_no_failure() -> None:
    assert HedgeStrategy().recover(failed(), past(), HedgeOptions()) is None
