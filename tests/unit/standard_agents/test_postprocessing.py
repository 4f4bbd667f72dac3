"""Judging predictions: what is found, how bad it is, and that it is always the same."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from noa_standard_agents.findings import FileRow, find, summarize


def row(path: str, label: str = "python", group: str = "code", **parts: Any) -> FileRow:
    known: dict[str, Any] = {
        "size_bytes": 100, "sha256": path, "extension": path.rpartition(".")[2], "mime_type": "x/y", "score": 0.99,
        "is_text": group in {"code", "text"}, "dl_label": label,
    }  # fmt: skip
    return FileRow(path=path, label=label, group=group, **(known | parts))


PY = {"extension_labels": ("python",), "extension_groups": ("code",)}
JPG = {"extension_labels": ("jpeg",), "extension_groups": ("image",)}
PDF = {"extension_labels": ("pdf",), "extension_groups": ("document",)}
SO = {"extension_labels": (), "extension_groups": ("executable",)}
OBJECT = {"extension_labels": ("coff",), "extension_groups": ("application", "executable")}
TXT = {"extension_labels": ("txt",), "extension_groups": ("text",)}


@pytest.mark.parametrize(
    ("one", "kind", "severity"),
    [
        (row("a.py", **PY), None, None),
        (row("a.jpg", "elf", "executable", **JPG), "disguised_executable", "critical"),
        (row("a.pdf", "shell", "code", **PDF), "disguised_executable", "critical"),
        (row("a.py", "elf", "executable", **PY), "disguised_executable", "critical"),
        (row("a.so", "elf", "executable", **SO), None, None),
        (row("a.o", "elf", "executable", **OBJECT), None, None),
        (row("tool", "elf", "executable"), None, None),
        (row("a.jpg", "png", "image", **JPG), "extension_mismatch", "warning"),
        (row("a.py", "javascript", "code", **PY), "extension_mismatch", "info"),
        (row("a.txt", "shell", "code", **TXT), "extension_mismatch", "info"),
        (row("a.py", "png", "image", **PY), "extension_mismatch", "warning"),
        (row("a.py", "txt", "text", **PY), None, None),
        (row("a.py", "empty", "inode", **PY), None, None),
        (row("a.weird", "elf", "executable"), None, None),
    ],
)
def test_what_does_not_fit_its_extension(one: FileRow, kind: str | None, severity: str | None) -> None:
    found = find([one], 0.5)
    assert [(f["kind"], f["severity"]) for f in found] == ([(kind, severity)] if kind else [])
    if found:
        assert found[0]["paths"] == [one.path]
        assert one.path in found[0]["message"]


def test_duplicates_are_found_by_hash_but_not_empty_files() -> None:
    rows = [row("b", sha256="x"), row("a", sha256="x"), row("c", sha256="y"), row("d", sha256="0", size_bytes=0),
            row("e", sha256="0", size_bytes=0)]  # fmt: skip
    (duplicate,) = find(rows, 0.5)
    assert duplicate["kind"] == "duplicate"
    assert duplicate["paths"] == ["a", "b"]
    assert duplicate["details"] == {"sha256": "x", "size_bytes": 100, "count": 2}
    assert summarize(rows, 0.5)["duplicates"] == {"groups": 1, "files": 2, "wasted_bytes": 100}


def test_report_counts_by_type_group_and_size() -> None:
    rows = [row("a", size_bytes=0), row("b", size_bytes=1024), row("c", "png", "image", size_bytes=1 << 30, score=0.25)]
    report = summarize(rows, 0.5)
    assert (report["files"], report["total_bytes"]) == (3, (1 << 30) + 1024)
    assert list(report["by_type"].items()) == [("python", 2), ("png", 1)]
    assert list(report["by_group"].items()) == [("code", 2), ("image", 1)]
    assert {name: one["files"] for name, one in report["by_size"].items() if one["files"]} == {
        "empty": 1,
        "up to 1 KiB": 1,
        "above 16 MiB": 1,
    }
    confidence = report["confidence"]
    assert (confidence["min"], confidence["mean"], confidence["low_count"]) == (0.25, 0.743333, 1)
    assert confidence["low"][0]["path"] == "c"
    assert find(rows, 0.5)[-1]["kind"] == "low_confidence"


def test_no_file_is_a_report_too() -> None:
    report = summarize([], 0.5)
    assert report["files"] == 0
    assert report["confidence"]["mean"] is None
    assert find([], 0.5) == []


def test_findings_are_in_one_order_whatever_the_order_of_the_rows() -> None:
    rows = [row(f"{n}.jpg", "elf" if n % 3 else "png", "executable" if n % 3 else "image", sha256=str(n % 7),
                score=n / 50, **JPG) for n in range(50)]  # fmt: skip
    first = find(rows, 0.5)
    random.Random(1).shuffle(rows)
    assert find(rows, 0.5) == first
    assert [f["severity"] for f in first] == sorted(
        (f["severity"] for f in first), key=["critical", "warning", "info"].index
    )


FILES = pa.table(
    {
        "path": ["a.jpg", "b.py"],
        "size_bytes": pa.array([4, 5], pa.int64()),
        "sha256": ["1", "2"],
        "extension": ["jpg", "py"],
        "features": [[0], [1]],
    }
)
PREDICTIONS = pa.table(
    {
        "path": ["a.jpg", "b.py"],
        "label": ["elf", "python"],
        "group": ["executable", "code"],
        "mime_type": ["x/y", "x/y"],
        "score": pa.array([1.0, 0.4], pa.float32()),
        "is_text": [False, True],
        "dl_label": ["elf", "python"],
        "extension_labels": [["jpeg"], ["python"]],
        "extension_groups": [["image"], ["code"]],
    }
)


async def test_action_joins_the_tables_and_gives_report_and_findings(bench: Any) -> None:
    inputs = {"files": bench.store(FILES), "predictions": bench.store(PREDICTIONS)}
    made = await bench.run("post_processing", **inputs)
    assert made["report"]["disguised_executables"] == 1
    assert [f["kind"] for f in made["findings"]] == ["disguised_executable", "low_confidence"]
    assert made == await bench.run("post_processing", **inputs)


async def test_tables_of_another_model_without_optional_columns_are_fine(bench: Any) -> None:
    plain = PREDICTIONS.drop_columns(["extension_labels", "extension_groups"])
    made = await bench.run("post_processing", files=bench.store(FILES), predictions=bench.store(plain))
    assert [f["kind"] for f in made["findings"]] == ["low_confidence"]


async def test_wrong_tables_are_invalid_inputs(bench: Any) -> None:
    files, predictions = bench.store(FILES), bench.store(PREDICTIONS)
    missing = await bench.failure(
        "post_processing", files=files, predictions=bench.store(PREDICTIONS.drop_columns("score"))
    )
    assert (missing.code, "score" in missing.message) == ("INVALID_INPUT", True)
    from noa.sdk.artifacts import Artifacts

    junk = Artifacts(f"file://{bench.folder}/store/").create(b"junk").to_json()
    assert "not an Arrow file" in (await bench.failure("post_processing", files=junk, predictions=predictions)).message
    stranger = await bench.failure("post_processing", files=bench.store(FILES.slice(0, 1)), predictions=predictions)
    assert "b.py" in stranger.message
