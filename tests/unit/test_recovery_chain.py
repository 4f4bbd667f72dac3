"""Chains of strategies, asked as the engine asks them: they end, and fallback visits each alternative in its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noa.model.events import Decision, Recall, Retry, Substitute
from noa.model.failure import Failure
from noa.plugin import Attempted
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES

STRATEGIES = {strategy.name: strategy() for strategy in BUILTIN_RECOVERY_STRATEGIES}
WAITS_MS = st.integers(0, 100_000)

PROPERTY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""Of all properties here: a slow machine changes nothing."""


def failed(code: str = "FAILED", *, retryable: bool = True, retry_after_ms: int | None = None) -> Failure:
    """A failure."""
    return Failure(code, "it failed", retryable=retryable, retry_after_ms=retry_after_ms)


def past(**known: Any) -> Attempted:
    """The past of a task whose first attempt failed, but for what is given."""
    return Attempted(**{"attempt": 1, "chosen": 0, "elapsed_ms": 0, "jitter": 0.5, **known})


@dataclass
class Memory:
    """What is remembered of one entry."""

    chosen: int = 0
    switches: int = 0
    last_delay_ms: int = 0


@dataclass
class Chain:
    """The chain of one task, with the counters of an engine. `entries`: as in a definition.

    `since_ms`: when the first of its `tries` began. `remembered`: whether outputs of earlier runs are kept.
    """

    entries: Sequence[Any]
    now_ms: int = 0
    attempt: int = 1
    tries: int = 1
    since_ms: int = 0
    remembered: bool = False
    memory: dict[int, Memory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = [(entry, {}) if isinstance(entry, str) else next(iter(entry.items())) for entry in self.entries]
        self.parts = [(STRATEGIES[n], STRATEGIES[n].options.model_validate(options)) for n, options in named]

    def fail(self, failure: Failure, *, took_ms: int = 0, jitter: float = 0.5) -> Decision | None:
        """The attempt that is going on failed. A retry or a substitution begins the next one."""
        self.now_ms += took_ms
        index = 0
        while index < len(self.parts):
            memory = self.memory.setdefault(index, Memory())
            decision = self._ask(index, memory, failure, jitter)
            if decision is None:
                index += 1
                continue
            memory.chosen += 1
            if isinstance(decision, Recall) and not self.remembered:
                continue  # nothing is kept: the same entry is asked again
            self._begin(decision, memory)
            return decision
        return None

    def _ask(self, index: int, memory: Memory, failure: Failure, jitter: float) -> Decision | None:
        strategy, options = self.parts[index]
        known = Attempted(
            attempt=self.attempt,
            chosen=memory.chosen,
            elapsed_ms=self.now_ms,
            jitter=jitter,
            switches=memory.switches,
            tries=self.tries,
            tries_elapsed_ms=self.now_ms - self.since_ms,
            last_delay_ms=memory.last_delay_ms,
        )
        return strategy.recover(failure, known, options)

    def _begin(self, decision: Decision, memory: Memory) -> None:
        if isinstance(decision, Retry):
            self.now_ms += decision.after_ms
            memory.last_delay_ms = decision.after_ms
            self.tries += 1
        elif isinstance(decision, Substitute):
            memory.switches += 1
            self.tries, self.since_ms = 1, self.now_ms
        self.attempt += 1


def follow(chain: Chain, failure_of: Callable[[int], Failure], bound: int, **how: Any) -> list[Decision | None]:
    """Every attempt fails: the decisions until the chain is at its end."""
    decisions: list[Decision | None] = []
    while True:
        decisions.append(chain.fail(failure_of(len(decisions)), **how))
        if not isinstance(decisions[-1], Retry | Substitute):
            return decisions
        assert len(decisions) <= bound, "the chain has no end"


RETRY = st.fixed_dictionaries(
    {"max_attempts": st.integers(1, 6)},
    optional={
        "backoff": st.sampled_from(["constant", "linear", "exponential", "decorrelated"]),
        "delay_s": st.floats(0, 50),
        "max_delay_s": st.floats(0, 50),
        "factor": st.floats(1, 10),
        "jitter": st.floats(0, 1),
        "max_elapsed": st.integers(1, 200),
    },
)
FAILURES = st.lists(
    st.builds(failed, retryable=st.booleans(), retry_after_ms=st.none() | WAITS_MS), min_size=40, max_size=40
)


@PROPERTY
@given(RETRY, FAILURES, WAITS_MS, st.floats(0, 1))
def test_retry_gives_up_at_its_attempts_and_in_its_time(
    options: dict[str, Any], failures: list[Failure], took_ms: int, jitter: float
) -> None:
    chain = Chain([{"retry": options}])
    decisions = follow(chain, failures.__getitem__, options["max_attempts"], took_ms=took_ms, jitter=jitter)
    assert decisions[-1] is None
    assert len(decisions) <= options["max_attempts"]
    if "max_elapsed" in options and len(decisions) > 1:
        assert chain.now_ms - took_ms <= options["max_elapsed"] * 1000, "the last attempt began in time"


@PROPERTY
@given(st.lists(st.none() | RETRY, min_size=1, max_size=5), FAILURES, WAITS_MS)
def test_fallback_visits_each_alternative_in_order_with_exactly_its_retries(
    retries: list[dict[str, Any] | None], failures: list[Failure], took_ms: int
) -> None:
    alternatives: list[Any] = [{"agent": f"agent{n}"} for n in range(len(retries))]
    for alternative, retry in zip(alternatives, retries, strict=True):
        if retry is not None:
            retry.pop("max_elapsed", None)
            alternative["retry"] = retry
    decisions = follow(Chain([{"fallback": alternatives}]), failures.__getitem__, 40, took_ms=took_ms)
    asked = ["original"]
    for decision in decisions[:-1]:
        asked.append(decision.agent if isinstance(decision, Substitute) else asked[-1])
    expected = ["original"]
    for n, retry in enumerate(retries):
        expected.append(f"agent{n}")
        for _ in range(retry["max_attempts"] - 1 if retry else 0):
            if not failures[len(expected) - 1].retryable:
                break
            expected.append(f"agent{n}")
    assert asked == expected
    assert decisions[-1] is None


@PROPERTY
@given(RETRY, RETRY)
def test_alternative_is_retried_as_often_whatever_came_before_it(first: dict[str, Any], second: dict[str, Any]) -> None:
    for options in (first, second):
        options.pop("max_elapsed", None)
    alone = follow(Chain([{"fallback": [{"agent": "b", "retry": second}]}]), lambda _: failed(), 40)
    after = follow(Chain([{"retry": first}, {"fallback": [{"agent": "b", "retry": second}]}]), lambda _: failed(), 40)
    assert after[first["max_attempts"] - 1 :] == alone


def test_time_of_an_alternative_begins_with_its_first_attempt() -> None:
    retry = {"backoff": "constant", "delay_s": 10, "jitter": 0, "max_attempts": 9, "max_elapsed": "30s"}
    chain = Chain([{"fallback": [{"agent": "b", "retry": retry}, {"agent": "c", "retry": retry}]}])
    decisions = follow(chain, lambda _: failed(), 40, took_ms=4_000)
    again = [Retry(10_000), Retry(10_000)]
    assert decisions == [Substitute(agent="b"), *again, Substitute(agent="c"), *again, None]


def test_first_delay_of_an_alternative_does_not_follow_from_that_of_the_one_before() -> None:
    retry = {"backoff": "decorrelated", "delay_s": 1, "max_attempts": 3}
    chain = Chain([{"fallback": [{"agent": "b", "retry": retry}, {"agent": "c", "retry": retry}]}])
    decisions = follow(chain, lambda _: failed(), 40, jitter=1.0)
    again = [Retry(3_000), Retry(9_000)]
    assert decisions == [Substitute(agent="b"), *again, Substitute(agent="c"), *again, None]


def test_fallback_leaves_a_failure_that_it_does_not_take_to_the_next_strategy() -> None:
    chain = Chain([{"fallback": {"to": [{"agent": "b"}, {"agent": "c"}], "on": ["LOST"]}}, "skip"])
    assert chain.fail(failed("LOST")) == Substitute(agent="b")
    assert chain.fail(failed("BROKEN")) == STRATEGIES["skip"].recover(failed(), past(), chain.parts[1][1])


def test_fallback_has_no_answer_when_the_time_of_the_task_is_over() -> None:
    strategy, options = Chain([{"fallback": [{"agent": "b", "retry": {}}]}]).parts[0]
    for switches in (0, 1):
        assert strategy.recover(failed("TASK_TIMEOUT"), past(expired=True, switches=switches), options) is None


def test_degrade_recalls_first_and_gives_its_outputs_where_nothing_is_kept() -> None:
    entry = {"degrade": {"last_good": True, "outputs": {"score": 0}}}
    kept, none = Chain([entry], remembered=True), Chain([entry])
    assert kept.fail(failed()) == Recall()
    decision = none.fail(failed())
    assert (type(decision).__name__, decision.outputs, decision.degraded) == ("Complete", {"score": 0}, True)


def test_degrade_without_outputs_leaves_the_task_to_the_next_strategy_where_nothing_is_kept() -> None:
    assert type(Chain([{"degrade": {"last_good": True}}, "skip"]).fail(failed())).__name__ == "Skip"
    assert Chain([{"degrade": {"last_good": True}}]).fail(failed()) is None


ENTRY = st.one_of(
    st.builds(lambda retry: {"retry": retry}, RETRY),
    st.builds(
        lambda retries: {"fallback": [{"agent": "b", "retry": retry} for retry in retries]},
        st.lists(RETRY, min_size=1, max_size=3),
    ),
    st.sampled_from(["circuit_breaker", "hedge", {"degrade": {"last_good": True}}]),
)


@PROPERTY
@given(st.lists(ENTRY, max_size=5), FAILURES, st.floats(0, 1))
def test_every_chain_ends_whatever_fails(entries: list[Any], failures: list[Failure], jitter: float) -> None:
    # 5 entries of 3 alternatives of 6 attempts are 90; each fallback may also retry what another one chose.
    decisions = follow(Chain(entries), lambda n: failures[n % len(failures)], 500, jitter=jitter)
    assert decisions[-1] is None
