"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["render"]

_BARS = 15
_FINDINGS = 500
_WIDTH = 720
_LABEL_WIDTH = 150
_ROW = 24
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c2330;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #dde2ea;
vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right}
.cards{display:flex;flex-wrap:wrap;gap:1rem}.card{border:1px solid #dde2ea;border-radius:.5rem;padding:.6rem 1rem}
.card b{display:block;font-size:1.4rem}
.critical{color:#b3261e;font-weight:600}.warning{color:#8a5300}.info{color:#44546a}
svg text{font:13px system-ui,sans-serif;fill:#1c2330}
@media(prefers-color-scheme:dark){body{background:#14181f;color:#e4e8ef}svg text{fill:#e4e8ef}
th,td,.card{border-color:#38414f}.critical{color:#ff8a80}.warning{color:#ffc266}.info{color:#a9b7cc}}
"""


def render(report: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> str:
    """The page. Every name and message is escaped."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>File audit</title><style>{_STYLE}</style></head><body>",
        "<h1>What the files really are</h1>",
        _cards(report),
        "<h2>Files by type</h2>",
        _chart(report.get("by_type", {})),
        "<h2>Findings</h2>",
        _findings(findings),
        "<h2>Files by size</h2>",
        _sizes(report.get("by_size", {})),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _cards(report: Mapping[str, Any]) -> str:
    duplicates = report.get("duplicates", {})
    confidence = report.get("confidence", {})
    mean = confidence.get("mean")
    cards = [
        ("files", f"{report.get('files', 0):,}"),
        ("in all", _size(report.get("total_bytes", 0))),
        ("types", str(len(report.get("by_type", {})))),
        ("disguised executables", str(report.get("disguised_executables", 0))),
        ("wrong extensions", str(report.get("mismatches", 0))),
        ("wasted by duplicates", _size(duplicates.get("wasted_bytes", 0))),
        ("mean confidence", "-" if mean is None else f"{mean:.1%}"),
    ]
    return (
        '<div class="cards">' + "".join(f'<div class="card"><b>{escape(v)}</b>{escape(k)}</div>' for k, v in cards)
    ) + "</div>"


def _chart(counts: Mapping[str, int]) -> str:
    """A bar for each of the most common types, the others together."""
    bars = list(counts.items())[:_BARS]
    others = sum(list(counts.values())[_BARS:])
    if others:
        bars.append(("all others", others))
    if not bars:
        return "<p>There is no file.</p>"
    most = max(count for _, count in bars)
    scale = (_WIDTH - _LABEL_WIDTH - 80) / most
    height = _ROW * len(bars)
    rows = []
    for number, (label, count) in enumerate(bars):
        y = number * _ROW
        width = max(1.0, count * scale)
        rows.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>'
            f'<rect x="{_LABEL_WIDTH}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" rx="3" fill="#3a6ea5"/>'
            f'<text x="{_LABEL_WIDTH + width + 8:.1f}" y="{y + 16}">{count:,}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="100%" role="img" '
        f'aria-label="Number of files of each type">{"".join(rows)}</svg>'
    )


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return "<p>Nothing to report.</p>"
    rows = []
    for one in findings[:_FINDINGS]:
        severity = escape(str(one.get("severity", "")))
        kind = escape(str(one.get("kind", "")).replace("_", " "))
        message = escape(str(one.get("message", "")))
        rows.append(f'<tr><td class="{severity}">{severity}</td><td>{kind}</td><td>{message}</td></tr>')
    more = len(findings) - _FINDINGS
    rest = f"<p>and {more:,} more in report.json</p>" if more > 0 else ""
    return f"<table><tr><th>severity</th><th>kind</th><th>what</th></tr>{''.join(rows)}</table>{rest}"


def _sizes(classes: Mapping[str, Mapping[str, int]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{one.get("files", 0):,}</td>'
        f'<td class="n">{_size(one.get("bytes", 0))}</td></tr>'
        for name, one in classes.items()
    )
    return f'<table><tr><th>size</th><th class="n">files</th><th class="n">in all</th></tr>{rows}</table>'


def _size(size_bytes: float) -> str:
    for unit in _UNITS:
        if size_bytes < 1024 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("the last unit returns")
