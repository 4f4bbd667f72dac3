"""The files of the installed `magika` package, and the rules by which its command turns scores into labels.

The package is not imported, because importing it starts a second ONNX Runtime; its files are read where they lie.

The rules, as the command applies them:

* An empty file is `empty`. A file in which fewer than 8 bytes remain after the stripping of whitespace is `txt` where
  they are UTF-8 and `unknown` otherwise. The network is not asked in either case; the score is 1.
* Otherwise the label with the highest score is the network's. It counts where the score reaches the threshold of that
  label, which is the general one unless the configuration names another.
* Where it counts, the overwrite map of the configuration may put another label in its place (`randomtxt` is `txt`).
* Where it does not count, the label is `txt` if the network's (after the overwrite map) is a kind of text, else
  `unknown`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Catalog", "Label", "Verdict"]

_TEXT = "txt"
_UNKNOWN = "unknown"
_EMPTY = "empty"
_UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Label:
    """A kind of content."""

    name: str
    group: str
    mime_type: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a file is: the label that counts, the network's own ("undefined" where it was not asked), and its score."""

    label: Label
    model_label: str
    score: float


@dataclass(frozen=True)
class Catalog:
    """The network's file, its configuration, and what is known of the labels.

    Attributes:
        model_path: The .onnx file.
        model_name: Name of the network.
        package_version: Version of the package that it is from.
        width: Features of a file: half from its start, half from its end.
        padding: Stands where a file has no byte.
        least_bytes: With fewer the network is not asked.
        labels_of_extension: Labels that the network can give for each extension.
        groups_of_extension: Groups of all labels that an extension stands for.
    """

    model_path: Path
    model_name: str
    package_version: str
    width: int
    padding: int
    least_bytes: int
    targets: tuple[str, ...]
    threshold: float
    thresholds: dict[str, float]
    overwrites: dict[str, str]
    labels: dict[str, Label]
    labels_of_extension: dict[str, tuple[str, ...]] = field(default_factory=dict)
    groups_of_extension: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Catalog:
        """Read the installed package's files.

        Raises:
            RuntimeError: It is not installed, or laid out in a way that is not known.
        """
        spec = importlib.util.find_spec("magika")
        if spec is None or spec.origin is None:
            raise RuntimeError("package 'magika' is not installed: pip install 'magika>=1.0.3,<1.1'")
        package = Path(spec.origin).parent
        folders = sorted((p.parent for p in package.glob("models/*/model.onnx")), key=_model_order)
        if not folders:
            raise RuntimeError(f"package 'magika' has no models/*/model.onnx below {package}")
        folder = folders[-1]
        config = json.loads((folder / "config.min.json").read_text("utf-8"))
        known = json.loads((package / "config" / "content_types_kb.min.json").read_text("utf-8"))
        return cls._of(folder, config, known)

    @classmethod
    def _of(cls, folder: Path, config: dict[str, Any], known: dict[str, Any]) -> Catalog:
        if config["mid_size"] or config["beg_size"] != config["end_size"]:
            raise RuntimeError(f"network '{folder.name}' takes features in a form that is not known")
        labels = {name: _label(name, facts) for name, facts in known.items()}
        targets = tuple(config["target_labels_space"])
        overwrites = dict(config["overwrite_map"])
        given = {overwrites.get(name, name) for name in targets}
        return cls(
            model_path=folder / "model.onnx",
            model_name=folder.name,
            package_version=importlib.metadata.version("magika"),
            width=config["beg_size"] + config["end_size"],
            padding=config["padding_token"],
            least_bytes=config["min_file_size_for_dl"],
            targets=targets,
            threshold=config["medium_confidence_threshold"],
            thresholds=dict(config["thresholds"]),
            overwrites=overwrites,
            labels=labels,
            labels_of_extension=_by_extension(known, {name: name for name in given}),
            groups_of_extension=_by_extension(known, {name: label.group for name, label in labels.items()}),
        )

    def sha256(self) -> str:
        """Of the network's file."""
        with open(self.model_path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def by_rule(self, size_bytes: int, remaining: bytes) -> Verdict:
        """The verdict where the network is not asked; `remaining` are the few bytes that the features hold."""
        if size_bytes == 0:
            name = _EMPTY
        else:
            try:
                remaining.decode()
                name = _TEXT
            except UnicodeDecodeError:
                name = _UNKNOWN
        return Verdict(self.labels[name], _UNDEFINED, 1.0)

    def by_score(self, target: int, score: float) -> Verdict:
        """The verdict for the network's best target and its score."""
        model_label = self.targets[target]
        label = self.labels[self.overwrites.get(model_label, model_label)]
        if score < self.thresholds.get(model_label, self.threshold):
            label = self.labels[_TEXT if label.is_text else _UNKNOWN]
        return Verdict(label, model_label, score)


def _label(name: str, facts: dict[str, Any]) -> Label:
    is_text = bool(facts["is_text"])
    plain = "text/plain" if is_text else "application/octet-stream"
    return Label(name, facts["group"] or "unknown", facts["mime_type"] or plain, is_text)


def _by_extension(known: dict[str, Any], values: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name, value in values.items():
        for extension in known[name]["extensions"]:
            found[extension.lower()].add(value)
    return {extension: tuple(sorted(several)) for extension, several in sorted(found.items())}


def _model_order(folder: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", folder.name)]
