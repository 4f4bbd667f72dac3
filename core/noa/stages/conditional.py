"""`conditional`: the first branch whose condition is true, else the tasks under `else`, else nothing.

The tasks of a branch run one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from noa.definitions import ExpressionText, TaskList
from noa.model.events import Block
from noa.plugin.interfaces import Opening, StageType, StageView, TemplateSpec
from noa.stages.conditions import holds

__all__ = ["Branch", "ConditionalOptions", "ConditionalStage"]


class Branch(BaseModel):
    """Tasks with the condition under which they run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    when: ExpressionText = Field(description="CEL; the first branch for which it is true is run.")
    tasks: TaskList = Field(description="Tasks; each waits for the one before it.")


class ConditionalOptions(BaseModel):
    """Keys of a conditional stage."""

    model_config = ConfigDict(extra="forbid", strict=True)

    branches: Annotated[list[Branch], Field(min_length=1)] = Field(description="Asked in order.")
    otherwise: TaskList | None = Field(None, alias="else", description="Tasks where no condition is true.")


class ConditionalStage(StageType):
    """One block at most: the chosen branch, under the key "branch0", "branch1" … or "else"."""

    name: ClassVar[str] = "conditional"
    options: ClassVar[type[BaseModel]] = ConditionalOptions
    single: ClassVar[bool] = False

    def templates(self, options: ConditionalOptions) -> Sequence[TemplateSpec]:
        found = [
            TemplateSpec(f"branch{index}", branch.tasks, chained=True, path=("branches", index, "tasks"))
            for index, branch in enumerate(options.branches)
        ]
        if options.otherwise is not None:
            found.append(TemplateSpec("else", options.otherwise, chained=True, path=("else",)))
        return found

    def start(self, stage: StageView) -> Opening:
        for index, branch in enumerate(stage.plan.options["branches"]):
            if holds(stage, "when", branch["when"]):
                return Opening([Block(f"branch{index}", f"branch{index}")])
        if "else" in stage.plan.templates:
            return Opening([Block("else", "else")])
        return Opening()
