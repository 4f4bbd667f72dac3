"""A model's manifest: which ONNX file it is, what goes in, what comes out. Pure but for the reading of files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from noa.sdk import ActionFailed

__all__ = [
    "BATCH",
    "BytesReader",
    "CsvReader",
    "FoundModel",
    "Input",
    "Manifest",
    "WavReader",
    "built_in",
    "find_model",
]

BATCH: Literal["batch"] = "batch"
"""Stands in a shape for the number of samples."""

_FOLDER = Path(__file__).parent / "manifests"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlacedFile(_Strict):
    """A file of an installed package, or one beside the manifest."""

    package: str | None = None
    path: str

    def find(self, beside: Path) -> Path:
        """Where it is.

        Raises:
            ActionFailed: MODEL_NOT_FOUND.
        """
        folder = beside
        if self.package is not None:
            spec = importlib.util.find_spec(self.package)
            if spec is None or spec.origin is None:
                raise ActionFailed("MODEL_NOT_FOUND", f"the package '{self.package}' is not installed: pip install it")
            folder = Path(spec.origin).parent
        path = (folder / self.path).resolve()
        if not path.is_file():
            raise ActionFailed("MODEL_NOT_FOUND", f"{path} does not exist; the manifest names it as '{self.path}'")
        return path


class BytesReader(_Strict):
    """Both ends of a file's bytes as numbers; ASCII whitespace is stripped from the outer side of each end first."""

    reader: Literal["bytes"]
    first: Annotated[int, Field(ge=0, le=1 << 20)]
    last: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    padding: int = 0
    least: Annotated[int, Field(ge=0)] = 0

    @property
    def size(self) -> int:
        """Numbers of a sample."""
        return self.first + self.last


class WavReader(_Strict):
    """Windows of a mono WAV file of 16 bit, as numbers from -1 to 1, each after the end of the one before it."""

    reader: Literal["wav"]
    rate: Annotated[int, Field(ge=1)]
    window: Annotated[int, Field(ge=1, le=1 << 20)]
    context: Annotated[int, Field(ge=0)] = 0

    @property
    def size(self) -> int:
        """Numbers of a sample."""
        return self.context + self.window


class CsvReader(_Strict):
    """Columns of a CSV file with a head line: a row is a sample."""

    reader: Literal["csv"]
    columns: Annotated[list[str], Field(min_length=1)]

    @property
    def size(self) -> int:
        """Numbers of a sample."""
        return len(self.columns)


class Input(_Strict):
    """What an input of the network gets: the sample, or the same number everywhere."""

    dtype: Literal["float32", "float64", "int32", "int64", "uint8"]
    shape: list[int | Literal["batch"]]
    value: Literal["sample"] | float | int


class LabelsFile(PlacedFile):
    """A JSON file that has the labels, below a key where one is given."""

    key: str | None = None


class Manifest(_Strict):
    """A model.

    Attributes:
        carry: Input -> output that becomes it for the next sample of the same file (a recurrent network's state).
        output: The output that counts: a vector of scores for each sample, or one score.
        labels: Names of the scores; for one score two names, of which the second stands for it from `threshold` on.
        one_by_one: Whether each sample goes through the network alone.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    version: str = ""
    description: str = ""
    file: PlacedFile
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    sample: Annotated[BytesReader | WavReader | CsvReader, Field(discriminator="reader")]
    inputs: Annotated[dict[str, Input], Field(min_length=1)]
    carry: dict[str, str] = {}
    output: str
    labels: list[str] | LabelsFile | None = None
    threshold: float | None = None
    one_by_one: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        samples = [name for name, spec in self.inputs.items() if spec.value == "sample"]
        if len(samples) != 1:
            raise ValueError(f"exactly one input has the value 'sample', found {len(samples)}")
        if unknown := set(self.carry) - set(self.inputs):
            raise ValueError(f"carry names '{sorted(unknown)[0]}', which is no input")
        shape = self.inputs[samples[0]].shape
        width = 1
        for part in shape:
            width *= 1 if part == BATCH else int(part)
        if width != self.sample.size:
            raise ValueError(
                f"input '{samples[0]}' takes {width} numbers a sample, the reader gives {self.sample.size}"
            )
        if shape.count(BATCH) > 1 or (BATCH in shape and shape[0] != BATCH):
            raise ValueError(f"input '{samples[0]}': 'batch' is the first part of its shape, or no part of it")
        return self

    @property
    def sample_input(self) -> str:
        """The input that gets the sample."""
        return next(name for name, spec in self.inputs.items() if spec.value == "sample")

    @property
    def alone(self) -> bool:
        """Whether samples go through the network one by one."""
        return self.one_by_one or bool(self.carry) or BATCH not in self.inputs[self.sample_input].shape


class FoundModel(_Strict):
    """A manifest with the files that it names."""

    manifest: Manifest
    path: Path
    labels: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Of the ONNX file."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def built_in() -> list[str]:
    """Names of the models that can be named without a manifest of one's own."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_model(name: str) -> FoundModel:
    """A model by the name of a built-in manifest, or by the path of a manifest.

    Raises:
        ActionFailed: MODEL_NOT_FOUND or MODEL_INVALID, with what is wrong.
    """
    path = _FOLDER / f"{name}.yaml"
    if name not in built_in():
        path = Path(name).expanduser()
        if not path.is_file():
            raise ActionFailed(
                "MODEL_NOT_FOUND",
                f"there is no model '{name}' and no manifest {path.absolute()}. Built in: {', '.join(built_in())}",
            )
    manifest = _read(path)
    return FoundModel(
        manifest=manifest,
        path=manifest.file.find(path.absolute().parent),
        labels=_labels(manifest, path.absolute().parent),
    )


def _read(path: Path) -> Manifest:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
        return Manifest.model_validate(data)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ActionFailed("MODEL_INVALID", f"manifest {path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(_said(one) for one in error.errors())
        raise ActionFailed("MODEL_INVALID", f"manifest {path}: {wrong}") from error


def _said(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"]).removeprefix("Value error, ")


def _labels(manifest: Manifest, beside: Path) -> tuple[str, ...]:
    labels = manifest.labels
    if labels is None:
        return ()
    if isinstance(labels, list):
        return tuple(labels)
    path = labels.find(beside)
    try:
        data = json.loads(path.read_text("utf-8"))
        found = data if labels.key is None else data[labels.key]
    except (ValueError, KeyError, TypeError) as error:
        raise ActionFailed("MODEL_INVALID", f"labels in {path}: {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ActionFailed("MODEL_INVALID", f"labels in {path}: a list of texts is expected")
    return tuple(found)
