"""An agent for trying things out: it gives back what it gets, after a while or as a failure if asked."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from noa.sdk.agent import Agent, action
from noa.sdk.failures import ActionFailed

__all__ = ["EchoAgent"]


class EchoFailure(BaseModel):
    """How to fail."""

    code: str = "ECHO_FAILED"
    message: str = "asked to fail"
    retryable: bool = False


class EchoInputs(BaseModel):
    """Any object; two fields mean something."""

    model_config = ConfigDict(extra="allow")

    sleep_s: Annotated[float, Field(ge=0, description="Seconds to wait before the answer.")] = 0.0
    fail: Annotated[EchoFailure | None, Field(description="Fail so instead of answering.")] = None


class EchoAgent(Agent):
    """Gives back what it gets."""

    name = "echo"
    version = "1"

    @action(idempotent=True)
    async def echo(self, inputs: EchoInputs) -> dict[str, Any]:
        """Give back the inputs as {"echo": inputs}."""
        if inputs.sleep_s:
            await asyncio.sleep(inputs.sleep_s)
        if inputs.fail is not None:
            raise ActionFailed(inputs.fail.code, inputs.fail.message, retryable=inputs.fail.retryable)
        return {"echo": inputs.model_dump(mode="json", exclude_unset=True)}

    @action(idempotent=True)
    async def noop(self) -> None:
        """Do nothing."""
