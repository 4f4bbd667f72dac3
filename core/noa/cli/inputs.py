"""Inputs of a run from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from noa.errors import InputError

__all__ = ["parse_value", "read_inputs"]

_NAMES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a JSON list",
          "object": "a JSON object", "null": "null"}  # fmt: skip


def read_inputs(
    pairs: Sequence[str], file: str | None, schemas: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """The inputs that `--inputs FILE` and `--input NAME=VALUE` give; the latter win.

    Args:
        pairs: `NAME=VALUE` texts.
        file: A JSON file with an object, or "-" for stdin.
        schemas: JSON Schema of each declared input.

    Raises:
        InputError: A pair has no `=`, a value does not read as the declared type, or the file holds no JSON object.
    """
    inputs = _read_file(file) if file else {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--input '{pair}': expected NAME=VALUE, such as --input path=./data")
        inputs[name.strip()] = parse_value(name.strip(), text, (schemas or {}).get(name.strip(), {}))
    return inputs


def parse_value(name: str, text: str, schema: Mapping[str, Any]) -> Any:
    """A value as the declared type says; undeclared, it is JSON where it reads as JSON (5, true, [..]), else text.

    Raises:
        InputError: It does not read as the declared type.
    """
    declared = schema.get("type")
    types = [declared] if isinstance(declared, str) else list(declared or ())
    if types == ["string"]:
        return text
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError:
        if not types or "string" in types:
            return text
        expected = " or ".join(_NAMES.get(t, str(t)) for t in types)
        raise InputError(f"input '{name}': expected {expected}, got '{text}'", input=name) from None
    if "string" in types and not any(_fits(value, t) for t in types if t != "string"):
        return text
    return value


def _fits(value: Any, kind: Any) -> bool:
    match kind:
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "array":
            return isinstance(value, list)
        case "object":
            return isinstance(value, dict)
        case "null":
            return value is None
    return False


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _read_file(file: str) -> dict[str, Any]:
    where = "stdin" if file == "-" else file
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"--inputs {where}: cannot be read: {reason}") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--inputs {where}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    if not isinstance(value, dict):
        raise InputError(f'--inputs {where}: expected a JSON object such as {{"path": "./data"}}')
    return value
