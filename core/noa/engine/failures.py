"""Failures that the engine itself finds."""

from __future__ import annotations

from noa.model.failure import Failure

__all__ = ["rejected", "timed_out"]


def rejected(subject: str, by: str, reason: str) -> Failure:
    """Why something that was not approved did not begin."""
    why = f": {reason}" if reason else ""
    return Failure("REJECTED", f"'{subject}' was rejected by {by or 'somebody'}{why}", details={"actor": by})


def timed_out(code: str, what: str, limit_ms: int | None) -> Failure:
    """Why something was ended that took too long."""
    return Failure(code, f"{what} took longer than its limit of {(limit_ms or 0) / 1000:g} s")
