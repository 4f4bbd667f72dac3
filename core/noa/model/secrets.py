"""Secrets in inputs: a mark stands for each until the moment an agent is asked, so that no value is ever recorded.

`${{ secrets.NAME }}` evaluates to that very text. Events, `noa show` and a person see the mark; `fill` puts the value
in its place, only where the definition itself has the expression: text that merely looks like a mark, such as a
file's name, stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from noa.model.plan import Expression, Interpolation, Template

__all__ = ["MARK", "ROOT", "SecretMarks", "embedded_names", "expand", "fill", "secret_names"]

ROOT = "secrets"
"""The name in expressions."""

MARK = "${{ secrets."
"""What every mark begins with."""


_EMBEDDED = re.compile(r"\$\{\{\s*secrets\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")


def embedded_names(text: str) -> tuple[str, ...]:
    """The secrets that plain text of a definition names, such as a variable of an agent's environment."""
    return tuple(dict.fromkeys(_EMBEDDED.findall(text)))


def expand(text: str, value_of: Callable[[str], str]) -> str:
    """Such text with the values in place."""
    return _EMBEDDED.sub(lambda found: value_of(found[1]), text)


class SecretMarks(dict[str, str]):
    """`secrets` as expressions see it: each name gives its mark."""

    def __missing__(self, name: str) -> str:
        return f"{MARK}{name} }}}}"


_MARKS = SecretMarks()


def secret_names(template: Template) -> tuple[str, ...]:
    """Names of the secrets that a template passes on, each once, in their order."""
    found: dict[str, None] = {}
    _collect(template, found)
    return tuple(found)


def _collect(template: Template, found: dict[str, None]) -> None:
    if isinstance(template, Expression):
        if (name := _name(template)) is not None:
            found[name] = None
    elif isinstance(template, Interpolation):
        for part in template.parts:
            _collect(part, found)
    elif isinstance(template, Mapping):
        for part in template.values():
            _collect(part, found)
    elif isinstance(template, list | tuple):
        for part in template:
            _collect(part, found)


def _name(expression: Expression) -> str | None:
    """The secret that an expression is; only `secrets.NAME` compiles, so that the root says it all."""
    if expression.roots != (ROOT,):
        return None
    return expression.text.removeprefix(ROOT).strip(".[]\"'")


def fill(template: Template, value: Any, value_of: Callable[[str], str]) -> Any:
    """What an agent gets: the evaluated value with each secret in the place of its mark.

    Args:
        template: Of the inputs, as compiled.
        value: What it evaluated to; a part that has another shape (someone changed it) is taken as it is.
        value_of: Gives a secret by name.
    """
    if isinstance(template, Expression):
        name = _name(template)
        return value_of(name) if name is not None and value == _MARKS[name] else value
    if isinstance(template, Interpolation):
        if isinstance(value, str):
            marks = {_MARKS[name]: name for name in secret_names(template)}
            if marks:  # all at once: a secret that looks like a mark is no mark
                value = re.sub("|".join(map(re.escape, marks)), lambda mark: value_of(marks[mark[0]]), value)
        return value
    if isinstance(template, Mapping) and isinstance(value, Mapping):
        return {key: fill(template[key], part, value_of) if key in template else part for key, part in value.items()}
    if isinstance(template, list | tuple) and isinstance(value, list) and len(template) == len(value):
        return [fill(part, made, value_of) for part, made in zip(template, value, strict=True)]
    return value
