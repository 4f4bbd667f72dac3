"""`recovery:` lists: each entry names a strategy, alone or with its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from noa.definitions.problems import kind_of, known, model_problems, place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import StrategySpec
from noa.plugin.interfaces import RecoveryStrategy

__all__ = ["compile_recovery"]


def compile_recovery(
    source: Source,
    strategies: Mapping[str, RecoveryStrategy],
    entries: list[Any] | None,
    path: NodePath,
    problems: list[Problem],
) -> tuple[StrategySpec, ...] | None:
    """The chain that a list means, in order; None where there is no list. Mistakes are added to `problems`.

    An entry is a name (`retry`) or a mapping of one name to options (`retry: {max_attempts: 5}`).
    """
    if entries is None:
        return None
    made = (_entry(source, strategies, entry, (*path, index), problems) for index, entry in enumerate(entries))
    return tuple(spec for spec in made if spec is not None)


def _entry(
    source: Source, strategies: Mapping[str, RecoveryStrategy], entry: Any, path: NodePath, problems: list[Problem]
) -> StrategySpec | None:
    options: Any = None
    below = path
    if isinstance(entry, str):
        name = entry
    elif isinstance(entry, dict) and len(entry) == 1:
        name, options = next(iter(entry.items()))
        below = (*path, name)
    else:
        got = f"a mapping with {len(entry)} keys" if isinstance(entry, dict) else kind_of(entry)
        message = f"{place(source, path)}expected a recovery strategy such as 'retry' or 'retry: {{…}}', got {got}"
        hint = "Indent the options below the strategy's name." if isinstance(entry, dict) and entry else ""
        problems.append(source.problem("WRONG_TYPE", message, path, hint=hint))
        return None
    strategy = strategies.get(name)
    if strategy is None:
        message = f"{place(source, path)}recovery strategy '{name}' is not known. {known(name, strategies)}"
        problems.append(source.problem("UNKNOWN_RECOVERY", message, below, key=True))
        return None
    try:
        model = strategy.options.model_validate({} if options is None else options)
    except ValidationError as error:
        problems += model_problems(source, error, strategy.options, below)
        return None
    return StrategySpec(name, model.model_dump(mode="json", by_alias=True), source.position(below, key=True))
