"""Schedules by their number: run one, count what went wrong in it, make a failing one smaller, tell it.

A schedule is a random workflow and all that happens to it. The same `Script` always gives the same schedule.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from noa.definitions import Evaluator, parse_plan
from noa.errors import NoaError
from noa.model.plan import Plan
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentKind, Registry, hookimpl
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES
from noa.stages import BUILTIN_STAGE_TYPES
from noa.testing.simulation.graphs import (
    AGENTS,
    CHILD,
    FEATURES,
    POOLS,
    iter_tasks,
    random_definition,
    reduced,
    without,
)
from noa.testing.simulation.world import FAULTS, World

__all__ = ["Failed", "Schedules", "Script", "SimulationError", "simulated_registry"]

_SCHEDULES_OF_A_GRAPH = 8
_OTHER_ORDERS = 6


class _NowhereKind(AgentKind):
    name = "simulated"

    def check(self, declaration: AgentDeclaration) -> str | None:
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        raise AssertionError("a simulated agent is never reached")


class _Plugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name=name, kind=_NowhereKind.name) for name in AGENTS]

    @hookimpl
    def noa_agent_kinds(self) -> list[AgentKind]:
        return [_NowhereKind()]

    @hookimpl
    def noa_stage_types(self) -> list[Any]:
        return [kind() for kind in BUILTIN_STAGE_TYPES]

    @hookimpl
    def noa_recovery_strategies(self) -> list[Any]:
        return [kind() for kind in BUILTIN_RECOVERY_STRATEGIES]


def simulated_registry() -> Registry:
    """The built-in stage types and strategies, and agents that only a simulation asks."""
    made = Registry()
    made.register(_Plugin(), "simulation")
    return made


@dataclass(frozen=True, slots=True)
class Script:
    """All that decides a schedule.

    Attributes:
        seed: Gives the workflow (by eights) and the order of what happens.
        order: Another order of what happens, 0 for the seed's own.
        features: Features and recovery strategies that the workflow is without.
        dropped: Stages and tasks that it is without.
        faults: Kinds of faults that do not happen.
        most_faults: After so many nothing goes wrong any more.
    """

    seed: int
    order: int = 0
    features: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    faults: frozenset[str] = frozenset()
    most_faults: int = 12

    def command(self) -> str:
        """The command that plays it again."""
        words = ["python -m noa.testing.simulation", f"--seed {self.seed}"]
        if self.order:
            words.append(f"--order {self.order}")
        lists = {"without": self.features, "drop": self.dropped, "no-fault": self.faults}
        words += [f"--{name} '{','.join(sorted(values))}'" for name, values in lists.items() if values]
        if self.most_faults != 12:
            words.append(f"--faults {self.most_faults}")
        return " ".join(words)

    def definition(self) -> dict[str, Any]:
        """The workflow."""
        whole = random_definition(self.seed // _SCHEDULES_OF_A_GRAPH)
        return reduced(without(whole, self.features), self.dropped)


@dataclass(slots=True)
class Failed:
    """A schedule in which something did not hold."""

    script: Script
    why: str
    story: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        definition = json.dumps(self.script.definition()["workflow"]["stages"], separators=(",", ":"))
        return "\n".join(
            [self.why, f"replay: {self.script.command()}", f"stages: {definition}", *(self.story or ["(not told)"])]
        )


class SimulationError(AssertionError):
    """A schedule failed; `failed` has it in its smallest form that was found."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(str(failed))
        self.failed = failed


class Schedules:
    """Plays schedules and counts.

    Attributes:
        counts: Schedules, events, how runs ended, faults by kind.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._registry = simulated_registry()
        self._evaluator = Evaluator()
        self._plan: tuple[int, Plan] | None = None

    def play_all(self, seeds: range, *, progress: Callable[[int], None] | None = None) -> None:
        """Play many.

        Raises:
            SimulationError: One failed; it was made smaller.
        """
        for seed in seeds:
            failed = self.play(Script(seed))
            if failed is not None:
                raise SimulationError(self.smaller(failed))
            if progress is not None:
                progress(seed)

    def play(self, script: Script, *, tell: bool = False) -> Failed | None:
        """Play one; what failed, or None."""
        world = World(
            self._plan_of(script),
            self._registry,
            seed=f"{script.seed}/{script.order}",
            without=script.faults,
            most_faults=script.most_faults,
            evaluator=self._evaluator,
        )
        if tell:
            world.heed()
        why = ""
        try:
            world.run()
            world.forked()
        except Exception as error:  # whatever the engine raises is what is looked for here
            why = str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"
        self.counts["schedules"] += 1
        self.counts.update(world.counts)
        if tell and not why:
            return Failed(script, "nothing failed", world.story)
        return Failed(script, why, world.story) if why else None

    def _plan_of(self, script: Script) -> Plan:
        plain = not script.features and not script.dropped
        number = script.seed // _SCHEDULES_OF_A_GRAPH
        if plain and self._plan is not None and self._plan[0] == number:
            return self._plan[1]
        text = json.dumps(script.definition())
        texts = {"": text, "child.json": json.dumps(CHILD)}
        plan = parse_plan(text, "simulated.json", registry=self._registry, host_resources=POOLS, texts=texts)
        if plain:
            self._plan = (number, plan)
        return plan

    # --- smaller ones

    def smaller(self, failed: Failed, *, tries: int = 400) -> Failed:
        """A smaller schedule that fails too, with its story: fewer kinds of faults, features, stages and tasks."""
        left = tries
        found = failed
        again = True
        while again and left > 0:
            again = False
            for script in _smaller(found.script):
                left -= 1
                other = self._fails(script, _kind(failed.why))
                if other is not None:
                    found, again = other, True
                    break
                if left <= 0:
                    break
        told = self.play(found.script, tell=True)
        return told if told is not None else found

    def _fails(self, script: Script, kind: str) -> Failed | None:
        for order in (script.order, *range(1, _OTHER_ORDERS)):
            try:
                failed = self.play(replace(script, order=order))
            except NoaError:
                return None  # what is left is no workflow
            if failed is not None and _kind(failed.why) == kind:
                return failed
        return None


def _kind(why: str) -> str:
    """What failed, without names and numbers."""
    return re.sub(r"'[^']*'|\[[^]]*\]|\d+", "", why)[:60]


def _smaller(script: Script) -> Iterator[Script]:
    """Scripts with one thing less, the largest things first."""
    stages = script.definition()["workflow"]["stages"]
    names = [stage["name"] for stage in stages]
    if len(names) > 1:
        half = names[len(names) // 2 :]
        yield replace(script, dropped=script.dropped | set(half))
        for name in reversed(names):
            yield replace(script, dropped=script.dropped | {name})
    if len(script.faults) < len(FAULTS):
        yield replace(script, faults=frozenset(FAULTS))
        for kind in FAULTS:
            if kind not in script.faults:
                yield replace(script, faults=script.faults | {kind})
    strategies = {"retry", "fallback", "degrade", "skip", "fail", "rollback", "ask", "circuit_breaker", "hedge"}
    text = json.dumps(stages)
    for feature in sorted({*FEATURES, *strategies} - script.features):
        if any(f'"{key}"' in text for key in FEATURES.get(feature, (feature,))):
            yield replace(script, features=script.features | {feature})
    for stage in stages:
        for tasks in iter_tasks(stage):
            if len(tasks) > 1:
                for task in reversed(tasks):
                    yield replace(script, dropped=script.dropped | {f"{stage['name']}/{task['name']}"})
    if script.most_faults > 1:
        yield replace(script, most_faults=script.most_faults // 2)
