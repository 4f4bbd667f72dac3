"""Text of a definition with the place of every node in it, and problems that point at these places."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from noa.errors import DefinitionError, Problem, UsageError
from noa.model.plan import Position

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "MAX_SIZE_BYTES",
    "Node",
    "NodePath",
    "Source",
    "decode_text",
    "dotted",
    "read_text",
]

MAX_SIZE_BYTES = 10 * 1024 * 1024
"""A larger file is refused."""

MAX_DEPTH = 64
"""Deeper nesting is refused."""

MAX_NODES = 1_000_000
"""More nodes, counted with every alias expanded, are refused."""

NodePath: TypeAlias = tuple[str | int, ...]
"""Where in a document, such as ("workflow", "stages", 0, "type")."""

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class Node:
    """Where a value stands, and its parts. Both numbers count from 1; columns count characters.

    Attributes:
        children: For a mapping the key's line and column and the value's node by key; for a list its nodes.
    """

    __slots__ = ("children", "column", "line")

    def __init__(self, line: int, column: int) -> None:
        self.line = line
        self.column = column
        self.children: dict[str, tuple[int, int, Node]] | list[Node] | None = None


@dataclass
class Source:
    """A document: its text, its data (JSON), and where everything in it stands.

    Attributes:
        name: File as the user named it.
        root: Positions; None where there are none (a definition given as a dict).
        problems: Mistakes that did not stop the reader, such as a key given twice.
    """

    name: str
    text: str
    data: Any
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def lines(self) -> list[str]:
        """The text by lines."""
        return _BREAK.split(self.text)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8, in hexadecimal."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def line(self, number: int) -> str:
        """A line by its number from 1; empty where there is none."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def has(self, path: Sequence[str | int]) -> bool:
        """Whether the document has a node at this path."""
        value = self.data
        for part in path:
            inside = isinstance(value, dict) and part in value
            if not inside and not (isinstance(value, list) and isinstance(part, int) and part < len(value)):
                return False
            value = value[part]
        return True

    def position(self, path: Sequence[str | int], *, key: bool = False) -> Position:
        """Where a node stands (with `key` its key), or the nearest node above that exists."""
        node = self.root
        if node is None:
            return Position()
        at = (node.line, node.column)
        for part in path:
            children = node.children
            if isinstance(children, dict) and part in children:
                key_line, key_column, node = children[str(part)]
                at = (key_line, key_column) if key else (node.line, node.column)
            elif isinstance(children, list) and isinstance(part, int) and part < len(children):
                node = children[part]
                at = (node.line, node.column)
            else:
                return Position(node.line, node.column)
        return Position(*at)

    def text_position(self, path: Sequence[str | int], text: str, offset: int) -> Position:
        """Where character `offset` of the scalar `text` at this path stands; its start where that is unsure."""
        start = self.position(path)
        if not start.line:
            return start
        row = text.count("\n", 0, offset)
        begin = text.rfind("\n", 0, offset) + 1
        piece = text[begin:].split("\n", 1)[0]
        if row == 0:
            for shift in (0, 1):  # plain, quoted
                if self.line(start.line).startswith(piece, start.column - 1 + shift):
                    return Position(start.line, start.column + shift + offset)
        if self.line(start.line)[start.column - 1 : start.column] == "|":
            found = self.line(start.line + 1 + row).find(piece)
            if found >= 0:
                return Position(start.line + 1 + row, found + 1 + offset - begin)
        return start

    def problem(
        self,
        code: str,
        message: str,
        path: NodePath,
        *,
        key: bool = False,
        at: Position | None = None,
        severity: str = "error",
        hint: str = "",
    ) -> Problem:
        """A problem that points at a node, at its key, or at a place inside it."""
        where = at or self.position(path, key=key)
        return Problem(
            code=code,
            message=message,
            file=self.name,
            line=where.line,
            column=where.column,
            source=self.line(where.line),
            path=dotted(path),
            severity=severity,
            hint=hint,
        )


def dotted(path: Sequence[str | int]) -> str:
    """A path as people read it: `workflow.stages[0].type`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_text(path: Path, *, shown: str | None = None) -> str:
    """The text of a definition file.

    Raises:
        UsageError: There is no such file, or it cannot be read.
        DefinitionError: It is too large or not UTF-8.
    """
    name = shown or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"definition {name} does not exist", path=name) from None
    except IsADirectoryError:
        raise UsageError(f"definition {name} is a folder, expected a YAML or JSON file", path=name) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"definition {name} cannot be read: {error}", path=name) from error
    return decode_text(data, name)


def decode_text(data: bytes, name: str) -> str:
    """UTF-8 text without its byte order mark.

    Raises:
        DefinitionError: It is too large or not UTF-8.
    """
    if len(data) > MAX_SIZE_BYTES:
        raise _refused("TOO_LARGE", name, f"the file is larger than {MAX_SIZE_BYTES // 1024 // 1024} MiB, "
                       "the most that a definition may have; keep data in inputs or files")  # fmt: skip
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refused("NOT_UTF8", name, "the file is UTF-16, expected UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise _refused("NOT_UTF8", name, f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8",
                       line, column) from None  # fmt: skip


def _refused(code: str, name: str, message: str, line: int = 1, column: int = 1) -> DefinitionError:
    return DefinitionError.of([Problem(code, message, file=name, line=line, column=column)])
