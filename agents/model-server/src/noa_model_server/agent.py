"""The agent `ai_model` and its action `inference`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action
from noa_model_server import __version__
from noa_model_server.catalog import Catalog, Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from noa_model_server.network import Network

__all__ = ["ModelAgent"]

ARROW = "application/vnd.apache.arrow.file"
_COLUMNS = ("path", "size_bytes", "extension", "features")
_BATCH = 64


class Allocation(BaseModel):
    """What the model may use."""

    model_config = ConfigDict(extra="ignore")

    threads: Annotated[int, Field(ge=1, le=1024, description="Threads for one file.")] = 1
    batch_size: Annotated[int, Field(ge=1, description="Files between two looks at progress and cancellation.")] = (
        _BATCH
    )


class Model(TypedDict):
    """Which network it was."""

    name: str
    version: str
    sha256: str


class Throughput(TypedDict):
    """How fast it was."""

    files_per_s: float
    files: int
    seconds: float


class Inferred(TypedDict):
    """Outputs of inference."""

    predictions: Annotated[
        Artifact,
        Field(
            description="Arrow file: path, label, group, mime_type, score, is_text, dl_label (the network's own), "
            "extension_labels and extension_groups (what the file's extension stands for)."
        ),
    ]
    model: Model
    throughput: Throughput


class ModelAgent(Agent):
    """Serves the network."""

    name = "ai_model"
    version = __version__

    def __init__(self) -> None:
        self._catalog: Catalog | None = None
        self._network: Network | None = None
        self._sha256 = ""

    def load(self) -> None:
        """Load the network. ONNX Runtime, numpy and Arrow are imported here, after the process listens."""
        # It would leave a session file in TMPDIR; read when the library is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import pyarrow as pa

        from noa_model_server.network import Network

        assert pa.ipc is not None
        self._catalog = Catalog.load()
        self._sha256 = self._catalog.sha256()
        self._network = Network(self._catalog.model_path, threads=1)

    @action(idempotent=True)
    def inference(
        self,
        ctx: Context,
        files: Annotated[Artifact, Field(description="Arrow file: path, size_bytes, extension, features.")],
        allocation: Allocation | None = None,
    ) -> Inferred:
        """Say for each file what its content is."""
        if self._catalog is None or self._network is None:
            raise ActionFailed("MODEL_NOT_LOADED", "the model is still being loaded", retryable=True, retry_after_s=1)
        work = _Inference(ctx, self._catalog, self._network, allocation or Allocation())
        began_s = time.perf_counter()
        predictions = work.run(files)
        seconds = time.perf_counter() - began_s
        artifact = ctx.artifacts.create(predictions, ARROW)
        model: Model = {
            "name": self._catalog.model_name,
            "version": self._catalog.package_version,
            "sha256": self._sha256,
        }
        rate = work.done / seconds if work.done else 0.0
        throughput: Throughput = {"files_per_s": round(rate, 1), "files": work.done, "seconds": round(seconds, 3)}
        return {"predictions": artifact, "model": model, "throughput": throughput}


class _Inference:
    def __init__(self, ctx: Context, catalog: Catalog, network: Network, allocation: Allocation) -> None:
        self.done = 0
        self._ctx = ctx
        self._catalog = catalog
        self._session = network.with_threads(allocation.threads)
        self._batch_size = allocation.batch_size

    def run(self, files: Artifact) -> pa.Buffer:
        """The predictions as an Arrow file."""
        import pyarrow as pa

        path = self._ctx.artifacts.path(files)
        sink = pa.BufferOutputStream()
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.new_file(sink, _schema()) as writer:
                reader = pa.ipc.open_file(source)
                self._check(reader.schema)
                total = reader.count_rows()
                for batch in self._batches(reader):
                    self._ctx.check_cancelled()
                    writer.write_batch(self._predict(batch))
                    self.done += batch.num_rows
                    self._ctx.progress(done=self.done, total=total, unit="files", message="inference")
        except pa.ArrowInvalid as error:
            raise ActionFailed("INVALID_INPUT", f"field 'files': not an Arrow file: {error}") from error
        return sink.getvalue()

    def _check(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        missing = [name for name in _COLUMNS if name not in schema.names]
        if missing:
            raise ActionFailed(
                "INVALID_INPUT",
                f"field 'files': the table has no column {', '.join(missing)}. It has: {', '.join(schema.names)}",
            )
        expected = pa.list_(pa.int32(), self._catalog.width)
        found = schema.field("features").type
        if not (
            pa.types.is_fixed_size_list(found)
            and (found.value_type, found.list_size) == (pa.int32(), expected.list_size)
        ):
            raise ActionFailed("INVALID_INPUT", f"field 'files': features are {found}, the model takes {expected}")

    def _batches(self, reader: Any) -> Iterator[pa.RecordBatch]:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number).select(list(_COLUMNS))
            for start in range(0, batch.num_rows, self._batch_size):
                yield batch.slice(start, self._batch_size)

    def _predict(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        features = batch.column("features").flatten().to_numpy().reshape(-1, self._catalog.width)
        sizes = batch.column("size_bytes").to_pylist()
        verdicts = [self._verdict(size, features[row : row + 1]) for row, size in enumerate(sizes)]
        extensions = batch.column("extension").to_pylist()
        catalog = self._catalog
        columns = {
            "path": batch.column("path"),
            "label": [one.label.name for one in verdicts],
            "group": [one.label.group for one in verdicts],
            "mime_type": [one.label.mime_type for one in verdicts],
            "score": [one.score for one in verdicts],
            "is_text": [one.label.is_text for one in verdicts],
            "dl_label": [one.model_label for one in verdicts],
            "extension_labels": [list(catalog.labels_of_extension.get(one, ())) for one in extensions],
            "extension_groups": [list(catalog.groups_of_extension.get(one, ())) for one in extensions],
        }
        return pa.RecordBatch.from_pydict(columns, schema=_schema())

    def _verdict(self, size_bytes: int, features: npt.NDArray[np.int32]) -> Verdict:
        from noa_model_server.network import best_target

        catalog = self._catalog
        first = features[0, : catalog.least_bytes]
        if first[-1] == catalog.padding:
            return catalog.by_rule(size_bytes, bytes(first[first != catalog.padding].astype("uint8")))
        return catalog.by_score(*best_target(self._session, features))


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = {
        "path": pa.string(),
        "label": pa.string(),
        "group": pa.string(),
        "mime_type": pa.string(),
        "score": pa.float32(),
        "is_text": pa.bool_(),
        "dl_label": pa.string(),
        "extension_labels": pa.list_(pa.string()),
        "extension_groups": pa.list_(pa.string()),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
