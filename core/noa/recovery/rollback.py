"""`rollback`: let the task fail, end the run, and undo what it did by the compensations of its tasks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from noa.model.events import Decision, Rollback
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import FilteredOptions

__all__ = ["RollbackOptions", "RollbackStrategy"]


class RollbackOptions(FilteredOptions):
    """Options of `rollback`."""


class RollbackStrategy(RecoveryStrategy):
    """For a failure after which the run cannot go on and must leave nothing behind."""

    name: ClassVar[str] = "rollback"
    options: ClassVar[type[BaseModel]] = RollbackOptions
    rolls_back: ClassVar[bool] = True

    def recover(self, failure: Failure, past: Attempted, options: RollbackOptions) -> Decision | None:
        return Rollback() if options.takes(failure) else None
