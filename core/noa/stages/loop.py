"""`loop`: its tasks once for each item of a list, or while or until a condition holds. Always bounded.

An iteration is a block; its key is its index. Its tasks run one after the other. In their scope are `index`, with
`for_each` also `item`, and, where iterations run one at a time, `previous`: the outputs of the last iteration's tasks
by name, null in the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from noa.definitions import ExpressionError, ExpressionText, Scope, TaskList
from noa.errors import NoaError
from noa.model.events import Block
from noa.model.payload import ARTIFACT_KEY
from noa.plugin.interfaces import BlockView, Opening, StageType, StageView, TemplateSpec
from noa.stages.conditions import holds

__all__ = ["DEFAULT_MAX_ITERATIONS", "LoopLimitError", "LoopOptions", "LoopStage"]

DEFAULT_MAX_ITERATIONS = 10_000
"""Bound of a `for_each` that gives none."""


class LoopLimitError(NoaError):
    """A loop would go on beyond its `max_iterations`. The stage fails; what its iterations did stays done."""

    code: ClassVar[str] = "LOOP_LIMIT"


def _items(value: Any) -> Any:
    if value is None or isinstance(value, list) or (isinstance(value, str) and "${{" in value):
        return value
    raise PydanticCustomError("loop_items", "must be a list, or one expression ${{ … }} that gives one")


class LoopOptions(BaseModel):
    """Keys of a loop stage: exactly one of `for_each`, `while`, `until`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    for_each: Annotated[
        Any,
        AfterValidator(_items),
        WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "string", "pattern": r"\$\{\{"}]}),
    ] = Field(None, description="A list, or ${{ }} that gives one: the tasks run once for each item.")
    condition: Annotated[ExpressionText | None, Scope("previous", "index")] = Field(
        None, alias="while", description="CEL, asked before each iteration."
    )
    until: Annotated[ExpressionText | None, Scope("previous", "index")] = Field(
        None, description="CEL, asked after each iteration: the loop ends where it is true."
    )
    max_parallel: Annotated[int, Field(ge=1)] = Field(1, description="How many iterations may run at once (for_each).")
    max_iterations: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Bound; required with while and until, 10,000 with for_each. More is a failure of the stage."
    )
    tasks: TaskList = Field(description="Tasks of one iteration; each waits for the one before it.")

    @model_validator(mode="after")
    def _one_kind(self) -> LoopOptions:
        kinds = [key for key, value in (("for_each", self.for_each), ("while", self.condition), ("until", self.until))
                 if value is not None]  # fmt: skip
        if len(kinds) != 1:
            got = f", got {' and '.join(kinds)}" if kinds else ""
            raise PydanticCustomError("loop_kind", f"a loop has exactly one of 'for_each', 'while' and 'until'{got}")
        if self.for_each is None and self.max_iterations is None:
            raise PydanticCustomError("loop_bound", f"a loop with '{kinds[0]}' needs 'max_iterations'")
        if self.for_each is None and self.max_parallel > 1:
            raise PydanticCustomError("loop_parallel", f"a loop with '{kinds[0]}' runs one iteration at a time")
        return self


class LoopStage(StageType):
    """One block for each iteration, opened when there is room for it."""

    name: ClassVar[str] = "loop"
    options: ClassVar[type[BaseModel]] = LoopOptions
    single: ClassVar[bool] = False
    repeats: ClassVar[bool] = True

    def templates(self, options: LoopOptions) -> Sequence[TemplateSpec]:
        scope = ["index"]
        if options.for_each is not None:
            scope.append("item")
        if options.max_parallel == 1:
            scope.append("previous")
        return [TemplateSpec("main", options.tasks, chained=True, scope=tuple(scope))]

    def start(self, stage: StageView) -> Opening:
        options = stage.plan.options
        if options["for_each"] is None:
            return self._next_turn(stage, 0, None)
        items = stage.evaluate(options["for_each"])
        if not isinstance(items, list):
            got = type(items).__name__
            if isinstance(items, dict) and ARTIFACT_KEY in items:
                got = (
                    "a reference to an artifact: outputs above 256 KiB are kept outside of the journal. Let the task "
                    "give fewer or smaller items, such as references or the bounds of parts"
                )
            raise ExpressionError(f"stage '{stage.plan.name}': for_each expected a list, got {got}",
                                  stage=stage.plan.name)  # fmt: skip
        most = options["max_iterations"] or DEFAULT_MAX_ITERATIONS
        if len(items) > most:
            raise LoopLimitError(f"stage '{stage.plan.name}': for_each gave {len(items):,} items, max_iterations is "
                                 f"{most:,}; raise it, or give fewer", stage=stage.plan.name)  # fmt: skip
        count = min(options["max_parallel"], len(items))
        blocks = [self._item_block(options, items, index, None) for index in range(count)]
        return Opening(blocks, {"items": items})

    def block_finished(self, stage: StageView, block: BlockView) -> Opening:
        options = stage.plan.options
        index = stage.opened_blocks
        if options["for_each"] is None:
            return self._next_turn(stage, index, dict(block.outputs))
        items = stage.memo["items"]
        if index >= len(items):
            return Opening()
        return Opening([self._item_block(options, items, index, dict(block.outputs))])

    def _item_block(self, options: Any, items: list[Any], index: int, previous: Any) -> Block:
        bindings = {"item": items[index], "index": index}
        if options["max_parallel"] == 1:
            bindings["previous"] = previous
        return Block("main", str(index), bindings)

    def _next_turn(self, stage: StageView, index: int, previous: Any) -> Opening:
        options = stage.plan.options
        bindings = {"index": index, "previous": previous}
        if options["while"] is not None:
            again = holds(stage, "while", options["while"], bindings)
        else:
            again = index == 0 or not holds(stage, "until", options["until"], bindings)
        if not again:
            return Opening()
        if index >= options["max_iterations"]:
            raise LoopLimitError(f"stage '{stage.plan.name}': not done after {index:,} iterations, the most that "
                                 f"max_iterations allows", stage=stage.plan.name)  # fmt: skip
        return Opening([Block("main", str(index), bindings)])
