"""`degrade`: go on with other outputs than the task would have given; the run is flagged as degraded."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from noa.model.events import Complete, Decision, Recall
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import FilteredOptions, JsonTemplate

__all__ = ["DegradeOptions", "DegradeStrategy"]


class DegradeOptions(FilteredOptions):
    """Options of `degrade`: `outputs`, `last_good: true`, or both."""

    outputs: JsonTemplate | None = Field(
        None, description="Outputs that the task is given; ${{ }} holds CEL, with `failure` in scope."
    )
    last_good: bool = Field(
        False,
        description="Take the outputs with which this task last succeeded, in whichever run of this workflow. Where "
        "there are none, `outputs` counts; without it the next strategy of the list is asked.",
    )

    @model_validator(mode="after")
    def _something(self) -> DegradeOptions:
        if self.outputs is None and not self.last_good:
            raise PydanticCustomError("degrade", "give 'outputs', such as {score: 0}, or 'last_good: true'")
        return self


class DegradeStrategy(RecoveryStrategy):
    """The last good outputs first, where they are wanted; asked again where there are none, it gives `outputs`."""

    name: ClassVar[str] = "degrade"
    options: ClassVar[type[BaseModel]] = DegradeOptions

    def recover(self, failure: Failure, past: Attempted, options: DegradeOptions) -> Decision | None:
        if not options.takes(failure):
            return None
        if options.last_good and past.chosen == 0:
            return Recall()
        outputs: Any = options.outputs
        return None if outputs is None else Complete(outputs=outputs, degraded=True)

    def recalls(self, options: DegradeOptions) -> bool:
        return options.last_good
