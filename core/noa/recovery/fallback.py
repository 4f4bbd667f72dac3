"""`fallback`: ask another agent or action, or with other inputs; the alternatives are tried in turn."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from noa.definitions.problems import kind_of
from noa.model.events import Decision, Substitute
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import FilteredOptions, JsonTemplate, Options
from noa.recovery.retry import RetryOptions, retry_of

__all__ = ["Alternative", "FallbackOptions", "FallbackStrategy"]

Text = Annotated[str, Field(min_length=1)]


class Alternative(Options):
    """What is asked instead: at least one of `agent`, `action` and `inputs`; what is left out is as the task says."""

    noa_target: ClassVar[bool] = True
    """The compiler checks its agent and action like those of a task."""

    agent: Text | None = Field(None, description="Agent that is asked instead.")
    action: Text | None = Field(None, description="What it is asked for instead.")
    inputs: JsonTemplate | None = Field(None, description="Inputs that it is given instead; ${{ }} holds CEL.")
    retry: RetryOptions | None = Field(
        None,
        description="Options of `retry` for this alternative, counted from its first attempt. Without it: one try.",
    )

    @model_validator(mode="after")
    def _something(self) -> Alternative:
        if self.agent is None and self.action is None and self.inputs is None:
            raise PydanticCustomError(
                "alternative", "an alternative needs at least one of 'agent', 'action' and 'inputs'"
            )
        return self


class FallbackOptions(FilteredOptions):
    """Options of `fallback`: a list of alternatives, or a mapping with the list under `to`."""

    to: Annotated[list[Alternative], Field(min_length=1)] = Field(description="Alternatives, tried in turn.")

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"to": value}
        if value and isinstance(value, dict):
            return value
        got = {"got": kind_of(value) if value else "nothing"}
        raise PydanticCustomError("fallback_type", "expected alternatives such as [{agent: other}], got {got}", got)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        whole = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [whole["properties"]["to"], whole], "description": whole["description"]}


class FallbackStrategy(RecoveryStrategy):
    """The next alternative, once the one before is done with; None where all were tried."""

    name: ClassVar[str] = "fallback"
    options: ClassVar[type[BaseModel]] = FallbackOptions

    def recover(self, failure: Failure, past: Attempted, options: FallbackOptions) -> Decision | None:
        if past.expired or not options.takes(failure):
            return None
        if past.switches and (decision := _again(failure, past, options.to[past.switches - 1])):
            return decision
        if past.switches >= len(options.to):
            return None
        chosen = options.to[past.switches]
        return Substitute(agent=chosen.agent, action=chosen.action, inputs=chosen.inputs)


def _again(failure: Failure, past: Attempted, current: Alternative) -> Decision | None:
    if current.retry is None:
        return None
    # The last delay is of an earlier alternative where this one was tried only once.
    last_delay_ms = past.last_delay_ms if past.tries > 1 else 0
    return retry_of(failure, past, current.retry, past.tries - 1, past.tries_elapsed_ms, last_delay_ms)
