"""Options of a stage type: models to JSON in which expressions are compiled, and the tasks that such JSON reads."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import BaseModel

from noa.definitions.models import ExpressionText, Scope
from noa.definitions.scopes import ExpressionCompiler, Place
from noa.definitions.source import NodePath
from noa.model.plan import Expression, Interpolation, Position, Reference, Template

__all__ = ["add_reads", "compile_options"]


def compile_options(
    expressions: ExpressionCompiler, value: Any, path: NodePath, graphs: AbstractSet[NodePath], where: Place
) -> Any:
    """A stage type's options as JSON. Task graphs (at the paths `graphs`) are left out; a bare expression becomes an
    `Expression`, text with `${{ }}` a template. A field marked with `Scope` sees more names than its stage.
    """
    if isinstance(value, BaseModel):
        made = {}
        for name, info in type(value).model_fields.items():
            below = (*path, info.alias or name)
            if below in graphs:
                continue
            extra = tuple(n for mark in info.metadata if isinstance(mark, Scope) for n in mark.names)
            inner = Place((*where.names, *extra), where.stage) if extra else where
            made[below[-1]] = compile_options(expressions, getattr(value, name), below, graphs, inner)
        return made
    if isinstance(value, ExpressionText):
        return expressions.condition(value, path, where)
    if isinstance(value, list):
        return [compile_options(expressions, part, (*path, i), graphs, where) for i, part in enumerate(value)]
    if isinstance(value, dict):
        return {key: compile_options(expressions, part, (*path, key), graphs, where) for key, part in value.items()}
    return expressions.template(value, path, where)


def add_reads(reads: dict[Reference, Position], template: Template) -> None:
    """Collect the references of a template with the place of the expression that reads them."""
    if isinstance(template, Expression):
        for reference in template.references:
            reads.setdefault(reference, template.position)
    elif isinstance(template, Interpolation):
        for part in template.parts:
            add_reads(reads, part)
    elif isinstance(template, dict):
        for part in template.values():
            add_reads(reads, part)
    elif isinstance(template, list):
        for part in template:
            add_reads(reads, part)
