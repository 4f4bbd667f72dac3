"""`recovery:` lists: each entry names a strategy, alone or with its options, in which expressions may stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from noa.definitions.agents import AgentChecks, unknown_inputs
from noa.definitions.models import ExpressionText
from noa.definitions.problems import existing, kind_of, known, model_problems, place
from noa.definitions.scopes import ExpressionCompiler, Place
from noa.definitions.source import NodePath, Source, dotted
from noa.errors import Problem
from noa.model.plan import StrategySpec
from noa.plugin.interfaces import RecoveryStrategy

__all__ = ["Asked", "ChainCompiler"]

_COLLECTIONS = ("dict_type", "mapping_type", "model_type", "model_attributes_type", "list_type", "tuple_type")
"""Mistakes of text where more is expected: with or without an expression they are told as such."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom the task of a chain asks for what; empty where that is not one task, or a sub-workflow."""

    agent: str = ""
    action: str = ""


@dataclass(slots=True)
class ChainCompiler:
    """Compiles the chains of one document. Mistakes are added to `problems`."""

    source: Source
    strategies: Mapping[str, RecoveryStrategy]
    expressions: ExpressionCompiler
    agents: AgentChecks
    problems: list[Problem]
    asks: bool = False
    """Whether any chain may hold a task for a person."""
    _known: dict[str, tuple[StrategySpec, ...]] = field(default_factory=dict)

    def chain(
        self, entries: list[Any] | None, path: NodePath, where: Place, asked: Asked
    ) -> tuple[StrategySpec, ...] | None:
        """The chain that a list means, in order; None where there is no list.

        An entry is a name (`retry`) or a mapping of one name to options (`retry: {max_attempts: 5}`).
        """
        if entries is None:
            return None
        made = (self._entry(entry, (*path, index), where, asked) for index, entry in enumerate(entries))
        return self._shared(tuple(spec for spec in made if spec is not None))

    def _shared(self, specs: tuple[StrategySpec, ...]) -> tuple[StrategySpec, ...]:
        """The same object for equal chains, so that what the engine makes of one is made once, not for each task."""
        plain = [(spec.name, spec.options) for spec in specs]
        try:
            return self._known.setdefault(json.dumps(plain), specs)
        except (TypeError, ValueError):
            return specs  # it holds expressions, which know where they stand

    def _entry(self, entry: Any, path: NodePath, where: Place, asked: Asked) -> StrategySpec | None:
        options: Any = None
        below = path
        if isinstance(entry, str):
            name = entry
        elif isinstance(entry, dict) and len(entry) == 1:
            name, options = next(iter(entry.items()))
            below = (*path, name)
        else:
            got = f"a mapping with {len(entry)} keys" if isinstance(entry, dict) else kind_of(entry)
            hint = "Indent the options below the strategy's name." if isinstance(entry, dict) and entry else ""
            self._add("WRONG_TYPE", path, f"expected a recovery strategy such as 'retry' or 'retry: {{…}}', got {got}",
                      hint)  # fmt: skip
            return None
        strategy = self.strategies.get(name)
        if strategy is None:
            message = f"recovery strategy '{name}' is not known. {known(name, self.strategies)}"
            self._add("UNKNOWN_RECOVERY", below, message, key=True)
            return None
        try:
            model = strategy.options.model_validate({} if options is None else options)
        except ValidationError as error:
            self._refuse(strategy, error, below)
            return None
        plain = model.model_dump(mode="json", by_alias=True)
        before = len(self.problems)
        made = _Options(self, where, asked).compiled(model, plain, below)
        if made is not plain and len(self.problems) == before:
            self._check_places(strategy, made, below)
        self.asks = self.asks or strategy.asks
        return StrategySpec(name, made, self.source.position(below, key=True))

    def _refuse(self, strategy: RecoveryStrategy, error: ValidationError, path: NodePath) -> None:
        """Tell what is wrong with options as they were written; of an expression, that it cannot stand there."""
        found = model_problems(self.source, error, strategy.options, path)
        for item, problem in zip(error.errors(include_url=False), found, strict=True):
            given = item["input"]
            if item["loc"] and isinstance(given, str) and "${{" in given and item["type"] not in _COLLECTIONS:
                self._no_expression(strategy, item["loc"], path)
            else:
                self.problems.append(problem)

    def _check_places(self, strategy: RecoveryStrategy, options: Any, path: NodePath) -> None:
        """Options must also be taken with compiled expressions in them, because so the strategy gets them."""
        try:
            strategy.options.model_validate(options)
        except ValidationError as error:
            for loc in dict.fromkeys(item["loc"] for item in error.errors(include_url=False)):
                self._no_expression(strategy, loc, path)
        except Exception:  # foreign code: a validator that does not expect an Expression
            self._no_expression(strategy, (), path)

    def _no_expression(self, strategy: RecoveryStrategy, loc: NodePath, path: NodePath) -> None:
        at = existing(self.source, (*path, *loc))
        below = at[len(path) :]
        key = next((number for number in reversed(range(len(below))) if isinstance(below[number], str)), 0)
        option = dotted(below[key:])
        what = f"option '{option}' of '{strategy.name}'" if option else f"these options of '{strategy.name}'"
        self._add("WRONG_TYPE", at, f"{what} cannot hold an expression", "Write the value itself.")

    def _add(self, code: str, path: NodePath, message: str, hint: str = "", *, key: bool = False) -> None:
        text = place(self.source, path) + message
        self.problems.append(self.source.problem(code, text, path, hint=hint, key=key))


