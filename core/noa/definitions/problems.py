"""Mistakes in words: the nearest known name, pydantic's errors as problems with positions, and the printed text."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from noa.definitions.source import NodePath, Source
from noa.errors import Problem

__all__ = ["existing", "explain", "kind_of", "known", "model_problems", "nearest", "place"]

_SHOWN = 12
_TAB = "    "


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name that is most like this one, or None where none is near."""
    candidates = list(names)
    if len(candidates) > 200:  # comparing with each would take too long
        candidates = [c for c in candidates if c[:1] == name[:1] and abs(len(c) - len(name)) < 3][:200]
    lowered = {c.lower(): c for c in candidates}
    found = difflib.get_close_matches(name.lower()[:200], lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def known(name: str, names: Iterable[str]) -> str:
    """`Known: a, b. Did you mean 'b'?` for a message about a name that is not known."""
    unique = set(names)
    every = sorted(unique) if len(unique) <= 1_000 else list(unique)
    if not every:
        return "None are known."
    near = nearest(name, every)
    shown = every[:_SHOWN]
    if near and near not in shown:
        shown = [*shown[:-1], near]
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return f"Known: {', '.join(shown)}{more}." + (f" Did you mean '{near}'?" if near else "")


def kind_of(value: Any) -> str:
    """A JSON value in words: `a number (5)`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, (int, float)):
        return f"a number ({value})"
    if isinstance(value, str):
        return f"text ({json.dumps(value if len(value) <= 40 else value[:39] + '…', ensure_ascii=False)})"
    return "a list" if isinstance(value, list) else "a mapping"


def place(source: Source, path: NodePath) -> str:
    """The stage and task that a path is in, as the beginning of a message: `stage 'a': task 'b': `."""
    text = ""
    value = source.data
    kind = ""
    for part in path:
        if isinstance(value, dict):
            value = value.get(str(part))
            kind = str(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
            what = {"stages": "stage", "tasks": "task", "else": "task"}.get(kind)
            if what:
                text += f"{what} {_label(value, part)}: "
        else:
            break
    return text


def _label(value: Any, index: int) -> str:
    if isinstance(value, dict):
        for key in ("name", "action", "workflow"):
            if isinstance(value.get(key), str) and value[key]:
                return f"'{value[key]}'"
    return str(index + 1)


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def model_problems(
    source: Source, error: ValidationError, model: type[BaseModel], base: NodePath, *, more_keys: Iterable[str] = ()
) -> list[Problem]:
    """A validation error as problems with positions.

    Args:
        source: The document.
        error: Of validating the node at `base` with `model`.
        model: The model; its keys are named where a key is not known.
        base: Path of the node.
        more_keys: Keys of the node beside those of the model.
    """
    found = []
    for item in error.errors(include_url=False):
        path = existing(source, (*base, *item["loc"]))
        found.append(_problem(source, item, model, base, path, tuple(more_keys)))
    return found


def _problem(
    source: Source, item: Any, model: type[BaseModel], base: NodePath, path: NodePath, more_keys: tuple[str, ...]
) -> Problem:
    kind: str = item["type"]
    loc = item["loc"]
    where = place(source, path)
    if kind == "missing":
        return source.problem("MISSING_KEY", f"{where}missing key '{loc[-1]}'", path)
    if kind == "extra_forbidden":
        holder = _model_at(model, loc[:-1])
        keys = _keys(holder) if holder else []
        keys += more_keys if len(loc) == 1 else ()
        return source.problem(
            "UNKNOWN_KEY", f"{where}unknown key '{loc[-1]}'. {known(str(loc[-1]), keys)}", path, key=True
        )
    inside_list = bool(path) and isinstance(path[-1], int)
    label = "" if inside_list and isinstance(item["input"], (dict, BaseModel)) else f"'{_key_of(path)}': "
    label = label if _key_of(path) else ""
    if kind in _EXPECTED:
        hint = "Put it in quotes." if kind == "string_type" and isinstance(item["input"], (int, float)) else ""
        message = f"{where}{label}expected {_EXPECTED[kind]}, got {kind_of(item['input'])}"
        return source.problem("WRONG_TYPE", message, path, hint=hint)
    if kind == "literal_error":
        values = [v.strip("'") for v in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        near = nearest(item["input"], values) if isinstance(item["input"], str) else None
        mean = f". Did you mean '{near}'?" if near else ""
        message = f"{where}{label}expected one of {', '.join(values)}, got {kind_of(item['input'])}{mean}"
        return source.problem("WRONG_VALUE", message, path)
    if kind in ("too_short", "string_too_short"):
        return source.problem("EMPTY", f"{where}{label}expected at least one, got none", path)
    return source.problem(_code(kind), f"{where}{label}{_message(item)}", path)


def _code(kind: str) -> str:
    codes = {"task_kind": "MISSING_KEY", "invalid_name": "INVALID_NAME"}
    return codes.get(kind, "WRONG_TYPE" if kind.endswith("_type") else "WRONG_VALUE")


def _message(item: Any) -> str:
    text = str(item["msg"])
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if text.startswith("Input should be "):
        return f"expected a value {text.removeprefix('Input should be ')}, got {kind_of(item['input'])}"
    return text


def _key_of(path: NodePath) -> str:
    return next((p for p in reversed(path) if isinstance(p, str)), "")


def existing(source: Source, path: NodePath) -> NodePath:
    """The path without what is not in the document, such as tags of unions and missing keys."""
    kept: list[str | int] = []
    value = source.data
    for part in path:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            kept.append(part)
    return tuple(kept)


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_at(model: type[BaseModel], loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of the node at `loc` below one of `model`."""
    current: Any = model
    for part in loc:
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = next((i for n, i in current.model_fields.items() if (i.alias or n) == part), None)
            if info is None:
                return None
            current = _unwrapped(info.annotation)
        else:
            arguments = typing.get_args(current)
            if not arguments:
                return None
            current = _unwrapped(arguments[-1])
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrapped(annotation: Any) -> Any:
    """An annotation without Annotated and without None."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            rest = [a for a in typing.get_args(annotation) if a is not type(None)]
            annotation = rest[0]
        else:
            return annotation


def explain(problems: Sequence[Problem]) -> str:
    """Problems as `noa validate` prints them: `file:line:col: message`, the source line, a caret, a hint."""
    return "\n".join(_explained(p) for p in problems)


def _explained(problem: Problem) -> str:
    where = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file or "definition"
    warning = "warning: " if problem.severity == "warning" else ""
    path = f" (at {problem.path})" if not problem.line and problem.path else ""
    lines = [f"{where}: {warning}{problem.message}{path}"]
    if problem.line and problem.source.strip():
        line, column = _window(problem.source, problem.column)
        lead = "".join("\t" if c == "\t" else " " for c in line[: column - 1])
        lines += [_TAB + line, _TAB + lead + "^"]
    if problem.hint:
        lines.append(f"{_TAB}{problem.hint}")
    return "\n".join(lines)


def _window(line: str, column: int) -> tuple[str, int]:
    """At most 160 characters of a line around a column, and the column in them."""
    line = line.rstrip()
    if len(line) <= 160:
        return line, column
    start = max(0, column - 80)
    return line[start : start + 160], column - start
