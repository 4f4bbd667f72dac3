"""`circuit_breaker` against a simple model of it, with attempts that end late, out of order, or are never heard of."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from tests.unit.test_recovery_chain import PROPERTY, failed, past

from noa.recovery import CircuitBreakerOptions, CircuitBreakerStrategy
from noa.recovery.circuit_breaker import Closed, HalfOpen, Open

BREAKER = CircuitBreakerStrategy()


class Breaker:
    """A circuit that is used as an engine uses it."""

    def __init__(self, **options: Any) -> None:
        self.options = CircuitBreakerOptions.model_validate(options)
        self.memory: Any = None
        self.now_ms = 1_000_000

    def admit(self) -> Any:
        """The refusal of an attempt, or None."""
        self.memory, refusal = BREAKER.admit(self.memory, self.now_ms, self.options)
        return refusal

    def ended(self, code: str = "") -> None:
        """An admitted attempt ended: with a failure of this code, or well."""
        failure = failed(code) if code else None
        self.memory = BREAKER.observe(self.memory, failure, self.now_ms, self.options)

    def attempt(self, code: str = "") -> bool:
        """One attempt from begin to end; whether it was let through."""
        if self.admit() is not None:
            return False
        self.ended(code)
        return True


def opened(**options: Any) -> Breaker:
    breaker = Breaker(failures=1, open_for="10s", **options)
    breaker.attempt("LOST")
    assert isinstance(breaker.memory, Open)
    return breaker


class CircuitAgainstModel(RuleBasedStateMachine):
    """The model keeps every end since the last success, and each probe by its begin, and knows no tuples."""

    attempts = Bundle("attempts")

    @initialize(
        failures=st.integers(1, 4),
        window_s=st.integers(1, 30),
        open_s=st.integers(1, 30),
        half_open=st.integers(1, 3),
    )
    def begin(self, failures: int, window_s: int, open_s: int, half_open: int) -> None:
        self.breaker = Breaker(failures=failures, window=window_s, open_for=open_s, half_open=half_open)
        self.limits = failures, window_s * 1000, open_s * 1000, half_open
        self.state = "closed"
        self.failed: list[int] = []
        self.opened = 0
        self.probes: list[int] = []
        self.passed = 0

    @rule(ms=st.integers(0, 12_000))
    def time_passes(self, ms: int) -> None:
        self.breaker.now_ms += ms

    @rule(target=attempts)
    def attempt_begins(self) -> bool:
        _, _, open_ms, half_open = self.limits
        now = self.breaker.now_ms
        if self.state == "open" and now >= self.opened + open_ms:
            self.state, self.probes, self.passed = "half-open", [], 0
        self.probes = [at for at in self.probes if now < at + open_ms]
        free = len(self.probes) + self.passed < half_open
        refused = self.state == "open" or (self.state == "half-open" and not free)
        if self.state == "half-open" and free:
            self.probes.append(now)
        refusal = self.breaker.admit()
        assert (refusal is not None) is refused
        if refusal is not None:
            assert refusal.code == "CIRCUIT_OPEN"
            assert refusal.retryable
            assert 0 < refusal.retry_after_ms <= open_ms
            assert refusal.details == {"state": self.state, "for_ms": refusal.retry_after_ms}
        return refusal is None

    @rule(admitted=consumes(attempts), code=st.sampled_from(["", "LOST", "LOST", "CANCELLED"]))
    def attempt_ends(self, admitted: bool, code: str) -> None:
        if not admitted:
            return
        failures, window_ms, _, half_open = self.limits
        now = self.breaker.now_ms
        self.breaker.ended(code)
        if self.state == "half-open":
            self.probes = self.probes[1:]
            if code == "LOST":
                self.state, self.opened = "open", now
            elif not code:
                self.passed += 1
                if self.passed >= half_open:
                    self.state, self.failed = "closed", []
        elif self.state == "closed" and code != "CANCELLED":
            self.failed = [*self.failed, now] if code else []
            if sum(now - at < window_ms for at in self.failed) >= failures:
                self.state, self.opened = "open", now

    @rule(admitted=consumes(attempts))
    def attempt_is_never_heard_of_again(self, admitted: bool) -> None:
        """An engine that is ended tells nobody."""

    @invariant()
    def state_is_that_of_the_model(self) -> None:
        if hasattr(self, "breaker"):
            kinds: dict[Any, str] = {Closed: "closed", Open: "open", HalfOpen: "half-open", type(None): "closed"}
            assert kinds[type(self.breaker.memory)] == self.state

    @invariant()
    def an_attempt_is_let_through_in_the_end(self) -> None:
        if hasattr(self, "breaker"):
            later = self.breaker.now_ms + self.limits[2]
            _, refusal = BREAKER.admit(self.breaker.memory, later, self.breaker.options)
            assert refusal is None

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "breaker"):
            memory = self.breaker.memory
            if isinstance(memory, Closed):
                assert len(memory.failed_ms) < self.limits[0]
            if isinstance(memory, HalfOpen):
                assert len(memory.probes_ms) + memory.passed <= self.limits[3]


CircuitAgainstModel.TestCase.settings = settings(PROPERTY, stateful_step_count=40)
TestCircuitAgainstModel = CircuitAgainstModel.TestCase


@PROPERTY
@given(
    st.integers(1, 5),
    st.floats(0.1, 1),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["", "LOST"])), max_size=60),
)
def test_rate_opens_when_a_recount_of_the_window_says_so(
    failures: int, rate: float, ends: list[tuple[int, str]]
) -> None:
    breaker = Breaker(failures=failures, rate=rate, window=1)
    all_ends: list[tuple[int, str]] = []
    for wait_ms, code in ends:
        breaker.now_ms += wait_ms
        all_ends.append((breaker.now_ms // 100, code))
        breaker.ended(code)
        count = Counter(code for slot, code in all_ends if breaker.now_ms // 100 - slot < 10)
        due = code and count["LOST"] >= failures and count["LOST"] / count.total() >= rate
        assert isinstance(breaker.memory, Open) is bool(due)
        if due:
            return
        assert len(breaker.memory.counts) <= 10


def test_opens_at_failures_in_a_row_and_refuses_until_it_tries_again() -> None:
    breaker = Breaker(failures=3, open_for="10s")
    assert [breaker.attempt("LOST") for _ in range(5)] == [True, True, True, False, False]
    refusal = breaker.admit()
    assert (refusal.code, refusal.retryable, refusal.retry_after_ms) == ("CIRCUIT_OPEN", True, 10_000)
    assert refusal.details == {"state": "open", "for_ms": 10_000}
    assert "3 failures in a row, the last was LOST" in refusal.message
    breaker.now_ms += 9_999
    assert not breaker.attempt()
    breaker.now_ms += 1
    assert [breaker.attempt(), breaker.attempt()] == [True, True]
    assert isinstance(breaker.memory, Closed)


def test_a_success_ends_the_row() -> None:
    breaker = Breaker(failures=2)
    assert all(breaker.attempt(code) for code in ["LOST", "", "LOST", "", "LOST", ""])


def test_failures_outside_of_the_window_are_forgotten() -> None:
    breaker = Breaker(failures=2, window="5s")
    for _ in range(5):
        assert breaker.attempt("LOST")
        breaker.now_ms += 5_000


def test_one_failed_try_opens_it_again() -> None:
    breaker = opened(half_open=2)
    breaker.now_ms += 10_000
    assert breaker.attempt("")
    assert breaker.attempt("LOST")
    assert breaker.admit().retry_after_ms == 10_000


def test_no_more_than_the_tries_are_let_through_at_once() -> None:
    breaker = opened(half_open=2)
    breaker.now_ms += 10_000
    assert [breaker.admit() is None for _ in range(4)] == [True, True, False, False]
    breaker.ended()
    assert breaker.admit() is not None, "one try succeeded, the other one is under way"
    breaker.ended()
    assert isinstance(breaker.memory, Closed)


def test_a_try_that_nobody_hears_of_does_not_hold_the_circuit_for_ever() -> None:
    breaker = opened()
    breaker.now_ms += 10_000
    assert breaker.admit() is None
    breaker.now_ms += 4_000
    assert breaker.admit().retry_after_ms == 6_000
    breaker.now_ms += 6_000
    assert breaker.attempt()
    assert isinstance(breaker.memory, Closed)


def test_a_cancelled_try_makes_room_for_the_next_one() -> None:
    breaker = opened()
    breaker.now_ms += 10_000
    assert breaker.attempt("CANCELLED")
    assert breaker.attempt()
    assert isinstance(breaker.memory, Closed)


def test_an_attempt_that_ends_after_the_circuit_opened_changes_nothing() -> None:
    breaker = opened()
    before = breaker.memory
    breaker.ended()
    breaker.ended("LOST")
    assert breaker.memory == before


@pytest.mark.parametrize("rate", [None, 1.0])
def test_a_clock_that_was_put_back_does_not_keep_it_open(rate: float | None) -> None:
    breaker = opened(rate=rate)
    breaker.now_ms -= 3_600_000
    assert breaker.attempt()
    assert breaker.attempt("INVALID_INPUT")
    assert isinstance(breaker.memory, Closed)


@pytest.mark.parametrize(
    ("options", "code", "opens"),
    [
        ({}, "LOST", True),
        ({}, "CANCELLED", False),
        ({}, "INVALID_INPUT", False),
        ({}, "CIRCUIT_OPEN", False),
        ({}, "QUEUE_TIMEOUT", False),
        ({"on": ["INVALID_INPUT"]}, "INVALID_INPUT", True),
        ({"on": ["INVALID_INPUT"]}, "LOST", False),
        ({"on": ["*"]}, "LOST", True),
        ({"on": ["*"]}, "CANCELLED", False),
        ({"not_on": ["LOST"]}, "LOST", False),
        ({"not_on": ["LOST"]}, "INVALID_INPUT", False),
    ],
)
def test_only_failures_of_the_agent_count(options: dict[str, Any], code: str, opens: bool) -> None:
    breaker = Breaker(failures=1, **options)
    breaker.attempt(code)
    assert isinstance(breaker.memory, Open) is opens


def test_memory_is_a_value_that_is_never_changed() -> None:
    breaker = opened(half_open=2)
    breaker.now_ms += 10_000
    breaker.admit()
    before = breaker.memory
    copy = HalfOpen(before.probes_ms, before.passed)
    BREAKER.admit(before, breaker.now_ms, breaker.options)
    BREAKER.observe(before, None, breaker.now_ms, breaker.options)
    assert before == copy
    assert hash(before) == hash(copy)


def test_answers_no_failure_itself() -> None:
    assert BREAKER.guards
    assert BREAKER.recover(failed("CIRCUIT_OPEN"), past(), CircuitBreakerOptions()) is None
