"""`skip`: go on without the task, as if its condition had been false."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from noa.model.events import Decision, Skip
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import FilteredOptions

__all__ = ["SkipOptions", "SkipStrategy"]


class SkipOptions(FilteredOptions):
    """Options of `skip`."""


class SkipStrategy(RecoveryStrategy):
    """The task counts as skipped: its outputs are null, and what depends on it goes on."""

    name: ClassVar[str] = "skip"
    options: ClassVar[type[BaseModel]] = SkipOptions

    def recover(self, failure: Failure, past: Attempted, options: SkipOptions) -> Decision | None:
        return Skip() if options.takes(failure) else None
