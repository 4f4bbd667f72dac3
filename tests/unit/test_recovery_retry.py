"""`retry`: how long it waits, which failures it takes, when it gives up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_recovery_chain import PROPERTY, failed, past

from noa.model.events import Retry
from noa.recovery import RetryOptions, RetryStrategy
from noa.recovery.retry import backoff_ms

CHANCE = st.floats(0, 1)
SECONDS = st.floats(0, 1e6)
FACTOR = st.floats(1, 1_000)
RETRIES = st.integers(0, 999_999)


def delays(options: dict[str, Any], count: int, chance: float = 0.0) -> list[int]:
    """The first delays; each is told of the one before."""
    model = RetryOptions.model_validate(options)
    found = [0]
    for n in range(count):
        found.append(round(backoff_ms(model, n, found[-1], chance)))
    return found[1:]


def recover(failure: Any = None, options: dict[str, Any] | None = None, **known: Any) -> Any:
    return RetryStrategy().recover(failure or failed(), past(**known), RetryOptions.model_validate(options or {}))


def test_constant_linear_and_exponential_grow_as_their_names_say() -> None:
    assert delays({"backoff": "constant", "delay_s": 2}, 4) == [2_000] * 4
    assert delays({"backoff": "linear", "delay_s": 2, "max_delay_s": 7}, 5) == [2_000, 4_000, 6_000, 7_000, 7_000]
    assert delays({"delay_s": 0.5, "factor": 3, "max_delay_s": 10}, 5) == [500, 1_500, 4_500, 10_000, 10_000]


def test_decorrelated_is_between_the_base_and_three_times_the_delay_before() -> None:
    options = {"backoff": "decorrelated", "delay_s": 1, "max_delay_s": 20}
    assert delays(options, 4, 1.0) == [3_000, 9_000, 20_000, 20_000]
    assert delays(options, 4, 0.0) == [1_000] * 4
    assert delays(options, 2, 0.5) == [2_000, 3_500]


@PROPERTY
@given(SECONDS, SECONDS, CHANCE, st.integers(0, 10**10))
def test_decorrelated_never_leaves_base_and_cap(delay_s: float, cap_s: float, chance: float, last_ms: int) -> None:
    options = RetryOptions(backoff="decorrelated", delay_s=delay_s, max_delay_s=cap_s)
    found = backoff_ms(options, 1, last_ms, chance)
    assert 1000 * min(delay_s, cap_s) - 1e-6 <= found <= 1000 * cap_s + 1e-6


@PROPERTY
@given(st.sampled_from(["constant", "linear", "exponential"]), SECONDS, SECONDS, FACTOR, CHANCE, CHANCE, RETRIES)
def test_delays_are_within_their_bounds(
    backoff: Any, delay_s: float, cap_s: float, factor: float, jitter: float, chance: float, retries: int
) -> None:
    options = RetryOptions(backoff=backoff, delay_s=delay_s, max_delay_s=cap_s, factor=factor, jitter=jitter)
    found = backoff_ms(options, retries, 0, chance)
    assert 1000 * min(delay_s, cap_s) * (1 - jitter) - 1e-6 <= found <= 1000 * cap_s


@PROPERTY
@given(st.sampled_from(["constant", "linear", "exponential"]), SECONDS, FACTOR, RETRIES)
def test_delays_without_jitter_never_shrink(backoff: Any, delay_s: float, factor: float, retries: int) -> None:
    options = RetryOptions(backoff=backoff, delay_s=delay_s, factor=factor, jitter=0)
    assert backoff_ms(options, retries, 0, 0.5) <= backoff_ms(options, retries + 1, 0, 0.5)


def test_jitter_takes_up_to_its_part_of_the_delay() -> None:
    options = {"delay_s": 10, "backoff": "constant", "jitter": 0.2}
    assert [delays(options, 1, chance) for chance in (0.0, 0.5, 1.0)] == [[10_000], [9_000], [8_000]]


def test_cap_is_a_minute_unless_it_or_the_delay_says_otherwise() -> None:
    assert delays({"delay_s": 40, "jitter": 0}, 3) == [40_000, 60_000, 60_000]
    assert delays({"delay_s": 120, "jitter": 0}, 2) == [120_000, 120_000]
    assert delays({"delay_s": 120, "max_delay_s": 90, "jitter": 0}, 1) == [90_000]


@PROPERTY
@given(st.integers(0, 10**9), CHANCE)
def test_retry_after_of_the_failure_is_a_lower_bound(retry_after_ms: int, chance: float) -> None:
    decision = recover(failed(retry_after_ms=retry_after_ms), jitter=chance)
    own = recover(jitter=chance)
    assert decision == Retry(after_ms=max(own.after_ms, retry_after_ms))


def test_retry_that_would_begin_after_max_elapsed_is_not_made() -> None:
    options = {"backoff": "constant", "delay_s": 10, "jitter": 0, "max_elapsed": "1m"}
    assert recover(options=options, elapsed_ms=50_000) == Retry(after_ms=10_000)
    assert recover(options=options, elapsed_ms=50_001) is None
    assert recover(failed(retry_after_ms=30_001), options, elapsed_ms=30_000) is None


def test_gives_up_after_so_many_attempts_of_its_own() -> None:
    assert [recover(options={"max_attempts": 3}, chosen=n) is None for n in range(4)] == [False, False, True, True]
    assert recover(options={"max_attempts": 1}) is None


def test_gives_up_when_the_time_of_the_task_is_over() -> None:
    assert recover(expired=True) is None


@pytest.mark.parametrize(
    ("options", "code", "retryable", "taken"),
    [
        ({}, "LOST", True, True),
        ({}, "LOST", False, False),
        ({"on": ["LOST"]}, "LOST", False, True),
        ({"on": ["*"]}, "LOST", False, True),
        ({"on": ["*"], "not_on": ["LOST"]}, "LOST", True, False),
        ({"on": ["LOST"]}, "BROKEN", True, False),
        ({"not_on": ["LOST"]}, "LOST", True, False),
        ({"not_on": ["LOST"]}, "BROKEN", True, True),
        ({"not_on": ["LOST"]}, "BROKEN", False, False),
        ({"on": ["LOST", "BROKEN"], "not_on": ["LOST"]}, "LOST", True, False),
    ],
)
def test_takes_what_is_retryable_or_named(options: dict[str, Any], code: str, retryable: bool, taken: bool) -> None:
    assert (recover(failed(code, retryable=retryable), options) is not None) is taken
