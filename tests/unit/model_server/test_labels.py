"""Labels equal those of the `magika` command, and features those of its Python API, on real and hostile files."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from array import array
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from noa_model_server.agent import ModelAgent
from noa_standard_agents.features import BLOCK_BYTES, features_of
from noa_standard_agents.preprocessing import PythonAgent

from noa.model.execution import Assignment, Observation, Progress, Succeeded
from noa.model.failure import Failure
from noa.model.payload import Artifact
from noa.sdk.runner import ActionRunner


def png() -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def write_samples(folder: Path) -> None:
    """Files of many kinds, the special cases of the rules among them."""
    chance = random.Random(7)
    source = Path(os.__file__).read_bytes()
    binary = Path(sys.executable).resolve().read_bytes()[:300_000]
    samples = {
        "empty": b"",
        "one": b"a",
        "one_binary": b"\xff",
        "seven": b"abcdefg",
        "seven_binary": b"\xff\xfe\x80abcd",
        "eight": b"abcdefgh",
        "nul8": b"\0" * 8,
        "nul5000": b"\0" * 5000,
        "blank": b" \n\t" * 20,
        "blank_large": b" \n" * 5000,
        "vertical_tabs": b"\x0b\x0c" * 100,
        "few_in_blank": b"   ab   cd   ",
        "few_binary_in_blank": b"   \xff\xfe   ",
        "blank_then_text": b" " * 5000 + b"import os\n" * 100,
        "cut_character": b" " * 4095 + "é".encode() + b" " * 4000,
        "binary_at_the_block": b" " * 4090 + b"\xff\xfe\x00\x01\x02\x03" + b" " * 100,
        "small.txt": b"Hello, this is a small text.\n",
        "picture.png": png(),
        "program.jpg": binary,
        "source.py": source,
        "large.bin": chance.randbytes(3_000_000),
        "crlf.csv": b"a,b,c\r\n1,2,3\r\n" * 400,
        "page.html": b"<!doctype html><html><body><p>x</p></body></html>\n" * 3,
        "data.json": json.dumps({"a": list(range(500))}).encode(),
    }
    for name, data in samples.items():
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("a.txt", "text" * 100)
    alphabets = [b" \n\x0b\x0c\r\t", bytes(range(256)), b"abc \n{}();=", b"\x85\xa0 \n"]
    for number in range(60):
        alphabet = chance.choice(alphabets)
        data = bytes(chance.choice(alphabet) for _ in range(chance.choice([3, 9, 100, 4096, 4097, 6000])))
        (folder / f"random{number}").write_bytes(data)
    for number in range(60):
        whole = (source, binary)[number % 2]
        start = chance.randrange(len(whole))
        blank = chance.choice([b"", b"\x0b", b" \n", b"\x0c"]) * chance.randrange(6)
        cut = whole[start : start + chance.choice([5, 9, 20, 100, 2000, 5000, 9000])]
        (folder / f"cut{number}").write_bytes(blank + cut + blank)


class Bench:
    """Prepares a folder and asks the model, both in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Observation] = []
        self.python = ActionRunner(PythonAgent())
        self.model = ActionRunner(ModelAgent())

    async def ask(self, runner: ActionRunner, action: str, inputs: dict[str, Any]) -> Any:
        asked = Assignment(f"r:s/{action}:1", "k", "r", "w", "s", f"s/{action}", 1, runner.agent.name, action, inputs)
        store = f"file://{self.folder}/store/"
        outcome = await runner.execute(asked, observe=self.seen.append, artifact_prefix=store)
        return outcome.outputs if isinstance(outcome, Succeeded) else outcome

    async def prepare(self, folder: Path) -> Any:
        return (await self.ask(self.python, "data_preprocessing", {"path": str(folder)}))["files"]

    async def infer(self, files: Any, **inputs: Any) -> Any:
        return await self.ask(self.model, "inference", {"files": files, **inputs})


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    await made.model.load()
    assert made.model.describe().status == "serving"
    return made


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    write_samples(folder)
    return folder


def rows_of(reference: Any) -> list[dict[str, Any]]:
    artifact = Artifact.from_json(reference)
    assert artifact is not None
    rows: list[dict[str, Any]] = pa.ipc.open_file(artifact.uri.removeprefix("file://")).read_all().to_pylist()
    return rows


def command(folder: Path, paths: list[str]) -> list[dict[str, Any]]:
    """What the command prints for these files."""
    program = str(Path(sys.executable).with_name("magika"))
    done = subprocess.run([program, "--json", *paths], cwd=folder, capture_output=True, check=True)
    return [one["result"]["value"] for one in json.loads(done.stdout)]


