"""The agent `rates`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, action
from noa_rates import __version__

__all__ = ["RatesAgent", "cents_for"]

_CENTS = {"CH": (900, 4), "DE": (450, 2), "FR": (650, 3), "US": (1900, 9)}
"""By country: for the parcel, and for each begun 100 g."""


class Quote(TypedDict):
    """Outputs of quote."""

    country: str
    cents: int


class RatesAgent(Agent):
    """Quotes."""

    name = "rates"
    version = __version__

    @action(idempotent=True)
    def quote(self, country: str, grams: Annotated[int, Field(ge=1, le=30_000)]) -> Quote:
        """Say what a parcel costs."""
        if country not in _CENTS:
            raise ActionFailed("NO_CARRIER", f"no carrier goes to '{country}'. They go to: {', '.join(_CENTS)}")
        return {"country": country, "cents": cents_for(country, grams)}


def cents_for(country: str, grams: int) -> int:
    """What a parcel of so many grams costs."""
    parcel, each = _CENTS[country]
    return parcel + each * -(-grams // 100)
