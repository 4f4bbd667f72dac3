"""What the author of an action raises when work fails, and what is raised into an action that is cancelled."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from noa.model.failure import Failure

__all__ = ["ActionCancelled", "ActionFailed", "printable"]

_CODE = re.compile(r"^[A-Z][A-Z0-9_]*$")


def printable(text: str) -> str:
    """The text with undecodable bytes of file names written out (`\\udcff`), so that it can be encoded as UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class ActionFailed(Exception):
    """The action could not do its work. The recovery chain of the definition decides what follows.

    Args:
        code: Stable code in UPPER_SNAKE_CASE, such as "FOLDER_MISSING"; definitions may name it in `retry: on`.
        message: What happened, where, what to do.
        retryable: Whether another attempt may succeed.
        retry_after_s: How long to wait at least before it, in seconds.
        details: Facts for programs; JSON values only.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        if not _CODE.match(code):
            raise ValueError(f"code {code!r} must be UPPER_SNAKE_CASE, such as 'NO_SPACE'")
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def to_failure(self, *, source: str = "") -> Failure:
        """The same as data; `source` is the agent's name. A cause that is an ActionFailed too goes with it."""
        cause = self.__cause__
        return Failure(
            code=self.code,
            message=printable(self.message),
            retryable=self.retryable,
            retry_after_ms=None if self.retry_after_s is None else max(0, round(self.retry_after_s * 1000)),
            details=self.details,
            cause=cause.to_failure(source=source) if isinstance(cause, ActionFailed) else None,
            source=source,
        )


class ActionCancelled(asyncio.CancelledError):
    """Raised by `Context.check_cancelled`. Not an Exception, so that `except Exception` in an action lets it pass."""
