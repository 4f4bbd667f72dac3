"""Implicit wiring: which output fields a task without `inputs` sees. Design, section 5.

A field map goes along the edges of the graph. Each field remembers the task that gave it; the same field from two tasks
is left out, also for everything after. Maps are shared where nothing changes, so that a chain costs O(fields) a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

__all__ = ["Fields", "extend", "merge", "visible"]

Fields: TypeAlias = dict[str, tuple[str, Any]]
"""Field name -> (path of the task that gave it, value); an empty path marks a field that two tasks gave."""

_CLASH: tuple[str, Any] = ("", None)


def extend(fields: Fields, task: str, outputs: Mapping[str, Any] | None) -> Fields:
    """The map after a task gave its outputs; the same object where it gave none."""
    if not outputs:
        return fields
    grown = dict(fields)
    for name, value in outputs.items():
        grown[name] = _CLASH if name in fields else (task, value)
    return grown


def merge(maps: Iterable[Fields]) -> Fields:
    """The map of a task with these dependencies; the same object where all of them are the same."""
    merged: Fields | None = None
    owned = False
    for fields in maps:
        if merged is None or not merged:
            merged = fields
        elif fields is not merged and fields:
            if not owned:
                merged, owned = dict(merged), True
            for name, (origin, value) in fields.items():
                if name in merged and merged[name][0] != origin:
                    merged[name] = _CLASH
                else:
                    merged[name] = (origin, value)
    return {} if merged is None else merged


def visible(fields: Fields) -> dict[str, Any]:
    """Names and values without the clashes."""
    return {name: value for name, (origin, value) in fields.items() if origin}
