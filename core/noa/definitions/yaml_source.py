"""YAML 1.2 core text to data with positions, in one pass over the parser's events.

Nothing is composed or resolved by the library: depth, duplicate keys, aliases and tags are judged here, before they can
do harm. Composing 100,000 nested brackets would end the interpreter.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from noa.definitions.source import MAX_DEPTH, MAX_NODES, Node, Source
from noa.errors import DefinitionError, Problem

__all__ = ["parse_yaml"]

_CORE = "tag:yaml.org,2002:"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_SPECIAL = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_NO_KEY: Any = object()


def parse_yaml(text: str, name: str) -> Source:
    """Read YAML text.

    Raises:
        DefinitionError: It is not YAML, or of a kind that is refused: several documents, too deep, an alias bomb.
    """
    return _Reader(text, name).read()


class _Frame:
    """A list or mapping that is being read. `count` is its nodes so far, aliases expanded."""

    __slots__ = ("anchor", "count", "data", "key", "key_at", "node")

    def __init__(self, data: Any, node: Node, anchor: str | None) -> None:
        self.data = data
        self.node = node
        self.anchor = anchor
        self.count = 1
        self.key: Any = _NO_KEY
        self.key_at = (0, 0)


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.source = Source(name, text, None)
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, Node, int]] = {}
        self.opened: set[str] = set()
        self.documents = 0

    def read(self) -> Source:
        loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
        try:
            for event in yaml.parse(self.source.text, Loader=loader):
                self._event(event)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        except yaml.reader.ReaderError as error:
            raise self._characters(error) from None
        if self.source.root is None:
            raise self._fatal("EMPTY", "the file is empty, expected 'workflow:'", 1, 1)
        return self.source

    def _event(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            mark = event.start_mark
            node = Node(mark.line + 1, mark.column + 1)
            value = self._scalar(event, node)
            if event.anchor:
                self.anchors[event.anchor] = (value, node, 1)
            self._add(value, node, 1, event)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._open(event, {} if kind is yaml.MappingStartEvent else [])
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._close(event)
        elif kind is yaml.AliasEvent:
            self._alias(event)
        elif kind is yaml.DocumentStartEvent:
            self.documents += 1
            if self.documents > 1:
                mark = event.start_mark
                raise self._fatal("SEVERAL_DOCUMENTS", "a second document begins here, expected one workflow in a file",
                                  mark.line + 1, mark.column + 1)  # fmt: skip

    def _open(self, event: Any, data: Any) -> None:
        mark = event.start_mark
        node = Node(mark.line + 1, mark.column + 1)
        node.children = {} if isinstance(data, dict) else []
        if len(self.stack) >= MAX_DEPTH:
            raise self._fatal("TOO_DEEP", f"nested deeper than {MAX_DEPTH} levels", node.line, node.column)
        expected = "map" if isinstance(data, dict) else "seq"
        if event.tag not in (None, "!", _CORE + expected):
            self._problem("TAG", f"tag {event.tag!r} is not known here; definitions are plain YAML 1.2", node)
        if event.anchor:
            self.opened.add(event.anchor)
        self.stack.append(_Frame(data, node, event.anchor))

    def _close(self, event: Any) -> None:
        frame = self.stack.pop()
        if frame.anchor:
            self.opened.discard(frame.anchor)
            self.anchors[frame.anchor] = (frame.data, frame.node, frame.count)
        self._add(frame.data, frame.node, frame.count, event)

    def _alias(self, event: Any) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if event.anchor in self.opened:
            raise self._fatal("ALIAS", f"alias *{event.anchor} stands inside its own anchor", line, column)
        if event.anchor not in self.anchors:
            raise self._fatal("ALIAS", f"alias *{event.anchor} has no anchor before it", line, column)
        value, node, count = self.anchors[event.anchor]
        at = Node(line, column)
        at.children = node.children
        self._add(value, at, count, event)

    def _add(self, value: Any, node: Node, count: int, event: Any) -> None:
        if not self.stack:
            self.source.data, self.source.root = value, node
            return
        frame = self.stack[-1]
        frame.count += count
        if frame.count > MAX_NODES:
            raise self._fatal("TOO_MANY_NODES", f"more than {MAX_NODES:,} values once aliases are expanded",
                              node.line, node.column)  # fmt: skip
        children = frame.node.children
        if isinstance(children, list):
            frame.data.append(value)
            children.append(node)
        elif frame.key is _NO_KEY:
            frame.key, frame.key_at = self._key(value, node, event), (node.line, node.column)
        else:
            if frame.key is not None and children is not None:
                frame.data[frame.key] = value
                children[frame.key] = (*frame.key_at, node)
            frame.key = _NO_KEY

    def _key(self, value: Any, node: Node, event: Any) -> str | None:
        """The key, or None where it was refused (its value is then left out)."""
        if not isinstance(value, str):
            shown = event.value if isinstance(event, yaml.ScalarEvent) else "a collection"
            self._problem("KEY_TYPE", f"expected text as a key, got {shown}", node, "Put it in quotes.")
            return None
        if value == "<<" and getattr(event, "implicit", (False,))[0]:
            self._problem(
                "MERGE_KEY",
                "the merge key '<<' is not part of YAML 1.2",
                node,
                "Write the keys out, or use 'defaults'.",
            )
            return None
        children = self.stack[-1].node.children
        if isinstance(children, dict) and value in children:
            first = children[value]
            self._problem("DUPLICATE_KEY", f"key '{value}' is given twice; first in line {first[0]}", node,
                          "Remove one of the two.")  # fmt: skip
            return None
        return value

    def _scalar(self, event: Any, node: Node) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None or tag == "!":
            if not event.implicit[0]:
                return text
            return self._plain(text, node)
        if tag == _CORE + "str":
            return text
        if tag in (_CORE + "int", _CORE + "float", _CORE + "bool", _CORE + "null"):
            value = self._plain(text, node)
            return float(value) if tag.endswith("float") and type(value) is int else value
        self._problem("TAG", f"tag {tag!r} is not known here; definitions are plain YAML 1.2", node)
        return text

    def _plain(self, text: str, node: Node) -> Any:
        """A plain scalar by the rules of the YAML 1.2 core schema."""
        if text and text[0] not in "-+.0123456789":
            if text in _TRUE or text in _FALSE:
                return text in _TRUE
            return None if text in _NULL else text
        if text in _NULL:
            return None
        if _INT.match(text):
            number = int(text, 0) if text[1:2] in ("o", "x") else int(text) if len(text) < 40 else 1 << 64
            if not -(1 << 63) <= number < 1 << 63:
                self._problem(
                    "NUMBER", "the number does not fit into 64 bits", node, "Put it in quotes to keep it as text."
                )
                return 0
            return number
        if _FLOAT.match(text):
            value = float(text)
            if value in (float("inf"), float("-inf")):
                self._problem("NUMBER", f"{text} is too large for a number", node)
            return value
        if _SPECIAL.match(text):
            self._problem("NUMBER", f"{text} is not a JSON number", node, "Put it in quotes to keep it as text.")
            return 0.0
        return text

    def _problem(self, code: str, message: str, node: Node, hint: str = "") -> None:
        self.source.problems.append(self._at(code, message, node.line, node.column, hint))

    def _fatal(self, code: str, message: str, line: int, column: int, hint: str = "") -> DefinitionError:
        return DefinitionError.of([*self.source.problems, self._at(code, message, line, column, hint)])

    def _at(self, code: str, message: str, line: int, column: int, hint: str) -> Problem:
        return Problem(code, message, file=self.source.name, line=line, column=column,
                       source=self.source.line(line), hint=hint)  # fmt: skip

    def _syntax(self, error: yaml.MarkedYAMLError) -> DefinitionError:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = str(error.problem or "it cannot be parsed")
        hint = ""
        if "\\t" in problem or self.source.line(line)[: max(column, 1)].lstrip(" ").startswith("\t"):
            problem, hint = "a tab cannot indent", "Use spaces."
        elif error.context:
            context = error.context_mark
            problem += f", {error.context}" + (f" that begins in line {context.line + 1}" if context else "")
        return self._fatal("NOT_YAML", f"not valid YAML: {problem}", line, column, hint)

    def _characters(self, error: yaml.reader.ReaderError) -> DefinitionError:
        before = self.source.text[: error.position] if isinstance(error.position, int) else ""
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        code = error.character if isinstance(error.character, int) else ord(str(error.character)[0])
        return self._fatal("NOT_YAML", f"not valid YAML: the character U+{code:04X} is not allowed", line, column)
