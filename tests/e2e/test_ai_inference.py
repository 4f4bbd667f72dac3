"""definitions/ai-inference.yaml: any network over real files, through the real sidecar."""

import json
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import onnxruntime.datasets
import pyarrow.parquet as pq
from magika import Magika
from tests.e2e.conftest import ROOT, Noa
from tests.unit.model_server import sounds

DEFINITION = ROOT / "definitions" / "ai-inference.yaml"


def written(done: dict) -> tuple[dict, list[dict]]:
    """The report and the rows that a run left."""
    paths = [Path(unquote(urlparse(uri).path)) for uri in done["outputs"]["uris"]]
    by_name = {path.name: path for path in paths}
    return json.loads(by_name["report.json"].read_text()), pq.read_table(by_name["predictions.parquet"]).to_pylist()


def test_magika_labels_files_as_its_package_does(noa: Noa, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for path in [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "core" / "noa" / "engine").glob("*.py"))]:
        shutil.copy(path, folder / path.name)
    (folder / "empty").touch()
    done = noa.json("run", DEFINITION, "--input", f"path={folder}", "--input", "batch_size=5")
    assert done["status"] == "succeeded", done
    report, rows = written(done)
    reference = Magika()
    assert len(rows) == report["samples"] == len(list(folder.iterdir())) - 1 > 15
    for row in rows:
        assert row["label"] == str(reference.identify_path(Path(row["path"])).dl.label), row["path"]
    assert [one["path"] for one in report["skipped"]] == [str(folder / "empty")]
    assert done["outputs"]["labels"] == report["labels"]
    assert sum(report["labels"].values()) == len(rows)
    assert report["model"]["name"] == "magika"
    batches = [e for e in noa.events("task_succeeded") + noa.events("attempt_succeeded") if "infer" in e["task"]]
    assert len(batches) == -(-len(rows) // 5), "inference is a loop over batches"


def test_another_model_hears_a_voice(noa: Noa, tmp_path: Path) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    sounds.write(folder / "voice.wav", np.concatenate([sounds.noise(0.5), sounds.voice(2)]))
    sounds.write(folder / "quiet.wav", sounds.noise(2))
    (folder / "notes.txt").write_text("not a sound")
    (folder / "broken.wav").write_bytes(b"RIFF")
    done = noa.json("run", DEFINITION, "--input", f"path={folder}", "--input", "model=silero-vad")
    assert done["status"] == "succeeded", done
    report, rows = written(done)
    assert report["by_file"][str(folder / "quiet.wav")] == {"silence": 62}
    assert report["by_file"][str(folder / "voice.wav")]["speech"] > 10
    assert [one["path"] for one in report["skipped"]] == [str(folder / "broken.wav")]
    assert {row["path"] for row in rows} == {str(folder / "quiet.wav"), str(folder / "voice.wav")}
    assert [row["index"] for row in rows if "quiet" in row["path"]] == list(range(62))


def test_a_model_of_ones_own_and_one_that_does_not_fit(noa: Noa, tmp_path: Path) -> None:
    shutil.copy(onnxruntime.datasets.get_example("mul_1.onnx"), tmp_path / "network.onnx")
    (tmp_path / "rows.csv").write_text("a,b,c,d,e,f\n1,1,1,1,1,1\n2,2,2,2,2,2\n")
    manifest = tmp_path / "model.yaml"
    text = """
name: multiply
file: {path: network.onnx}
sample: {reader: csv, columns: [a, b, c, d, e, f]}
inputs:
  X: {dtype: float32, shape: [3, 2], value: sample}
output: Y
"""
    manifest.write_text(text)
    asked = ("run", DEFINITION, "--input", f"path={tmp_path}", "--input", f"model={manifest}")
    done = noa.json(*asked)
    assert done["status"] == "succeeded", done
    _, rows = written(done)
    assert [row["values"] for row in rows] == [[1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12]]

    manifest.write_text(text.replace("X:", "Z:"))
    failed = noa(*asked)
    assert failed.returncode == 1
    assert "MODEL_INVALID" in failed.stdout + failed.stderr
    assert "input 'Z' is not in the file (it has: X)" in failed.stdout + failed.stderr
