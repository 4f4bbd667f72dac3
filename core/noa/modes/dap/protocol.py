"""Frames of the Debug Adapter Protocol: a `Content-Length` header, an empty line, a JSON object.

Bytes in, messages out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Malformed", "Reader", "encode"]

MAX_HEADER_BYTES = 4 << 10
MAX_BODY_BYTES = 16 << 20
_END = b"\r\n\r\n"
_HEADERS = (b"content-length", b"content-type")


class _BrokenError(Exception):
    """Nobody can know where the next message begins."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What is no request.

    Attributes:
        why: What is wrong with it.
        seq: Its number, where it has one; else 0.
        command: Its command, where it has one.
        fatal: Whether the stream cannot be read any further; else it goes on after the message.
    """

    why: str
    seq: int = 0
    command: str = ""
    fatal: bool = False


class Reader:
    """Takes bytes as they come, in whatever pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._wanted: int | None = None
        self._broken = False

    @property
    def half(self) -> bool:
        """Whether a message has begun that is not whole."""
        return bool(self._bytes) or self._wanted is not None

    def feed(self, data: bytes) -> list[dict[str, Any] | Malformed]:
        """The requests that are whole now; after one that is fatal nothing more is taken."""
        found: list[dict[str, Any] | Malformed] = []
        self._bytes += data
        try:
            while not self._broken:
                if self._wanted is None:
                    self._wanted = self._header()
                if self._wanted is None or len(self._bytes) < self._wanted:
                    break
                body = bytes(self._bytes[: self._wanted])
                del self._bytes[: self._wanted]
                self._wanted = None
                message = _request(body)
                if message is not None:
                    found.append(message)
        except _BrokenError as error:
            self._broken = True
            self._bytes.clear()
            found.append(Malformed(str(error), fatal=True))
        return found

    def _header(self) -> int | None:
        end = self._bytes.find(_END)
        if end < 0:
            first = bytes(self._bytes[:MAX_HEADER_BYTES]).split(b"\r\n")[0]
            if len(self._bytes) > MAX_HEADER_BYTES or not _may_be_header(first):
                raise _BrokenError(f"expected 'Content-Length: N', got {_shown(first)}")
            return None
        if end > MAX_HEADER_BYTES:
            raise _BrokenError(f"a header of {end} bytes; at most {MAX_HEADER_BYTES} are taken")
        lines = bytes(self._bytes[:end]).split(b"\r\n")
        del self._bytes[: end + len(_END)]
        return _length(lines)


def _may_be_header(line: bytes) -> bool:
    name = line.partition(b":")[0].strip().lower()
    return any(known.startswith(name) if b":" not in line else known == name for known in _HEADERS)


def _length(lines: list[bytes]) -> int:
    """The announced length. Other headers are refused: a web page that posts to this port must not be listened to."""
    length = None
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name.strip().lower() not in _HEADERS:
            raise _BrokenError(f"expected 'Content-Length: N', got {_shown(line)}")
        if name.strip().lower() == b"content-length":
            text = value.strip()
            if not text.isdigit() or len(text) > 18:
                raise _BrokenError(f"Content-Length is a number of bytes, not {_shown(text)}")
            length = int(text)
    if length is None:
        raise _BrokenError("a header without Content-Length")
    if length > MAX_BODY_BYTES:
        raise _BrokenError(f"a message of {length} bytes; at most {MAX_BODY_BYTES} are taken")
    return length


def _request(body: bytes) -> dict[str, Any] | Malformed | None:
    """The request of a body; None for what is not asked, such as a response."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Malformed(f"not JSON: {error}")
    if not isinstance(message, dict):
        return Malformed(f"expected a JSON object, got {_shown(body)}")
    seq = message.get("seq")
    number = seq if isinstance(seq, int) and not isinstance(seq, bool) else 0
    command = message.get("command")
    named = command if isinstance(command, str) else ""
    if message.get("type") in ("response", "event"):
        return None
    if message.get("type") != "request" or not named or number <= 0:
        return Malformed("a request has type 'request', a seq from 1 and a command", number, named)
    if not isinstance(message.get("arguments", {}), dict | None):
        return Malformed("arguments are a JSON object", number, named)
    return message


def _shown(data: bytes) -> str:
    return repr(data[:60].decode("utf-8", "replace"))


def encode(message: dict[str, Any]) -> bytes:
    """A message with its header."""
    body = json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
