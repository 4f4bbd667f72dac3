"""`sequential`: one task after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from noa.definitions import TaskList
from noa.model.events import Block
from noa.plugin.interfaces import Opening, StageType, StageView, TemplateSpec

__all__ = ["SequentialOptions", "SequentialStage"]


class SequentialOptions(BaseModel):
    """Keys of a sequential stage."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tasks: TaskList = Field(description="Tasks; each waits for the one before it.")


class SequentialStage(StageType):
    """One block, whose tasks are a chain."""

    name: ClassVar[str] = "sequential"
    options: ClassVar[type[BaseModel]] = SequentialOptions

    def templates(self, options: SequentialOptions) -> Sequence[TemplateSpec]:
        return [TemplateSpec("main", options.tasks, chained=True)]

    def start(self, stage: StageView) -> Opening:
        return Opening([Block("main")])
