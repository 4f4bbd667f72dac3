"""The recovery chain that counts for a task, ready to be asked: strategies with their options, and what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noa.engine.nodes import TaskNode
from noa.model.plan import Plan, StrategySpec
from noa.plugin import RecoveryStrategy

__all__ = ["Chain", "Chains", "Entry"]


class Entry:
    """One entry of a chain. Its options are validated when they are first needed, which for most tasks is never."""

    __slots__ = ("_guard", "_options", "name", "spec", "strategy")

    def __init__(self, spec: StrategySpec, strategy: RecoveryStrategy) -> None:
        self.name = spec.name
        self.spec = spec
        self.strategy = strategy
        self._options: Any = None
        self._guard = ""

    @property
    def options(self) -> Any:
        """Of the strategy's own model. Raises ValueError where they are not what it takes."""
        if self._options is None:
            self._options = self.strategy.options.model_validate(dict(self.spec.options))
        return self._options

    @property
    def guard(self) -> str:
        """Names it and its options among everything that keeps a memory."""
        if not self._guard:
            self._guard = f"{self.name}:{dict(self.spec.options)!r}"
        return self._guard


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain.

    Attributes:
        entries: In order.
        guards: Those that may refuse an attempt before it begins.
        hedges: Those that may begin a second attempt beside one.
        recalls: Those that may take outputs of earlier runs, by their options.
    """

    entries: tuple[Entry, ...] = ()
    guards: tuple[Entry, ...] = ()
    hedges: tuple[Entry, ...] = ()
    recalls: tuple[Entry, ...] = ()


_EMPTY = Chain()


class Chains:
    """Finds and keeps the chains of plans."""

    def __init__(self, strategies: Mapping[str, RecoveryStrategy]) -> None:
        self._strategies = strategies
        self._made: dict[int, tuple[tuple[StrategySpec, ...], Chain]] = {}

    def of(self, plan: Plan, task: TaskNode) -> Chain:
        """The nearest chain: the task's, its stage's, the workflow's. What undoes a task has its own only.

        Raises:
            KeyError: A strategy is not known here.
        """
        specs = task.plan.recovery
        if specs is None and task.undoes is None:
            specs = task.stage.plan.recovery
            if specs is None:
                specs = plan.recovery
        if not specs:
            return _EMPTY
        known = self._made.get(id(specs))
        if known is None or known[0] is not specs:
            known = self._made[id(specs)] = (specs, self._make(specs))
        return known[1]

    def _make(self, specs: tuple[StrategySpec, ...]) -> Chain:
        base = RecoveryStrategy
        entries = tuple(Entry(spec, self._strategies[spec.name]) for spec in specs)
        return Chain(
            entries=entries,
            guards=tuple(e for e in entries if e.strategy.guards),
            hedges=tuple(e for e in entries if type(e.strategy).hedge_after_ms is not base.hedge_after_ms),
            recalls=tuple(e for e in entries if type(e.strategy).recalls is not base.recalls),
        )
