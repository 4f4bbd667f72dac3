"""`fail`: let the task fail now, without asking the rest of the list; the failure may be put in other words."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from noa.model.events import Decision, Fail
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import FailureCode, FilteredOptions, TextTemplate

__all__ = ["FailOptions", "FailStrategy"]


class FailOptions(FilteredOptions):
    """Options of `fail`."""

    code: FailureCode | None = Field(None, description="Code of the task's failure. Without it: what failed says.")
    message: TextTemplate | None = Field(
        None,
        description="Message of the task's failure; ${{ }} holds CEL, with `failure` in scope. Without it: what failed "
        "says.",
    )


class FailStrategy(RecoveryStrategy):
    """The end of the chain for the failures that it takes."""

    name: ClassVar[str] = "fail"
    options: ClassVar[type[BaseModel]] = FailOptions

    def recover(self, failure: Failure, past: Attempted, options: FailOptions) -> Decision | None:
        if not options.takes(failure):
            return None
        return Fail(code=options.code or "", message="" if options.message is None else options.message)
