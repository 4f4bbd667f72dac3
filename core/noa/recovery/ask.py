"""`ask`: hold the task until a person says how to go on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from noa.model.events import Decision, Hold
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import Duration, FilteredOptions, TextTemplate

__all__ = ["Answer", "AskOptions", "AskStrategy"]

Answer = Literal["retry", "skip", "override", "fail", "rollback"]
"""One of `noa.model.events.ANSWERS`."""

UnattendedAnswer = Literal["retry", "skip", "fail", "rollback"]
"""An answer that needs nothing from a person; `override` needs outputs."""


class AskOptions(FilteredOptions):
    """Options of `ask`."""

    question: TextTemplate = Field(
        "", description="What the person is asked; ${{ }} holds CEL, with `failure` in scope. Without it: the failure."
    )
    choices: Annotated[list[Answer], Field(min_length=1)] = Field(
        ["retry", "skip", "override", "fail", "rollback"],
        description="Answers that are taken. override: the person gives the outputs.",
    )
    timeout: Duration | None = Field(None, description="How long to wait for an answer. Without it: for ever.")
    on_timeout: UnattendedAnswer | None = Field(
        None, description="The choice that counts when nobody answered in time. Without it: fail."
    )

    @field_validator("choices")
    @classmethod
    def _once(cls, value: list[Answer]) -> list[Answer]:
        if twice := [choice for choice in dict.fromkeys(value) if value.count(choice) > 1]:
            raise PydanticCustomError("choices", "'{choice}' stands there more than once", {"choice": twice[0]})
        return value

    @model_validator(mode="after")
    def _answered_in_time(self) -> AskOptions:
        if self.timeout is None and self.on_timeout is not None:
            raise PydanticCustomError("on_timeout", "'on_timeout' needs a 'timeout', such as '24h'")
        if self.timeout is not None and (self.on_timeout or "fail") not in self.choices:
            able = ", ".join(choice for choice in self.choices if choice != "override")
            found = {"able": able, "found": f"'{self.on_timeout}'" if self.on_timeout else "none, which means 'fail'"}
            if not able:
                raise PydanticCustomError("on_timeout", "'choices' need one that counts on 'timeout', such as 'fail'")
            raise PydanticCustomError(
                "on_timeout", "'on_timeout' must be one of the 'choices' ({able}), got {found}", found
            )
        return self


class AskStrategy(RecoveryStrategy):
    """The task is held with its question; an answer, or the end of the time for one, releases it."""

    name: ClassVar[str] = "ask"
    options: ClassVar[type[BaseModel]] = AskOptions
    asks: ClassVar[bool] = True
    rolls_back: ClassVar[bool] = True

    def recover(self, failure: Failure, past: Attempted, options: AskOptions) -> Decision | None:
        if not options.takes(failure):
            return None
        return Hold(
            question=options.question,
            choices=list(options.choices),
            timeout_ms=options.timeout,
            on_timeout=options.on_timeout or "fail",
        )
