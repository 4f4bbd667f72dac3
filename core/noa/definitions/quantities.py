"""Durations and sizes as people write them, and the numbers that they mean."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["DurationMs", "Quantity", "parse_duration_ms", "parse_quantity"]

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)\s*$")
_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_QUANTITY = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(?:([KMGTP]i?)B?|B)?\s*$")
_MAX_MS = 10 * 365 * 86_400_000


def parse_duration_ms(value: Any) -> int:
    """Milliseconds of "500ms", "30s", "1.5m", "2h", "1d", or of a number of seconds.

    Raises:
        ValueError: It is not a duration, not above zero, or above ten years.
    """
    expected = "expected a duration such as '500ms', '30s', '1.5m', '2h', or a number of seconds"
    if isinstance(value, str) and (found := _DURATION.match(value)):
        number = float(found[1]) * _DURATION_MS[found[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value * 1000.0
    else:
        raise ValueError(f"{expected}, got {value!r}")
    if not math.isfinite(number) or not 1 <= round(number) <= _MAX_MS:
        raise ValueError(f"{expected}, from 1 ms to ten years, got {value!r}")
    return round(number)


def parse_quantity(value: Any) -> float:
    """The number that a demand or a capacity means: 2, 0.5, "512Mi", "2GiB", "1500MB", "100".

    `K M G T P` are powers of 1,000, `Ki Mi Gi Ti Pi` powers of 1,024.

    Raises:
        ValueError: It is not a quantity, or below zero.
    """
    expected = "expected a number, or a size such as '512Mi' or '2GiB'"
    if isinstance(value, str) and (found := _QUANTITY.match(value)):
        number = float(found[1]) * _factor(found[2])
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"{expected}, got {value!r}")
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{expected}, of at least 0, got {value!r}")
    return number


def _factor(unit: str | None) -> float:
    if not unit:
        return 1.0
    return float((1024 if unit.endswith("i") else 1000) ** ("KMGTP".index(unit[0]) + 1))


_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|min|h|d)\s*$"},
        {"type": "number", "exclusiveMinimum": 0},
    ]
}
_QUANTITY_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KMGTP]i?B?|B)?\s*$"},
    ]
}

DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), WithJsonSchema(_DURATION_SCHEMA)]
"""A duration in a model: written as text or seconds, held as milliseconds."""

Quantity = Annotated[float, BeforeValidator(parse_quantity), WithJsonSchema(_QUANTITY_SCHEMA)]
"""A demand or a capacity in a model: written as a number or a size, held as a number."""
