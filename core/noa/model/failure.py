"""Work that failed, as data. The journal, the contract and the JSON output all use these codes."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from noa.errors import NoaError

__all__ = ["Failure"]


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why an attempt, a task, a stage or a run failed.

    Attributes:
        code: Stable code in UPPER_SNAKE_CASE, listed in docs/errors.md.
        message: What happened, where, what to do.
        retryable: Whether another attempt may succeed, in the opinion of who failed.
        retry_after_ms: How long to wait at least before another attempt.
        details: Facts for programs; JSON.
        cause: What caused this failure.
        source: Who said it: empty for the engine, else the agent.
    """

    code: str
    message: str
    retryable: bool = False
    retry_after_ms: int | None = None
    details: dict[str, Any] = {}
    cause: Failure | None = None
    source: str = ""

    @classmethod
    def of(cls, error: NoaError, *, retryable: bool = False) -> Self:
        """The failure that an error of noa means."""
        return cls(code=error.code, message=error.message, retryable=retryable, details=dict(error.parts))

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
