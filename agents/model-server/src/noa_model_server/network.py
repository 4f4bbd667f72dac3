"""The network in ONNX Runtime.

Each file goes through it alone. The network's weights are quantized and its inner scales are computed over all rows of
a call, so that a file's score would depend on its neighbours (by up to 0.02, tried on 523 files); alone it equals the
command's, and it is not slower.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["Network"]


class Network:
    """A loaded network. Safe to use from several threads.

    Args:
        path: The .onnx file.
        threads: Threads that one call may use.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._threads = threads
        self._session = self._open(threads)

    def with_threads(self, threads: int) -> onnxruntime.InferenceSession:
        """A session that uses so many threads; the last one is kept."""
        with self._lock:
            if threads != self._threads:
                self._session, self._threads = self._open(threads), threads
            return self._session

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait for work must not keep a core busy that other agents need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])


def best_target(session: onnxruntime.InferenceSession, features: npt.NDArray[np.int32]) -> tuple[int, float]:
    """The most likely target of one file and its score, 0 to 1; `features` has one row."""
    (scores,) = session.run(["target_label"], {"bytes": features})
    target = int(scores[0].argmax())
    return target, float(scores[0, target])
