"""The built-in stage types, driven as an engine drives them: blocks open and finish in any order until none is open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa.definitions import Evaluator, ExpressionError, load_plan
from noa.errors import DefinitionError
from noa.model.events import Block
from noa.model.plan import StagePlan
from noa.plugin import (
    AgentConnection,
    AgentContext,
    AgentDeclaration,
    AgentKind,
    BlockView,
    Opening,
    Registry,
    hookimpl,
)
from noa.stages import BUILTIN_STAGE_TYPES
from noa.stages.loop import LoopLimitError

TASK = {"name": "t", "agent": "any", "action": "go"}


class AnyKind(AgentKind):
    """Agents of which nothing is known."""

    name = "any"

    def check(self, declaration: AgentDeclaration) -> str | None:
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        raise NotImplementedError


class Plugin:
    """The built-in stage types and one agent."""

    @hookimpl
    def noa_stage_types(self) -> Any:
        return BUILTIN_STAGE_TYPES

    @hookimpl
    def noa_agent_kinds(self) -> Any:
        return [AnyKind]

    @hookimpl
    def noa_agents(self) -> Any:
        return [AgentDeclaration("any", "any")]


REGISTRY = Registry()
REGISTRY.register(Plugin(), "tests")


def stage_of(**keys: Any) -> StagePlan:
    """A stage with these keys, compiled."""
    plan = load_plan({"workflow": {"name": "w", "stages": [{"name": "s", **keys}]}}, registry=REGISTRY)
    return plan.stages["s"]


@dataclass
class Driver:
    """Runs one stage: what the engine does around a stage type, without running tasks."""

    plan: StagePlan
    scope: Mapping[str, Any] = field(default_factory=dict)
    memo: Any = None
    opened: list[Block] = field(default_factory=list)
    open: list[Block] = field(default_factory=list)
    most_open: int = 0

    @property
    def open_blocks(self) -> int:
        return len(self.open)

    @property
    def opened_blocks(self) -> int:
        return len(self.opened)

    def evaluate(self, template: Any, bindings: Mapping[str, Any] | None = None) -> Any:
        return Evaluator().evaluate(template, {**self.scope, **(bindings or {})})

    def start(self) -> None:
        self._take(REGISTRY.stage_types[self.plan.type].start(self))

    def finish(self, block: Block, outputs: Mapping[str, Any] | None = None, status: str = "succeeded") -> None:
        self.open.remove(block)
        view = BlockView(block.key, block.template, block.bindings, status, outputs or {})
        self._take(REGISTRY.stage_types[self.plan.type].block_finished(self, view))

    def run(self, work: Callable[[Block], Mapping[str, Any]] = lambda block: {}) -> list[str]:
        """Run to the end, oldest block first; the keys in the order of opening."""
        self.start()
        while self.open:
            block = self.open[0]
            self.finish(block, work(block))
        return [block.key for block in self.opened]

    def _take(self, opening: Opening) -> None:
        if opening.memo is not None:
            self.memo = opening.memo
        self.opened += opening.blocks
        self.open += opening.blocks
        self.most_open = max(self.most_open, len(self.open))
        assert len({b.key for b in self.opened}) == len(self.opened)
        assert all(b.template in self.plan.templates for b in opening.blocks)


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_one_block_under_the_empty_key(kind: str) -> None:
    plan = stage_of(type=kind, tasks=[TASK])
    driver = Driver(plan)
    assert plan.single
    assert driver.run() == [""]
    assert driver.opened == [Block("main")]


class TestConditional:
    """The first branch that is true."""

    def stage(self, *, otherwise: bool = True) -> StagePlan:
        branches = [{"when": f"inputs.x == {n}", "tasks": [TASK]} for n in (0, 1)]
        return stage_of(type="conditional", branches=branches, **({"else": [TASK]} if otherwise else {}))

    @pytest.mark.parametrize(("x", "key"), [(0, "branch0"), (1, "branch1"), (2, "else")])
    def test_opens_the_first_branch_that_is_true(self, x: int, key: str) -> None:
        driver = Driver(self.stage(), {"inputs": {"x": x}})
        assert driver.run() == [key]
        assert driver.opened[0].template == key

    def test_opens_nothing_where_none_is_true(self) -> None:
        assert Driver(self.stage(otherwise=False), {"inputs": {"x": 2}}).run() == []

    def test_a_later_condition_is_not_asked(self) -> None:
        branches = [{"when": "true", "tasks": [TASK]}, {"when": "inputs.missing", "tasks": [TASK]}]
        assert Driver(stage_of(type="conditional", branches=branches), {"inputs": {}}).run() == ["branch0"]

    def test_a_condition_that_is_not_boolean_is_an_error(self) -> None:
        branches = [{"when": "inputs.x", "tasks": [TASK]}]
        with pytest.raises(ExpressionError, match="expected true or false"):
            Driver(stage_of(type="conditional", branches=branches), {"inputs": {"x": "yes"}}).run()


class TestForEach:
    """Once for each item."""

    @settings(deadline=None, max_examples=60)
    @given(items=st.lists(st.integers() | st.text(max_size=3), max_size=12), limit=st.integers(1, 5), data=st.data())
    def test_every_item_once_in_order_and_never_more_at_once(
        self, items: list[Any], limit: int, data: st.DataObject
    ) -> None:
        plan = stage_of(type="loop", for_each="${{ inputs.items }}", max_parallel=limit, tasks=[TASK])
        driver = Driver(plan, {"inputs": {"items": items}})
        driver.start()
        while driver.open:
            assert len(driver.open) <= limit
            driver.finish(data.draw(st.sampled_from(driver.open)))
        assert [b.key for b in driver.opened] == [str(i) for i in range(len(items))]
        assert [b.bindings["item"] for b in driver.opened] == items
        assert driver.most_open == min(limit, len(items))

    def test_previous_is_what_the_last_iteration_gave(self) -> None:
        driver = Driver(stage_of(type="loop", for_each=["a", "b", "c"], tasks=[TASK]))
        driver.run(lambda block: {"t": {"got": block.bindings["item"]}})
        assert [b.bindings["previous"] for b in driver.opened] == [None, {"t": {"got": "a"}}, {"t": {"got": "b"}}]

    def test_the_memo_is_written_once(self) -> None:
        kind = REGISTRY.stage_types["loop"]
        driver = Driver(stage_of(type="loop", for_each=[1, 2, 3], tasks=[TASK]))
        driver.start()
        block = driver.open.pop()
        assert driver.memo == {"items": [1, 2, 3]}
        view = BlockView(block.key, block.template, block.bindings, "succeeded", {})
        assert kind.block_finished(driver, view).memo is None

    def test_too_many_items_name_both_numbers(self) -> None:
        plan = stage_of(type="loop", for_each="${{ inputs.n }}", max_iterations=3, tasks=[TASK])
        with pytest.raises(LoopLimitError, match=r"gave 4 items, max_iterations is 3"):
            Driver(plan, {"inputs": {"n": [1, 2, 3, 4]}}).run()
        plain = stage_of(type="loop", for_each="${{ inputs.n }}", tasks=[TASK])
        with pytest.raises(LoopLimitError, match=r"gave 10,001 items, max_iterations is 10,000"):
            Driver(plain, {"inputs": {"n": [0] * 10_001}}).run()

    def test_what_is_no_list_is_an_error(self) -> None:
        plan = stage_of(type="loop", for_each="${{ inputs.n }}", tasks=[TASK])
        with pytest.raises(ExpressionError, match="expected a list"):
            Driver(plan, {"inputs": {"n": "abc"}}).run()

    def test_a_failed_block_does_not_stop_the_others(self) -> None:
        driver = Driver(stage_of(type="loop", for_each=[1, 2], fail_fast=False, tasks=[TASK]))
        driver.start()
        driver.finish(driver.open[0], {"t": None}, "failed")
        assert [b.key for b in driver.open] == ["1"]


class TestWhileAndUntil:
    """As long as, or until, a condition holds."""

    @given(turns=st.integers(0, 8))
    @settings(deadline=None, max_examples=20)
    def test_while_is_asked_before_each_iteration(self, turns: int) -> None:
        plan = stage_of(type="loop", max_iterations=10, tasks=[TASK], **{"while": f"index < {turns}"})
        assert Driver(plan).run() == [str(i) for i in range(turns)]

    @given(turns=st.integers(1, 8))
    @settings(deadline=None, max_examples=20)
    def test_until_is_asked_after_each_iteration(self, turns: int) -> None:
        plan = stage_of(type="loop", max_iterations=10, tasks=[TASK], until="previous.t.done")
        driver = Driver(plan)
        assert driver.run(lambda block: {"t": {"done": block.bindings["index"] + 1 == turns}}) == [
            str(i) for i in range(turns)
        ]

    def test_previous_is_null_at_first(self) -> None:
        plan = stage_of(
            type="loop", max_iterations=10, tasks=[TASK], **{"while": "previous == null || previous.t.n < 3"}
        )
        driver = Driver(plan)
        assert driver.run(lambda block: {"t": {"n": block.bindings["index"] + 1}}) == ["0", "1", "2"]

    def test_a_loop_that_does_not_end_is_an_error_at_its_bound(self) -> None:
        plan = stage_of(type="loop", max_iterations=3, tasks=[TASK], **{"while": "true"})
        driver = Driver(plan)
        with pytest.raises(LoopLimitError, match="not done after 3 iterations") as caught:
            driver.run()
        assert caught.value.to_dict()["code"] == "LOOP_LIMIT"
        assert [b.key for b in driver.opened] == ["0", "1", "2"]

    def test_an_end_exactly_at_the_bound_is_none(self) -> None:
        plan = stage_of(type="loop", max_iterations=3, tasks=[TASK], **{"while": "index < 3"})
        assert Driver(plan).run() == ["0", "1", "2"]

    def test_a_condition_that_is_not_boolean_is_an_error(self) -> None:
        plan = stage_of(type="loop", max_iterations=3, tasks=[TASK], until="previous.t.done")
        with pytest.raises(ExpressionError, match="'until' gave 'yes', expected true or false"):
            Driver(plan).run(lambda block: {"t": {"done": "yes"}})

    def test_iterations_run_one_at_a_time(self) -> None:
        with pytest.raises(DefinitionError, match="runs one iteration at a time"):
            stage_of(type="loop", max_iterations=3, max_parallel=2, tasks=[TASK], until="true")


def test_stage_types_keep_nothing_between_calls() -> None:
    for kind in REGISTRY.stage_types.values():
        assert vars(kind) == {}
