"""JSON text to data with positions. The standard library's parser keeps none, and takes a key twice."""

from __future__ import annotations

import bisect
import json
import re
from typing import Any

from noa.definitions.source import MAX_DEPTH, Node, Source
from noa.errors import DefinitionError, Problem

__all__ = ["parse_json"]

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_scan_string: Any = json.decoder.scanstring  # type: ignore[attr-defined]
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[A-Za-z]+")


def parse_json(text: str, name: str) -> Source:
    """Read JSON text.

    Raises:
        DefinitionError: It is not JSON, or nested too deep.
    """
    return _Reader(text, name).read()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.source = Source(name, text, None)
        self.text = text
        self.starts = [0, *(found.end() for found in re.finditer("\r\n|\n|\r", text))]
        self.at = 0

    def read(self) -> Source:
        self._space()
        if self.at == len(self.text):
            raise self._fatal("EMPTY", "the file is empty, expected a workflow")
        self.source.data, self.source.root = self._value(0)
        self._space()
        if self.at < len(self.text):
            raise self._fatal("NOT_JSON", "not valid JSON: text after the end of the value")
        return self.source

    def _value(self, depth: int) -> tuple[Any, Node]:
        if depth > MAX_DEPTH:
            raise self._fatal("TOO_DEEP", f"nested deeper than {MAX_DEPTH} levels")
        node = Node(*self._place(self.at))
        char = self.text[self.at : self.at + 1]
        if char == "{":
            return self._object(node, depth), node
        if char == "[":
            return self._array(node, depth), node
        if char == '"':
            return self._string(), node
        return self._scalar(), node

    def _object(self, node: Node, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        children: dict[str, tuple[int, int, Node]] = {}
        node.children = children
        self.at += 1
        if self._ends("}"):
            return data
        while True:
            line, column = self._place(self.at)
            if self.text[self.at : self.at + 1] != '"':
                raise self._fatal("NOT_JSON", "not valid JSON: expected a key in double quotes")
            key = self._string()
            self._space()
            self._expect(":")
            value, below = self._value(depth + 1)
            if key in children:
                self._problem(
                    "DUPLICATE_KEY", f"key '{key}' is given twice; first in line {children[key][0]}", line, column
                )
            else:
                data[key], children[key] = value, (line, column, below)
            if self._next("}"):
                return data

    def _array(self, node: Node, depth: int) -> list[Any]:
        data: list[Any] = []
        children: list[Node] = []
        node.children = children
        self.at += 1
        if self._ends("]"):
            return data
        while True:
            value, below = self._value(depth + 1)
            data.append(value)
            children.append(below)
            if self._next("]"):
                return data

    def _string(self) -> str:
        try:
            value, self.at = _scan_string(self.text, self.at + 1, True)
        except json.JSONDecodeError as error:
            self.at = error.pos
            raise self._fatal("NOT_JSON", f"not valid JSON: {error.msg}") from None
        if _SURROGATE.search(value):
            self._problem("NOT_JSON", "the text holds half of a surrogate pair", *self._place(self.at))
            return str(_SURROGATE.sub("\ufffd", value))
        return str(value)

    def _scalar(self) -> Any:
        word = _WORD.match(self.text, self.at)
        if word and word[0] in _WORDS:
            self.at = word.end()
            return _WORDS[word[0]]
        number = _NUMBER.match(self.text, self.at)
        if number is None:
            raise self._fatal("NOT_JSON", "not valid JSON: expected a value")
        line, column = self._place(self.at)
        self.at = number.end()
        if number[1] or number[2]:
            value = float(number[0])
            if value in (float("inf"), float("-inf")):
                self._problem("NUMBER", f"{number[0]} is too large for a number", line, column)
                return 0.0
            return value
        whole = int(number[0]) if len(number[0]) < 40 else 1 << 64
        if not -(1 << 63) <= whole < 1 << 63:
            self._problem("NUMBER", "the number does not fit into 64 bits", line, column)
            return 0
        return whole

    def _space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _ends(self, closing: str) -> bool:
        """Whether a collection ends right after its opening."""
        self._space()
        if self.text[self.at : self.at + 1] == closing:
            self.at += 1
            return True
        return False

    def _next(self, closing: str) -> bool:
        """Whether a collection ends here; otherwise a comma is read."""
        self._space()
        if self.text[self.at : self.at + 1] == closing:
            self.at += 1
            return True
        if self.text[self.at : self.at + 1] != ",":
            raise self._fatal("NOT_JSON", f"not valid JSON: expected ',' or '{closing}'")
        self.at += 1
        self._space()
        return False

    def _expect(self, char: str) -> None:
        if self.text[self.at : self.at + 1] != char:
            raise self._fatal("NOT_JSON", f"not valid JSON: expected '{char}'")
        self.at += 1
        self._space()

    def _place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.starts, at)
        return line, at - self.starts[line - 1] + 1

    def _problem(self, code: str, message: str, line: int, column: int) -> None:
        self.source.problems.append(self._at(code, message, line, column))

    def _fatal(self, code: str, message: str) -> DefinitionError:
        return DefinitionError.of([*self.source.problems, self._at(code, message, *self._place(self.at))])

    def _at(self, code: str, message: str, line: int, column: int) -> Problem:
        return Problem(code, message, file=self.source.name, line=line, column=column, source=self.source.line(line))
