"""The recovery chain that counts for a task, ready to be asked: strategies with their options, and what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from noa.engine.nodes import TaskNode
from noa.model.plan import Plan, StrategySpec
from noa.plugin import RecoveryStrategy

__all__ = ["Chain", "Chains", "Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a chain; `guard` names it and its options among everything that keeps a memory."""

    name: str
    strategy: RecoveryStrategy
    options: Any
    guard: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain.

    Attributes:
        entries: In order.
        guards: Those that may refuse an attempt before it begins.
        hedges: Those that may begin a second attempt beside one.
        recalls: Whether any may take outputs of earlier runs.
    """

    entries: tuple[Entry, ...] = ()
    guards: tuple[Entry, ...] = ()
    hedges: tuple[Entry, ...] = ()
    recalls: bool = False


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
            ValueError: Its options are not what it takes.
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
        entries = tuple(self._entry(spec) for spec in specs)
        return Chain(
            entries=entries,
            guards=tuple(e for e in entries if e.strategy.guards),
            hedges=tuple(e for e in entries if type(e.strategy).hedge_after_ms is not RecoveryStrategy.hedge_after_ms),
            recalls=any(e.strategy.recalls(e.options) for e in entries),
        )

    def _entry(self, spec: StrategySpec) -> Entry:
        strategy = self._strategies[spec.name]
        options = dict(spec.options)
        return Entry(spec.name, strategy, strategy.options.model_validate(options), f"{spec.name}:{options!r}")
