"""Words and columns for people: durations, times, tables, shortened values. Knows nothing of runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["age", "clock_time", "columns", "duration", "one_line", "plural", "short_json", "timestamp"]


def duration(ms: int) -> str:
    """`12 ms`, `1.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def clock_time(at_ms: int) -> str:
    """Local time of day, `22:15:30`."""
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))


def timestamp(at_ms: int) -> str:
    """Local date and time, `2026-11-22 22:15:30`."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def age(at_ms: int, now_ms: int) -> str:
    """How long ago, `5 min ago`."""
    seconds = max(0, now_ms - at_ms) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def plural(count: int, noun: str) -> str:
    """`1 task`, `1,000 tasks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def one_line(text: str, width: int = 200) -> str:
    """Text without line breaks and control characters, shortened to this many characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= width else flat[: max(1, width - 1)] + "…"


def short_json(value: Any, width: int = 120) -> str:
    """A value as JSON on one line, shortened; text without its quotes."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return one_line(text, width)


def columns(rows: Sequence[Sequence[str]], *, gap: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; the last column is not padded."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        gap.join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
