"""What an action's signature says of its inputs."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from noa.sdk import Agent, action
from noa.sdk.runner import ActionRunner


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")

    a: int = 0


class Taking(Agent):
    name = "taking"
    version = "1"

    @action
    async def named(self, a: int) -> dict:
        return {}

    @action
    async def rest(self, a: int, **inputs: Any) -> dict:
        return {}

    @action
    async def whole(self, inputs: Open) -> dict:
        return {}


def test_schema_says_whether_more_inputs_are_taken_than_it_names() -> None:
    schemas = {each.name: each.input_schema for each in ActionRunner(Taking()).describe().actions}
    assert "additionalProperties" not in schemas["named"]
    assert schemas["rest"]["additionalProperties"] is True
    assert schemas["whole"]["additionalProperties"] is True
    assert all("a" in schema["properties"] for schema in schemas.values())