async def test_labels_equal_those_of_the_command(bench: Bench, samples: Path) -> None:
    made = await bench.infer(await bench.prepare(samples))
    rows = rows_of(made["predictions"])
    assert len(rows) == len(list(samples.iterdir())) == made["throughput"]["files"]
    for row, said in zip(rows, command(samples, [row["path"] for row in rows]), strict=True):
        output = said["output"]
        assert {key: row[key] for key in ("path", "label", "group", "mime_type", "is_text", "dl_label")} == {
            "path": row["path"],
            "label": output["label"],
            "group": output["group"],
            "mime_type": output["mime_type"],
            "is_text": output["is_text"],
            "dl_label": said["dl"]["label"],
        }
        assert abs(row["score"] - said["score"]) < 0.0011, row["path"]  # the command cuts after three digits


async def test_labels_of_this_projects_files_equal_those_of_the_command(bench: Bench) -> None:
    folder = Path(__file__).parents[3] / "core"
    files = await bench.prepare(folder)
    rows = rows_of((await bench.infer(files))["predictions"])
    assert len(rows) > 20
    said = command(folder, [row["path"] for row in rows])
    assert [row["label"] for row in rows] == [one["output"]["label"] for one in said]


def test_features_equal_those_of_the_package(samples: Path) -> None:
    from magika import Magika
    from magika.types.seekable import Seekable

    for path in sorted(samples.iterdir()):
        data = path.read_bytes()
        if not data:
            continue
        with path.open("rb") as stream:
            theirs = Magika._extract_features_from_seekable(Seekable(stream), 1024, 0, 1024, 256, 4096, False)
        ours = list(array("i", features_of(data[:BLOCK_BYTES], data[-BLOCK_BYTES:])))
        assert ours == theirs.beg + theirs.end, path.name


async def test_predictions_do_not_depend_on_batches_or_threads(bench: Bench, samples: Path) -> None:
    files = await bench.prepare(samples)
    first = await bench.infer(files)
    again = await bench.infer(files, allocation={"threads": 2, "batch_size": 1, "memory_bytes": 1, "shards": []})
    assert rows_of(first["predictions"]) == rows_of(again["predictions"])
    assert first["predictions"] == (await bench.infer(files))["predictions"]
    assert first["model"] == again["model"]
    assert len(first["model"]["sha256"]) == 64


async def test_progress_comes_for_each_batch(bench: Bench, samples: Path) -> None:
    files = await bench.prepare(samples)
    bench.seen.clear()
    await bench.infer(files, allocation={"threads": 1, "batch_size": 40})
    done = [one.done for one in bench.seen if isinstance(one, Progress)]
    assert done == [40, 80, 120, 145]


async def test_extension_columns_say_what_the_extension_stands_for(bench: Bench, samples: Path) -> None:
    rows = {row["path"]: row for row in rows_of((await bench.infer(await bench.prepare(samples)))["predictions"])}
    assert (rows["program.jpg"]["extension_labels"], rows["program.jpg"]["extension_groups"]) == (["jpeg"], ["image"])
    assert rows["program.jpg"]["group"] == "executable"
    assert rows["source.py"]["extension_labels"] == ["python"]
    assert rows["large.bin"]["extension_labels"] == []


async def test_no_files_give_no_predictions(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    made = await bench.infer(await bench.prepare(tmp_path / "nothing"))
    assert rows_of(made["predictions"]) == []
    assert made["throughput"]["files"] == 0


async def test_cancelled_between_batches(bench: Bench, samples: Path) -> None:
    import asyncio

    files = await bench.prepare(samples)
    bench.seen.clear()
    going = asyncio.create_task(bench.infer(files, allocation={"threads": 1, "batch_size": 1}))
    while not any(isinstance(one, Progress) for one in bench.seen):
        await asyncio.sleep(0)
    await bench.model.cancel(run="r")  # type: ignore[arg-type]
    failure = await going
    assert isinstance(failure, Failure)
    assert failure.code == "CANCELLED"
    assert len(bench.seen) < 100


async def test_wrong_tables_are_invalid_inputs(bench: Bench) -> None:
    from noa.sdk.artifacts import Artifacts

    store = Artifacts(f"file://{bench.folder}/store/")

    def stored(table: pa.Table) -> Any:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return store.create(sink.getvalue()).to_json()

    columns = {"path": ["a"], "size_bytes": [1], "extension": [""]}
    for given, part in (
        (store.create(b"junk").to_json(), "not an Arrow file"),
        (stored(pa.table(columns)), "no column features"),
        (stored(pa.table(columns | {"features": pa.array([[1]], pa.list_(pa.int32(), 1))})), "the model takes"),
        ("text", "field 'files'"),
    ):
        failure = await bench.infer(given)
        assert failure.code == "INVALID_INPUT"
        assert part in failure.message
    assert (await bench.infer(stored(pa.table(columns)), allocation={"threads": 0})).code == "INVALID_INPUT"


async def test_before_it_is_loaded_it_says_so() -> None:
    runner = ActionRunner(ModelAgent())
    assert runner.describe().status == "starting"
    assert [one.name for one in runner.describe().actions] == ["inference"]
