"""`retry`: try again, after a delay that is constant or grows, until an attempt succeeds or enough were made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from noa.model.events import Decision, Retry
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import MAX_DELAY_S, Duration, FailureCode, FailureCodes, FilteredOptions

__all__ = ["RetryOptions", "RetryStrategy", "backoff_ms", "retry_of"]

_DEFAULT_CAP_S = 60.0
_SPREAD = 3.0  # of "decorrelated", as its source has it

Seconds = Annotated[float, Field(ge=0, le=MAX_DELAY_S)]


class RetryOptions(FilteredOptions):
    """Options of `retry`."""

    backoff: Literal["constant", "linear", "exponential", "decorrelated"] = Field(
        "exponential",
        description="How the delays grow. constant: not at all; linear: by `delay_s` each time; exponential: by "
        "`factor`; decorrelated: at random between `delay_s` and three times the delay before.",
    )
    max_attempts: int = Field(3, ge=1, le=1_000_000, description="Attempts in all, the first one included.")
    max_elapsed: Duration | None = Field(
        None,
        description="Since the first attempt began. An attempt that would begin later is not made; one that has begun "
        "is not ended (see `timeout`).",
    )
    delay_s: Seconds = Field(1.0, description="Seconds before the second attempt.")
    factor: float = Field(2.0, ge=1, le=1_000, description="exponential: how much each delay is of the one before.")
    max_delay_s: Seconds | None = Field(
        None, description="No delay is longer, in seconds. Without it: 60, or `delay_s` where that is longer."
    )
    jitter: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Part of the delay that is random: 0.2 gives 80 to 100 %. Of no use with decorrelated.",
    )
    on: FailureCodes | None = Field(
        None, description="Failure codes to retry, '*' is every one. Without it: what its agent calls retryable."
    )
    not_on: list[FailureCode] = Field(default_factory=list, description="Failure codes not to retry.")

    def takes(self, failure: Failure) -> bool:
        """Whether a failure is worth another attempt."""
        return (failure.retryable or self.on is not None) and super().takes(failure)


class RetryStrategy(RecoveryStrategy):
    """Bounded by attempts and by time; never sooner than the failure's `retry_after`."""

    name: ClassVar[str] = "retry"
    options: ClassVar[type[BaseModel]] = RetryOptions

    def recover(self, failure: Failure, past: Attempted, options: RetryOptions) -> Decision | None:
        return retry_of(failure, past, options, past.chosen, past.elapsed_ms, past.last_delay_ms)


def retry_of(
    failure: Failure, past: Attempted, options: RetryOptions, retries: int, elapsed_ms: int, last_delay_ms: int
) -> Retry | None:
    """The next retry, or None where there is to be none.

    Args:
        failure: Of the last attempt.
        past: Of the task; only what does not depend on who counts is read.
        options: Of the retry.
        retries: Made so far under these options.
        elapsed_ms: Since the first attempt under these options began.
        last_delay_ms: Before the last one; 0 where there was none.
    """
    if past.expired or retries + 1 >= options.max_attempts or not options.takes(failure):
        return None
    after_ms = max(round(backoff_ms(options, retries, last_delay_ms, past.jitter)), failure.retry_after_ms or 0)
    if options.max_elapsed is not None and elapsed_ms + after_ms > options.max_elapsed:
        return None
    return Retry(after_ms=after_ms)


def backoff_ms(options: RetryOptions, retries: int, last_delay_ms: int, chance: float) -> float:
    """The delay before the next attempt in milliseconds, at most `max_delay_s`.

    "decorrelated" is min(cap, random between base and 3 * previous), of Marc Brooker's "Exponential Backoff And Jitter"
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Args:
        options: Of the retry.
        retries: Made so far.
        last_delay_ms: Before the last one; only read by "decorrelated".
        chance: Random number, 0 to 1.
    """
    cap_s = max(_DEFAULT_CAP_S, options.delay_s) if options.max_delay_s is None else options.max_delay_s
    base_s = min(options.delay_s, cap_s)
    if options.backoff == "decorrelated":
        before_s = max(last_delay_ms / 1000, base_s)
        return 1000 * min(cap_s, base_s + chance * (_SPREAD * before_s - base_s))
    return 1000 * min(cap_s, _grown(options, base_s, retries)) * (1 - options.jitter * chance)


def _grown(options: RetryOptions, base_s: float, retries: int) -> float:
    if options.backoff == "constant" or base_s == 0:
        return base_s
    if options.backoff == "linear":
        return base_s * (retries + 1)
    try:
        return base_s * options.factor**retries
    except OverflowError:
        return float(MAX_DELAY_S)
