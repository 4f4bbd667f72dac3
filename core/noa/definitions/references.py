"""What an expression reads, found without running it.

A bare access such as `stages.a["b"].outputs.x` is parsed here. Everything else comes from the type-checked syntax tree
that the CEL compiler serialises (`cel.expr.CheckedExpr`, field numbers of cel-spec `checked.proto` and `syntax.proto`),
read as protobuf wire format. Names that a macro binds, as in `list.exists(item, …)`, hide those of the scope.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

__all__ = ["INDEX", "Segment", "Use", "chain_of", "indexed_chain_of", "uses_in_checked"]

Segment: TypeAlias = str | int
"""A field or key that is named literally, or a literal index."""

INDEX = "\0index"
"""Stands in a path for the index of the iteration; no field can be named so."""

_IDENT = r"[A-Za-z_][A-Za-z0-9_]*"
_CHAIN = re.compile(rf"""^{_IDENT}(?:\.{_IDENT}|\["[^"\\\n]*"\]|\['[^'\\\n]*'\]|\[[0-9]{{1,9}}\])*$""")
_PART = re.compile(rf"""({_IDENT})|\["([^"]*)"\]|\['([^']*)'\]|\[([0-9]+)\]""")
_RESERVED = frozenset({
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
    "namespace", "null", "package", "return", "true", "var", "void", "while",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Use:
    """One access that begins at a name in scope.

    Attributes:
        root: The name.
        path: Literal fields, keys and indexes below it, up to the first that is computed.
        dynamic: Whether a computed key follows the path.
        offset: Where the root stands in the expression, in characters; 0 where unknown.
    """

    root: str
    path: tuple[Segment, ...] = ()
    dynamic: bool = False
    offset: int = 0


@lru_cache(maxsize=16384)
def chain_of(text: str) -> tuple[Segment, ...] | None:
    """Root and path of an expression that is nothing but an access; None for any other."""
    if not _CHAIN.match(text):
        return None
    parts: list[Segment] = []
    for ident, double, single, index in _PART.findall(text):
        if ident in _RESERVED:
            return None
        parts.append(int(index) if index else ident or double or single)
    return tuple(parts)


@lru_cache(maxsize=4096)
def indexed_chain_of(text: str) -> tuple[Segment, ...] | None:
    """Like `chain_of`, for an access with `[index]` in it, which stands as INDEX in the path; None for any other."""
    return chain_of(text.replace("[index]", f'["{INDEX}"]')) if "[index]" in text else None


def uses_in_checked(data: bytes) -> list[Use]:
    """Every access of a compiled expression, from `serialize()` of the CEL library."""
    checked = _first(_first(_fields(data), 2) if data[1:2] and b"CheckedExpr" in data[:60] else data, None)
    fields = _fields(checked)
    positions = {
        _int(_fields(entry), 1): _int(_fields(entry), 2) for entry in _all(_fields(_first(fields, 5) or b""), 4)
    }
    walker = _Walker(positions)
    walker.expr(_first(fields, 4) or b"", frozenset())
    return walker.uses


_Fields: TypeAlias = dict[int, list[Any]]


def _fields(data: bytes) -> _Fields:
    """Fields of a protobuf message by number: integers, or bytes for what has a length."""
    found: _Fields = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _first(fields: Any, number: int | None) -> Any:
    if number is None:
        return fields
    values = fields.get(number)
    return values[0] if values else None


def _all(fields: _Fields, number: int) -> list[Any]:
    return fields.get(number, [])


def _int(fields: _Fields, number: int) -> int:
    return int(_first(fields, number) or 0)


def _text(fields: _Fields, number: int) -> str:
    return bytes(_first(fields, number) or b"").decode()


class _Walker:
    """Walks `cel.expr.Expr`: 3 constant, 4 identifier, 5 select, 6 call, 7 list, 8 struct, 9 comprehension."""

    def __init__(self, positions: dict[int, int]) -> None:
        self.positions = positions
        self.uses: list[Use] = []

    def expr(self, data: bytes, bound: frozenset[str]) -> None:
        fields = _fields(data)
        access = self._access(fields)
        if access is not None:
            root, path, dynamic, offset, rest = access
            if root.lstrip(".") not in bound and not root.startswith("@"):
                self.uses.append(Use(root.lstrip("."), path, dynamic, offset))
            for part in rest:
                self.expr(part, bound)
            return
        if 9 in fields:
            self._comprehension(_fields(fields[9][0]), bound)
            return
        for part in self._parts(fields):
            self.expr(part, bound)

    def _access(self, fields: _Fields) -> tuple[str, tuple[Segment, ...], bool, int, list[bytes]] | None:
        """The access that this expression is, with the expressions of its computed keys; None for anything else."""
        steps: list[Segment | None] = []
        rest: list[bytes] = []
        while True:
            if 4 in fields:
                offset = self.positions.get(_int(fields, 2), 0)
                break
            if 5 in fields:
                select = _fields(fields[5][0])
                steps.append(_text(select, 2))
                fields = _fields(_first(select, 1) or b"")
                continue
            call = _fields(fields[6][0]) if 6 in fields else {}
            arguments = _all(call, 3)
            if _text(call, 2) != "_[_]" or len(arguments) != 2:
                return None
            key = _literal(arguments[1])
            if key is None:
                rest.append(arguments[1])
            steps.append(key)
            fields = _fields(arguments[0])
        steps.reverse()
        path: list[Segment] = []
        for step in steps:
            if step is None:
                return _text(_fields(fields[4][0]), 1), tuple(path), True, offset, rest
            path.append(step)
        return _text(_fields(fields[4][0]), 1), tuple(path), False, offset, rest

    def _parts(self, fields: _Fields) -> Iterator[bytes]:
        if 5 in fields:
            yield from _all(_fields(fields[5][0]), 1)
        if 6 in fields:
            call = _fields(fields[6][0])
            yield from _all(call, 1)
            yield from _all(call, 3)
        if 7 in fields:
            yield from _all(_fields(fields[7][0]), 1)
        if 8 in fields:
            for entry in _all(_fields(fields[8][0]), 2):
                yield from _all(_fields(entry), 3)
                yield from _all(_fields(entry), 4)

    def _comprehension(self, fields: _Fields, bound: frozenset[str]) -> None:
        """Fields: 1 variable, 2 range, 3 accumulator, 4 its start, 5 condition, 6 step, 7 result, 8 second variable."""
        for number in (2, 4):
            for part in _all(fields, number):
                self.expr(part, bound)
        accumulator = bound | {_text(fields, 3)}
        inner = accumulator | {_text(fields, 1), _text(fields, 8)}
        for number, names in ((5, inner), (6, inner), (7, accumulator)):
            for part in _all(fields, number):
                self.expr(part, names)


def _literal(data: bytes) -> Segment | None:
    """A constant text (6) or a constant integer (3) of at least zero; None for anything else."""
    fields = _fields(data)
    if 3 not in fields:
        return None
    constant = _fields(fields[3][0])
    if 6 in constant:
        return _text(constant, 6)
    if 3 in constant and constant[3][0] < 1 << 63:
        return int(constant[3][0])
    return None
