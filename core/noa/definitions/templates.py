"""Finds `${{ … }}` in text. The scanner knows CEL's quotes and braces, so that `}}` inside them does not end it."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Hole", "UnclosedError", "holes_of"]

_OPEN = "${{"
_QUOTES = ('"""', "'''", '"', "'")
_STOP = re.compile(r"""["'{}]""")


class UnclosedError(ValueError):
    """A `${{` without its `}}`; `offset` is where it begins."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Hole:
    """An expression in text: its CEL without the marks, and where this CEL begins in the text."""

    text: str
    offset: int


def holes_of(text: str) -> list[str | Hole]:
    """Literal text and expressions in order; `$${{` stands for a literal `${{`.

    Raises:
        UnclosedError: A `${{` has no `}}`.
    """
    parts: list[str | Hole] = []
    literal = ""
    at = 0
    while (start := text.find(_OPEN, at)) >= 0:
        if start > at and text[start - 1] == "$":
            literal += text[at : start - 1] + _OPEN
            at = start + len(_OPEN)
            continue
        literal += text[at:start]
        if literal:
            parts.append(literal)
            literal = ""
        end = _end(text, start)
        inner = text[start + 3 : end]
        lead = len(inner) - len(inner.lstrip())
        parts.append(Hole(inner.strip(), start + 3 + lead))
        at = end + 2
    literal += text[at:]
    if literal or not parts:
        parts.append(literal)
    return parts


def _end(text: str, start: int) -> int:
    """Where the `}}` of the `${{` at `start` begins."""
    at, depth = start + len(_OPEN), 0
    while (found := _STOP.search(text, at)) is not None:
        at = found.start()
        if text[at] == "{":
            depth += 1
        elif text[at] == "}":
            if depth == 0 and text.startswith("}}", at):
                return at
            depth = max(0, depth - 1)
        else:
            at = _string_end(text, at)
            if at < 0:
                break
            continue
        at += 1
    raise UnclosedError(start)


def _string_end(text: str, at: int) -> int:
    """Behind the string literal that begins at `at`, or -1 where it never ends."""
    quote = next(q for q in _QUOTES if text.startswith(q, at))
    before = text[max(0, at - 2) : at].lower()
    raw = before[-1:] == "r" or before == "rb"
    at += len(quote)
    while at < len(text):
        if text[at] == "\\" and not raw:
            at += 2
        elif text.startswith(quote, at):
            return at + len(quote)
        else:
            at += 1
    return -1
