"""Writing results: whole, durable, readable, and escaped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from noa_standard_agents.page import render

NASTY = "<script>alert('x')</script> & \"more\".jpg"


def tables(path: str = NASTY) -> tuple[pa.Table, pa.Table]:
    files = pa.table({"path": [path], "size_bytes": pa.array([4], pa.int64()), "sha256": ["1"], "extension": ["jpg"]})
    predictions = pa.table(
        {
            "path": [path],
            "label": ["elf"],
            "group": ["executable"],
            "mime_type": ["x/y"],
            "score": pa.array([1.0], pa.float32()),
            "is_text": [False],
            "dl_label": ["elf"],
            "extension_labels": [["jpeg"]],
            "extension_groups": [["image"]],
        }
    )
    return files, predictions


async def inputs(bench: Any) -> dict[str, Any]:
    files, predictions = (bench.store(one) for one in tables())
    judged = await bench.run("post_processing", files=files, predictions=predictions)
    return judged | {"files": files, "predictions": predictions}


async def test_three_files_are_written_and_named(bench: Any) -> None:
    given = await inputs(bench)
    made = await bench.run("persist_results", **given)
    paths = [Path(uri.removeprefix("file://")) for uri in made["uris"]]
    assert paths == [bench.output / name for name in ("results.parquet", "report.json", "report.html")]
    assert made["bytes"] == sum(path.stat().st_size for path in paths)
    assert sorted(path.name for path in bench.output.iterdir()) == sorted(path.name for path in paths)
    (row,) = pq.read_table(paths[0]).to_pylist()
    assert (row["path"], row["label"], row["size_bytes"]) == (NASTY, "elf", 4)
    assert "features" not in row
    assert json.loads(paths[1].read_text()) == {"report": given["report"], "findings": given["findings"]}
    page = paths[2].read_text()
    assert "<svg" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", ""), "self-contained"


async def test_the_same_inputs_give_the_same_files(bench: Any) -> None:
    given = await inputs(bench)
    await bench.run("persist_results", **given)
    first = {path.name: path.read_bytes() for path in bench.output.iterdir()}
    await bench.run("persist_results", **given)
    assert {path.name: path.read_bytes() for path in bench.output.iterdir()} == first


async def test_output_dir_is_created(bench: Any) -> None:
    where = bench.folder / "some" / "where é"
    made = await bench.run("persist_results", **await inputs(bench), output_dir=str(where))
    assert (where / "report.json").exists()
    assert all(uri.isascii() for uri in made["uris"])


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nothing", "taken"])
async def test_unwritable_output_fails_and_names_the_path(bench: Any, where: str) -> None:
    (bench.folder / "file").touch()
    (bench.folder / "taken" / "report.json" / "x").mkdir(parents=True)
    path = str(bench.folder / where)
    failure = await bench.failure("persist_results", **await inputs(bench), output_dir=path)
    assert failure.code == "OUTPUT_NOT_WRITABLE"
    assert path in failure.message


async def test_full_disk_fails_and_names_the_path(bench: Any) -> None:
    failure = await bench.failure("persist_results", **await inputs(bench), output_dir="/dev/full")
    assert failure.code == "OUTPUT_NOT_WRITABLE"


def test_page_of_an_empty_report() -> None:
    page = render({"files": 0, "by_type": {}, "by_size": {}}, [])
    assert "There is no file." in page
    assert "Nothing to report." in page


def test_plugin_declares_five_agents_and_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    assert importlib.util.find_spec("noa_standard_agents") is not None
    program = (
        "import sys; from noa_standard_agents import plugin; agents = plugin.noa_agents(); "
        "[one.factory() for one in agents]; "
        "print([one.name for one in agents], [m for m in ('pyarrow', 'apprise', 'numpy', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['python', 'worker', 'storage', 'deployment', 'notification'] []"
