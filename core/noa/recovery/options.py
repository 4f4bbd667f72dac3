"""What the options of the strategies have in common: which failures are answered, durations, text with expressions."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from noa.definitions.problems import kind_of
from noa.definitions.quantities import DurationMs
from noa.model.failure import Failure
from noa.model.plan import Expression, Interpolation

__all__ = [
    "MAX_DELAY_S",
    "Duration",
    "FailureCode",
    "FailureCodes",
    "FilteredOptions",
    "JsonTemplate",
    "Options",
    "TextTemplate",
]

MAX_DELAY_S = 10 * 365 * 86_400
"""No delay is longer: ten years."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]*")


def _code(value: str) -> str:
    if _CODE.fullmatch(value):
        return value
    raise PydanticCustomError(
        "failure_code", "expected a failure code such as 'AGENT_LOST', got {got}", {"got": repr(value[:100])}
    )


def _code_or_all(value: str) -> str:
    return value if value == "*" else _code(value)


def _text(value: Any) -> Any:
    if isinstance(value, (str, Expression, Interpolation)):
        return value
    raise PydanticCustomError("text_type", "expected text, got {got}", {"got": kind_of(value)})


def _mapping(value: Any) -> Any:
    if isinstance(value, (dict, Expression)) or (isinstance(value, str) and "${{" in value):
        return value
    got = {"got": kind_of(value)}
    raise PydanticCustomError(
        "json_type", "expected a mapping, or one expression ${{ … }} that gives one, got {got}", got
    )


FailureCode = Annotated[str, AfterValidator(_code), WithJsonSchema({"type": "string", "pattern": f"^{_CODE.pattern}$"})]
"""A code of docs/errors.md or of an agent's own."""

FailureCodes = Annotated[
    list[
        Annotated[
            str,
            AfterValidator(_code_or_all),
            WithJsonSchema({"type": "string", "pattern": rf"^({_CODE.pattern}|\*)$"}),
        ]
    ],
    Field(min_length=1),
]
"""Codes that are answered; `*` is every code."""

Duration = Annotated[DurationMs, PlainSerializer(lambda ms: f"{ms}ms", return_type=str, when_used="json")]
"""A duration: written as text or seconds, held as milliseconds, dumped as text, which is read again as the same."""

TextTemplate = Annotated[Any, AfterValidator(_text), WithJsonSchema({"type": "string"})]
"""Text in which `${{ }}` may stand; also what the compiler makes of it."""

JsonTemplate = Annotated[
    Any,
    AfterValidator(_mapping),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string", "pattern": r"\$\{\{"}]}),
]
"""A mapping in which `${{ }}` may stand, or one `${{ }}` that gives a mapping; also what the compiler makes of it."""


class Options(BaseModel):
    """Options of a strategy: no key but its own, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FilteredOptions(Options):
    """Options of a strategy that answers some failures and leaves the others to the next one of the list."""

    on: FailureCodes | None = Field(
        None, description="Failure codes that it answers. Without it, or with '*': every one."
    )
    not_on: list[FailureCode] = Field(default_factory=list, description="Failure codes that it does not answer.")

    def takes(self, failure: Failure) -> bool:
        """Whether a failure is to be answered."""
        wanted = self.on is None or "*" in self.on or failure.code in self.on
        return wanted and failure.code not in self.not_on
