"""`parallel`: all tasks at once, as far as their `needs` and data references allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from noa.definitions import TaskList
from noa.model.events import Block
from noa.plugin.interfaces import Opening, StageType, StageView, TemplateSpec

__all__ = ["ParallelOptions", "ParallelStage"]


class ParallelOptions(BaseModel):
    """Keys of a parallel stage."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tasks: TaskList = Field(description="Tasks; each starts as soon as what it needs is done.")


class ParallelStage(StageType):
    """One block, whose tasks wait only for what they name."""

    name: ClassVar[str] = "parallel"
    options: ClassVar[type[BaseModel]] = ParallelOptions

    def templates(self, options: ParallelOptions) -> Sequence[TemplateSpec]:
        return [TemplateSpec("main", options.tasks)]

    def start(self, stage: StageView) -> Opening:
        return Opening([Block("main")])
