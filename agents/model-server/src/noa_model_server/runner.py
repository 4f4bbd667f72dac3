"""A manifest's network in ONNX Runtime: checked against what the file really takes, then asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from noa.sdk import ActionFailed
from noa_model_server.manifest import BATCH, FoundModel, Input

__all__ = ["LoadedModel"]

_TYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "uint8": "tensor(uint8)",
}


class LoadedModel:
    """A network that is ready. Safe to use from several threads.

    Args:
        found: The manifest and its files.

    Attributes:
        load_ms: How long loading took.

    Raises:
        ActionFailed: MODEL_INVALID: the file is no network, another one than the manifest says, or takes other inputs.
    """

    def __init__(self, found: FoundModel) -> None:
        self.found = found
        self.manifest = found.manifest
        self.sha256 = found.sha256()
        expected = self.manifest.sha256
        if expected is not None and expected != self.sha256:
            raise ActionFailed("MODEL_INVALID", f"{found.path} has sha256 {self.sha256}, the manifest says {expected}")
        begin = time.perf_counter()
        self._session = self._open()
        self.load_ms = (time.perf_counter() - begin) * 1000
        self._check()

    def describe(self) -> dict[str, Any]:
        """Name, version, sha256, inputs, outputs, load_ms."""
        return {
            "name": self.manifest.name,
            "version": self.manifest.version,
            "sha256": self.sha256,
            "inputs": {one.name: f"{one.type} {one.shape}" for one in self._session.get_inputs()},
            "outputs": {one.name: f"{one.type} {one.shape}" for one in self._session.get_outputs()},
            "load_ms": round(self.load_ms, 1),
        }

    def ask(self, samples: npt.NDArray[np.float64], groups: Sequence[str]) -> Iterator[npt.NDArray[np.float64]]:
        """What the network says: a vector for each sample, in order.

        Args:
            samples: One a row.
            groups: For each row which file it is of; what is carried begins anew with each file.

        Raises:
            ActionFailed: INFERENCE_FAILED with what the runtime says.
        """
        manifest = self.manifest
        if not manifest.alone:
            yield from self._rows(self._run(samples, {}), len(samples))
            return
        carried: dict[str, Any] = {}
        group = None
        for row, of in zip(samples, groups, strict=True):
            if of != group:
                carried, group = {}, of
            answer = self._run(row[None, :], carried)
            yield from self._rows(answer, 1)
            carried = {name: answer[1 + index] for index, name in enumerate(manifest.carry)}

    def label_of(self, values: npt.NDArray[np.float64]) -> tuple[str | None, float | None]:
        """The label that counts and its score; (None, None) where the manifest names none."""
        labels, threshold = self.found.labels, self.manifest.threshold
        if len(values) == 1 and len(labels) == 2:
            score = float(values[0])
            return labels[score >= (0.5 if threshold is None else threshold)], score
        if not labels:
            return None, None
        if len(values) != len(labels):
            raise ActionFailed(
                "MODEL_INVALID", f"output '{self.manifest.output}' has {len(values)} scores for {len(labels)} labels"
            )
        best = int(values.argmax())
        return labels[best], float(values[best])

    def _open(self) -> onnxruntime.InferenceSession:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(str(self.found.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            raise ActionFailed(
                "MODEL_INVALID", f"{self.found.path} is no network that ONNX Runtime takes: {error}"
            ) from error

    def _check(self) -> None:
        manifest = self.manifest
        real = {one.name: one for one in self._session.get_inputs()}
        outputs = [one.name for one in self._session.get_outputs()]
        wrong = [
            f"input '{name}' is not in the file (it has: {', '.join(real)})"
            for name in manifest.inputs
            if name not in real
        ]
        wrong += [f"the file's input '{name}' is not in the manifest" for name in real if name not in manifest.inputs]
        for name in (manifest.output, *manifest.carry.values()):
            if name not in outputs:
                wrong.append(f"output '{name}' is not in the file (it has: {', '.join(outputs)})")
        for name, spec in manifest.inputs.items():
            if name in real:
                wrong += _wrong_input(name, spec, real[name])
        if wrong:
            raise ActionFailed("MODEL_INVALID", f"model '{manifest.name}': " + "; ".join(wrong))

    def _run(self, samples: npt.NDArray[np.float64], carried: dict[str, Any]) -> list[Any]:
        count = len(samples)
        feeds = {}
        for name, spec in self.manifest.inputs.items():
            shape = [count if part == BATCH else int(part) for part in spec.shape]
            if name in carried:
                feeds[name] = carried[name]
            elif spec.value == "sample":
                feeds[name] = samples.astype(spec.dtype).reshape(shape)
            else:
                feeds[name] = np.full(shape, spec.value, dtype=spec.dtype)
        try:
            return list(self._session.run([self.manifest.output, *self.manifest.carry.values()], feeds))
        except Exception as error:  # the runtime's errors have no common class
            raise ActionFailed("INFERENCE_FAILED", f"model '{self.manifest.name}': {error}") from error

    def _rows(self, answer: list[Any], count: int) -> Iterator[npt.NDArray[np.float64]]:
        try:
            values = np.asarray(answer[0], dtype=np.float64)
            rows = values.reshape(count, -1)
        except (TypeError, ValueError) as error:
            raise ActionFailed(
                "MODEL_INVALID", f"output '{self.manifest.output}' is not a table of numbers: {error}"
            ) from error
        yield from rows


def _wrong_input(name: str, spec: Input, real: Any) -> list[str]:
    if _TYPES[spec.dtype] != real.type:
        return [f"input '{name}' is {real.type} in the file, {spec.dtype} in the manifest"]
    shape = list(real.shape)
    fits = len(shape) == len(spec.shape) and all(
        not isinstance(have, int) or have == want or (want == BATCH and have == 1)
        for have, want in zip(shape, spec.shape, strict=True)
    )
    return [] if fits else [f"input '{name}' has the shape {shape} in the file, {spec.shape} in the manifest"]
