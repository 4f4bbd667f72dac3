"""`hedge`: a second attempt beside one that takes longer than most; the first answer wins, the other is cancelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from noa.model.events import Decision
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import Duration, Options

__all__ = ["HedgeOptions", "HedgeStrategy", "percentile"]


class HedgeOptions(Options):
    """Options of `hedge`. It answers no failure, so it has no `on`."""

    percentile: float = Field(
        95,
        gt=0,
        le=100,
        description="The second attempt begins when the first takes longer than this part of the past.",
    )
    min_samples: int = Field(
        20, ge=1, le=200, description="Successes that must be known before that counts; the latest 200 are."
    )
    delay: Duration | None = Field(
        None, description="When the second attempt begins until then. Without it: none begins until then."
    )
    max_hedges: int = Field(
        1, ge=1, le=100, description="How many attempts of a task may have a second one beside them: the first ones."
    )


class HedgeStrategy(RecoveryStrategy):
    """For actions that may be done twice; the tail of the latencies gets shorter for a little more work.

    After Jeffrey Dean and Luiz André Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013.
    """

    name: ClassVar[str] = "hedge"
    options: ClassVar[type[BaseModel]] = HedgeOptions

    def recover(self, failure: Failure, past: Attempted, options: HedgeOptions) -> Decision | None:
        return None

    def hedge_after_ms(self, durations_ms: Sequence[int], past_attempts: int, options: HedgeOptions) -> int | None:
        if past_attempts >= options.max_hedges:
            return None
        if len(durations_ms) < options.min_samples:
            return options.delay
        return max(1, round(percentile(durations_ms, options.percentile)))


def percentile(values: Sequence[int], part: float) -> float:
    """The value below which `part` percent of sorted values are, between two of them by linear interpolation.

    Args:
        values: Sorted, at least one.
        part: 0 to 100; 0 is the smallest, 100 the largest.
    """
    place = (len(values) - 1) * part / 100
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)
