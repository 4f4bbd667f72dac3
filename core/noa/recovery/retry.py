"""`retry`: try again, after a growing and jittered delay."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from noa.model.events import Decision, Retry
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy

__all__ = ["RetryOptions", "RetryStrategy"]


class RetryOptions(BaseModel):
    """Options of `retry`."""

    model_config = ConfigDict(extra="forbid")

    max_attempts: int = Field(3, ge=1, le=1_000_000, description="Attempts in all, the first one included.")
    delay_s: float = Field(1.0, ge=0, description="Seconds before the second attempt.")
    factor: float = Field(2.0, ge=1, description="By how much each delay grows over the one before.")
    max_delay_s: float = Field(60.0, ge=0, description="No delay is longer, in seconds.")
    jitter: float = Field(0.2, ge=0, le=1, description="Part of the delay that is random: 0.2 gives 80 to 100 %.")
    on: list[str] | None = Field(
        None, description="Failure codes to retry. Without it: every failure that its agent calls retryable."
    )


class RetryStrategy(RecoveryStrategy):
    """Exponential backoff with jitter, bounded by attempts; never sooner than the failure's `retry_after`."""

    name: ClassVar[str] = "retry"
    options: ClassVar[type[BaseModel]] = RetryOptions

    def recover(self, failure: Failure, past: Attempted, options: RetryOptions) -> Decision | None:
        wanted = failure.retryable if options.on is None else failure.code in options.on
        if not wanted or past.chosen + 1 >= options.max_attempts:
            return None
        # Cap the exponent: a float overflows beyond 2**1024.
        delay_s = min(options.delay_s * options.factor ** min(past.chosen, 64), options.max_delay_s)
        delay_s *= 1 - options.jitter * past.jitter
        return Retry(after_ms=max(round(delay_s * 1000), failure.retry_after_ms or 0))