@dataclass(slots=True)
class _Options:
    """The options of one entry as JSON in which expressions are compiled; agents that they name are checked."""

    chains: ChainCompiler
    where: Place
    asked: Asked

    def compiled(self, live: Any, plain: Any, path: NodePath) -> Any:
        """`plain` with its expressions compiled, itself where it has none.

        Args:
            live: The validated value, whose types say more than its JSON.
            plain: That value as JSON.
        """
        if isinstance(live, ExpressionText):
            made = self.chains.expressions.condition(live, self._written(path), self.where)
            return plain if made is None else made
        if isinstance(live, BaseModel) and isinstance(plain, dict):
            if getattr(type(live), "noa_target", False):
                self._check_target(live, path)
            fields = type(live).model_fields
            values = {info.alias or name: getattr(live, name) for name, info in fields.items()}
            return self._mapping(values, plain, path)
        if isinstance(plain, dict):
            return self._mapping(live if isinstance(live, dict) else {}, plain, path)
        if isinstance(plain, list):
            same = isinstance(live, (list, tuple)) and len(live) == len(plain)
            items = live if same else plain
            parts = [self.compiled(v, p, (*path, i)) for i, (v, p) in enumerate(zip(items, plain, strict=True))]
            return plain if all(new is old for new, old in zip(parts, plain, strict=True)) else parts
        if isinstance(plain, str) and "${{" in plain:
            return self.chains.expressions.template(plain, self._written(path), self.where)
        return plain

    def _written(self, path: NodePath) -> NodePath:
        """Where a value stands in the document: without keys that a shorter form leaves out."""
        return existing(self.chains.source, path)

    def _mapping(self, live: Mapping[str, Any], plain: dict[str, Any], path: NodePath) -> dict[str, Any]:
        made = {key: self.compiled(live.get(key, part), part, (*path, key)) for key, part in plain.items()}
        return plain if all(made[key] is part for key, part in plain.items()) else made

    def _check_target(self, live: Any, path: NodePath) -> None:
        """Check the agent and the action that options name like those of a task; what is not given stays the task's."""
        path = self._written(path)
        agents, source = self.chains.agents, self.chains.source
        agent, action = live.agent or self.asked.agent, live.action or self.asked.action
        if (live.agent is None and not agents.knows(agent)) or any("${{" in name for name in (agent, action)):
            return
        info = agents.check(agent, action, path)
        if info is not None and isinstance(inputs := getattr(live, "inputs", None), dict):
            self.chains.problems += unknown_inputs(source, agent, inputs, info, path)
