"""What the model sees of a file: 2,048 numbers from its two ends.

The model was trained on exactly this form, so every detail counts:

1. Take the first and the last 4,096 bytes of the file (both are the whole file where it has fewer).
2. Strip ASCII whitespace (space, tab, newline, carriage return, vertical tab, form feed) from the start of the first
   part and from the end of the last part; nothing else is stripped.
3. The first half of the features is the first 1,024 bytes that remain of the first part, padded at its end; the second
   half is the last 1,024 bytes that remain of the last part, padded at its start. A byte is its value, 0 to 255; the
   padding is 256.

A file with fewer than 8 bytes after the padding rule (`features[7] == 256`) is not given to the model; who serves the
model decides by the bytes alone.
"""

from __future__ import annotations

from array import array

__all__ = ["BLOCK_BYTES", "HALF", "PADDING", "WIDTH", "features_of"]

BLOCK_BYTES = 4096
"""Bytes that are looked at from each end."""

HALF = 1024
"""Features from each end."""

WIDTH = 2 * HALF
"""Features of a file."""

PADDING = 256
"""Stands where the file has no byte."""

_WHITESPACE = b" \t\n\r\x0b\x0c"


def features_of(first: bytes, last: bytes) -> bytes:
    """The features as 2,048 int32 in the machine's byte order.

    Args:
        first: The first bytes of the file, at most 4,096.
        last: The last bytes of the file, as many.
    """
    beginning = array("i", list(first.lstrip(_WHITESPACE)[:HALF]))
    end = array("i", list(last.rstrip(_WHITESPACE)[-HALF:]))
    padding = array("i", [PADDING])
    return (beginning + padding * (HALF - len(beginning)) + padding * (HALF - len(end)) + end).tobytes()
