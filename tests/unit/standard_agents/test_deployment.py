"""The agent `deployment`: its shards are complete and balanced, and its proof finds what is wrong."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from noa.model.payload import Artifact


def read(reference: Any) -> Any:
    artifact = Artifact.from_json(reference)
    assert artifact is not None
    return json.loads(Path(artifact.uri.removeprefix("file://")).read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    for number in range(60):
        (made / f"f{number:02}").write_bytes(bytes([number]) * (number * 700))
    return made


def packed(folder: Path, target: Path, files: list[dict[str, Any]], worker: str = "rust") -> dict[str, Any]:
    """What a worker gives for these files."""
    target.mkdir(exist_ok=True)
    done = []
    for one in files:
        data = (folder / one["path"]).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        path = target / f"{digest}.gz"
        path.write_bytes(gzip.compress(data))
        done.append(
            {
                "path": one["path"],
                "size_bytes": len(data),
                "sha256": digest,
                "gzip_path": str(path),
                "gzip_bytes": path.stat().st_size,
            }
        )
    return {"files": done, "skipped": [], "bytes_in": 0, "bytes_out": 0, "worker": worker, "pid": 1}


async def collected(bench: Any, folder: Path, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    surveyed = await bench.run("survey", path=str(folder))
    files = [{"path": path} for path, _ in read(surveyed["files"])]
    halves = [packed(folder, tmp_path / "gz", files[::2]), packed(folder, tmp_path / "gz", files[1::2], "go")]
    return surveyed, await bench.run("collect", results=[[halves[0], None], [None, halves[1]]], expected=60)


async def test_survey_lists_every_file_with_its_size(bench: Any, folder: Path) -> None:
    surveyed = await bench.run("survey", path=str(folder))
    listed = read(surveyed["files"])
    assert listed == [[f"f{number:02}", number * 700] for number in range(60)]
    assert (surveyed["count"], surveyed["total_bytes"]) == (60, sum(size for _, size in listed))
    assert len(read((await bench.run("survey", path=str(folder), max_files=7))["files"])) == 7
    assert (await bench.run("survey", path=str(folder), max_files=0))["count"] == 0


async def test_name_that_is_not_utf8_is_left_out_and_told(bench: Any, folder: Path) -> None:
    Path(str(folder) + "/bad-\udcff").write_bytes(b"x")
    surveyed = await bench.run("survey", path=str(folder))
    assert (surveyed["count"], surveyed["skipped_count"]) == (60, 1)
    assert surveyed["skipped"] == [{"path": "bad-\\xff", "reason": "the name is not UTF-8"}]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_shards_have_every_file_once_are_alike_and_alternate(bench: Any, folder: Path, replicas: int) -> None:
    surveyed = await bench.run("survey", path=str(folder))
    dealt = await bench.run("distribute", files=surveyed["files"], workers=["a", "b"], replicas=replicas)
    shards = dealt["shards"]
    assert len(shards) == 8 * replicas
    assert [shard["worker"] for shard in shards] == ["a", "b"] * (4 * replicas)
    listed = [one for shard in shards for one in read(shard["files"])]
    assert sorted(one["path"] for one in listed) == [f"f{number:02}" for number in range(60)]
    assert dealt["imbalance"] < 0.25
    opened = await bench.run("open_shard", files=shards[0]["files"])
    assert opened["files"] == read(shards[0]["files"])


async def test_list_of_a_shard_stays_short(bench: Any, tmp_path: Path) -> None:
    from noa.sdk.artifacts import Artifacts

    listed = [[f"{'long/' * 60}{number}", 1] for number in range(5000)]
    files = Artifacts(f"file://{tmp_path}/store/").create(json.dumps(listed).encode(), "application/json").to_json()
    shards = (await bench.run("distribute", files=files, workers=["a"]))["shards"]
    lengths = [len(json.dumps(read(shard["files"]))) for shard in shards]
    assert max(lengths) < 256 * 1024
    assert sum(shard["count"] for shard in shards) == 5000


async def test_collect_merges_what_workers_gave(bench: Any, folder: Path, tmp_path: Path) -> None:
    _, merged = await collected(bench, folder, tmp_path)
    assert [one["path"] for one in read(merged["results"])] == [f"f{number:02}" for number in range(60)]
    assert {name: share["files"] for name, share in merged["workers"].items()} == {"rust": 30, "go": 30}
    document = json.loads(Path(merged["manifest"].removeprefix("file://")).read_text())
    assert (document["files"], document["bytes_in"]) == (60, merged["bytes_in"])


async def test_fewer_results_than_files_are_a_failure(bench: Any, folder: Path, tmp_path: Path) -> None:
    result = packed(folder, tmp_path / "gz", [{"path": "f01"}])
    failure = await bench.failure("collect", results=[[result]], expected=2)
    assert failure.code == "RESULTS_INCOMPLETE"
    assert "2 files were given out, and the workers told of 1" in failure.message


async def test_right_results_are_verified(bench: Any, folder: Path, tmp_path: Path) -> None:
    surveyed, merged = await collected(bench, folder, tmp_path)
    verified = await bench.run("verify", root=surveyed["root"], results=merged["results"])
    assert verified == {"verified": True, "files": 60, "bytes": merged["bytes_in"]}


@pytest.mark.parametrize("fault", ["source", "packed", "truncated", "missing"])
async def test_result_that_is_wrong_is_found_and_named(bench: Any, folder: Path, tmp_path: Path, fault: str) -> None:
    surveyed, merged = await collected(bench, folder, tmp_path)
    one = next(each for each in read(merged["results"]) if each["path"] == "f42")
    path = Path(one["gzip_path"])
    if fault == "source":
        (folder / "f42").write_bytes(b"changed")
    elif fault == "packed":
        path.write_bytes(gzip.compress(b"another"))
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    failure = await bench.failure("verify", root=surveyed["root"], results=merged["results"])
    assert failure.code == "RESULTS_DIFFER"
    assert "1 of 60 results" in failure.message
    assert "f42" in failure.message
