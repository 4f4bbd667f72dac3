"""Expressions that do not stand in a definition: a person types them, such as the condition of a breakpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from noa.definitions.expressions import BASE_NAMES, ExpressionError, SyntaxMistakes, analyse
from noa.definitions.problems import known
from noa.model.plan import Expression, Reference

__all__ = ["snippet"]

_ATTRIBUTES = ("outputs", "status")


def snippet(
    text: str, names: Collection[str], stages: Mapping[str, Collection[str]], tasks: Collection[str] = ()
) -> Expression:
    """The expression that a text means.

    Args:
        text: CEL, without `${{ }}`.
        names: In scope beside inputs, stages, tasks and run.
        stages: Tasks by the name of their stage, for `stages.<stage>.<task>`.
        tasks: Of the block in which it is evaluated, for `tasks.<task>`.

    Raises:
        ExpressionError: It does not compile, or reads what does not exist.
    """
    inner = text.strip().removeprefix("${{").removesuffix("}}").strip()
    if not inner:
        raise ExpressionError("the expression is empty", expression=text)
    scope = tuple(sorted({*names, *BASE_NAMES} - {"secrets"}))
    try:
        analysis = analyse(inner, scope)
    except SyntaxMistakes as error:
        name = next((mistake.name for mistake in error.mistakes if mistake.name), "")
        more = f". {known(name, scope)}" if name else ""
        raise ExpressionError(f"expression `{inner}`: {error}{more}", expression=inner) from None
    references: dict[Reference, None] = {}
    for use in analysis.uses:
        if use.root == "secrets":
            raise ExpressionError(f"expression `{inner}`: secrets are not shown", expression=inner)
        if use.root == "tasks" and use.path:
            references[_reference(inner, None, tasks, use.path)] = None
        elif use.root == "stages" and use.path:
            stage = str(use.path[0])
            if stage not in stages:
                raise ExpressionError(f"expression `{inner}`: stage '{stage}' is not known. {known(stage, stages)}")
            named: Collection[object] = use.path[1:2] or stages[stage]
            for task in named:
                references[_reference(inner, stage, stages[stage], (task, *use.path[2:]))] = None
    return Expression(inner, references=tuple(references), roots=tuple(dict.fromkeys(u.root for u in analysis.uses)))


def _reference(text: str, stage: str | None, tasks: Collection[str], path: tuple[object, ...]) -> Reference:
    name = str(path[0])
    if name not in tasks:
        where = f"stage '{stage}' has no task '{name}'" if stage else f"task '{name}' is not in this block"
        raise ExpressionError(f"expression `{text}`: {where}. {known(name, tasks)}", expression=text)
    attribute = str(path[1]) if len(path) > 1 else "outputs"
    if attribute not in _ATTRIBUTES:
        raise ExpressionError(f"expression `{text}`: a task has outputs and status, not '{attribute}'")
    return Reference(stage, name, attribute)
