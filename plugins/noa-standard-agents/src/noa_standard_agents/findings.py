"""Judges rows of files and predictions. Pure: rows in, a report and findings out, always in the same order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FileRow", "find", "summarize"]

SIZE_CLASSES = (
    ("empty", 0),
    ("up to 1 KiB", 1 << 10),
    ("up to 64 KiB", 1 << 16),
    ("up to 1 MiB", 1 << 20),
    ("up to 16 MiB", 1 << 24),
)
LARGEST = "above 16 MiB"
GENERIC = frozenset({"", "empty", "txt", "unknown", "undefined"})
"""Labels that say nothing about what the extension should be."""

SCRIPTS = frozenset({"batch", "javascript", "perl", "php", "powershell", "python", "ruby", "shell", "vba"})
DISGUISES = frozenset({"archive", "audio", "document", "font", "image", "video"})
"""Kinds of files that one opens without a thought."""

_SEVERITIES = ("critical", "warning", "info")
_KINDS = ("disguised_executable", "extension_mismatch", "duplicate", "low_confidence")
_PER_KIND = 1000
_PATHS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file and what the model said of it.

    Attributes:
        extension_labels: Labels that the extension stands for; empty where it is not known.
        extension_groups: Their groups.
    """

    path: str
    size_bytes: int
    sha256: str
    extension: str
    label: str
    group: str
    mime_type: str
    score: float
    is_text: bool
    dl_label: str
    extension_labels: tuple[str, ...] = ()
    extension_groups: tuple[str, ...] = ()


def summarize(rows: Sequence[FileRow], low_confidence: float) -> dict[str, Any]:
    """Counts and sums; nothing in it depends on when or where it was made."""
    duplicates = _duplicates(rows)
    scores = [row.score for row in rows]
    low = [row for row in rows if row.score < low_confidence]
    return {
        "files": len(rows),
        "total_bytes": sum(row.size_bytes for row in rows),
        "by_type": _counted(row.label for row in rows),
        "by_group": _counted(row.group for row in rows),
        "bytes_by_type": _summed((row.label, row.size_bytes) for row in rows),
        "by_size": _by_size(rows),
        "confidence": {
            "min": round(min(scores), 6) if scores else None,
            "mean": round(sum(scores) / len(scores), 6) if scores else None,
            "threshold": low_confidence,
            "low_count": len(low),
            "low": [
                {"path": row.path, "label": row.label, "model_label": row.dl_label, "score": round(row.score, 6)}
                for row in sorted(low, key=lambda row: (row.score, row.path))[:_PER_KIND]
            ],
        },
        "mismatches": sum(1 for row in rows if not _is_disguised(row) and _is_mismatch(row)),
        "disguised_executables": sum(1 for row in rows if _is_disguised(row)),
        "duplicates": {
            "groups": len(duplicates),
            "files": sum(len(group) for group in duplicates),
            "wasted_bytes": sum(group[0].size_bytes * (len(group) - 1) for group in duplicates),
        },
    }


def find(rows: Sequence[FileRow], low_confidence: float) -> list[dict[str, Any]]:
    """What a person should know, the worst first; at most 1,000 of a kind (the report has the full counts)."""
    ordered = sorted(rows, key=lambda row: row.path)
    found = [_disguised(row) for row in ordered if _is_disguised(row)][:_PER_KIND]
    found += [_mismatch(row) for row in ordered if not _is_disguised(row) and _is_mismatch(row)][:_PER_KIND]
    found += [_duplicate(group) for group in _duplicates(ordered)[:_PER_KIND]]
    found += [_low(row) for row in ordered if row.score < low_confidence][:_PER_KIND]
    return sorted(found, key=lambda one: (_SEVERITIES.index(one["severity"]), _KINDS.index(one["kind"])))


def _is_disguised(row: FileRow) -> bool:
    groups = set(row.extension_groups)
    if not groups or row.label in row.extension_labels:
        return False
    if row.group == "executable":
        return "executable" not in groups
    return row.label in SCRIPTS and groups <= DISGUISES


def _is_mismatch(row: FileRow) -> bool:
    if row.label in GENERIC or not row.extension_labels or row.label in row.extension_labels:
        return False
    return not (row.group == "executable" and "executable" in row.extension_groups)


def _disguised(row: FileRow) -> dict[str, Any]:
    return {
        "severity": "critical",
        "kind": "disguised_executable",
        "paths": [row.path],
        "message": f"{row.path} is {_a(row.label)} file that calls itself .{row.extension}",
        "details": _facts(row),
    }


def _mismatch(row: FileRow) -> dict[str, Any]:
    # Text in another kind of text is common and harmless: a README.txt in Markdown.
    is_harmless = row.is_text and set(row.extension_groups) <= {"text", "code"}
    return {
        "severity": "info" if is_harmless else "warning",
        "kind": "extension_mismatch",
        "paths": [row.path],
        "message": f"{row.path} holds {row.label}, but .{row.extension} stands for {' or '.join(row.extension_labels)}",
        "details": _facts(row),
    }


def _duplicate(group: Sequence[FileRow]) -> dict[str, Any]:
    first = group[0]
    return {
        "severity": "info",
        "kind": "duplicate",
        "paths": [row.path for row in group[:_PATHS_SHOWN]],
        "message": f"{len(group)} files have the same content as {first.path}, {first.size_bytes} bytes each",
        "details": {"sha256": first.sha256, "size_bytes": first.size_bytes, "count": len(group)},
    }


def _low(row: FileRow) -> dict[str, Any]:
    return {
        "severity": "info",
        "kind": "low_confidence",
        "paths": [row.path],
        "message": f"{row.path} may be {row.dl_label} (score {row.score:.2f}); taken for {row.label}",
        "details": _facts(row),
    }


def _facts(row: FileRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "mime_type": row.mime_type,
        "score": round(row.score, 6),
        "extension": row.extension,
        "expected": list(row.extension_labels or row.extension_groups),
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
    }


def _duplicates(rows: Iterable[FileRow]) -> list[list[FileRow]]:
    """Groups of equal files, the most wasteful first. Empty files are no duplicates."""
    groups: defaultdict[str, list[FileRow]] = defaultdict(list)
    for row in rows:
        if row.size_bytes and row.sha256:
            groups[row.sha256].append(row)
    several = [sorted(group, key=lambda row: row.path) for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: (-group[0].size_bytes * (len(group) - 1), group[0].path))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return _ranked(Counter(values))


def _summed(values: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for key, value in values:
        sums[key] += value
    return _ranked(sums)


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    rank: Callable[[tuple[str, int]], tuple[int, str]] = lambda item: (-item[1], item[0])  # noqa: E731
    return dict(sorted(counts.items(), key=rank))


def _by_size(rows: Iterable[FileRow]) -> dict[str, dict[str, int]]:
    classes = {name: {"files": 0, "bytes": 0} for name in [*(name for name, _ in SIZE_CLASSES), LARGEST]}
    for row in rows:
        name = next((name for name, most in SIZE_CLASSES if row.size_bytes <= most), LARGEST)
        classes[name]["files"] += 1
        classes[name]["bytes"] += row.size_bytes
    return classes


def _a(label: str) -> str:
    return f"an {label}" if label[:1] in "aeiou" else f"a {label}"
