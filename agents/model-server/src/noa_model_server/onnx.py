"""The agent `onnx`: any network with a manifest, from files to a report."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action, write_whole
from noa_model_server import __version__
from noa_model_server.manifest import FoundModel, find_model

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from noa_model_server.runner import LoadedModel

__all__ = ["OnnxAgent"]

ARROW = "application/vnd.apache.arrow.file"
_SUFFIXES = {"wav": (".wav",), "csv": (".csv",)}
_KEPT_MODELS = 4

Model = Annotated[str, Field(description="Name of a built-in manifest, or the path of one.")]


class Skipped(TypedDict):
    """A file that gave no sample."""

    path: str
    reason: str


class Found(TypedDict):
    """Outputs of list_files."""

    files: list[str]
    count: int


class Batch(BaseModel):
    """Samples of one batch."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    samples: Annotated[Artifact, Field(description="Arrow file: path, index, sample.")]
    count: int


class Prepared(TypedDict):
    """Outputs of prepare_batches."""

    batches: list[Batch]
    count: Annotated[int, Field(description="Samples of all batches.")]
    skipped: list[Skipped]


class Loaded(TypedDict):
    """Outputs of load_model."""

    model: Annotated[dict[str, Any], Field(description="name, version, sha256, inputs, outputs, load_ms.")]


class Inferred(TypedDict):
    """Outputs of infer_batch."""

    predictions: Annotated[Artifact, Field(description="Arrow file: path, index, label, score, values.")]
    count: int
    seconds: float


class Summary(TypedDict):
    """Outputs of summarise_predictions."""

    report: dict[str, Any]
    predictions: Annotated[Artifact, Field(description="All predictions in one Arrow file.")]


class OnnxAgent(Agent):
    """Serves networks by their manifests."""

    name = "onnx"
    version = __version__

    def __init__(self) -> None:
        self._models: dict[str, LoadedModel] = {}
        self._lock = threading.Lock()

    def load(self) -> None:
        """Import what takes long, after the process listens. No network is loaded before one is asked for."""
        # It would leave a session file in TMPDIR; read when the library is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import pyarrow as pa

        from noa_model_server import readers, runner

        assert pa.ipc is not None
        assert readers.samples_of is not None
        assert runner.LoadedModel is not None

    @action(idempotent=True)
    def list_files(
        self,
        model: Model,
        path: Annotated[str, Field(description="A folder, or one file.")],
        max_files: Annotated[int, Field(ge=1)] = 10_000,
    ) -> Found:
        """Find the files that a model can read, in the order of their paths."""
        found = find_model(model)
        folder = Path(path).expanduser()
        if not folder.exists():
            raise ActionFailed("INPUT_NOT_FOUND", f"field 'path': {folder.absolute()} does not exist")
        suffixes = _SUFFIXES.get(found.manifest.sample.reader)
        files: list[str] = []
        for one in _walk(folder):
            if suffixes is None or one.suffix.lower() in suffixes:
                files.append(str(one))
                if len(files) == max_files:
                    break
        return {"files": files, "count": len(files)}

    @action(idempotent=True)
    def prepare_batches(
        self, ctx: Context, model: Model, files: list[str], batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    ) -> Prepared:
        """Read files into batches of samples; a file that cannot be read is skipped with the reason.

        A batch has `batch_size` samples or, where the network carries a state along a file, as many whole files as have
        so many samples.
        """
        from noa_model_server.readers import UnreadableError, samples_of

        found = find_model(model)
        whole_files = bool(found.manifest.carry)
        batches: list[Batch] = []
        skipped: list[Skipped] = []
        waiting: list[tuple[str, int, npt.NDArray[np.float64]]] = []

        def flush(least: int) -> None:
            while waiting and len(waiting) >= least:
                count = len(waiting) if whole_files else batch_size
                part, waiting[:] = waiting[:count], waiting[count:]
                batches.append(Batch(samples=_keep(ctx, part, found), count=len(part)))

        for done, file in enumerate(files, 1):
            ctx.check_cancelled()
            try:
                for index, sample in enumerate(samples_of(Path(file), found.manifest.sample)):
                    waiting.append((file, index, sample))
                    if not whole_files:
                        flush(batch_size)
            except (UnreadableError, OSError) as error:
                reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
                skipped.append({"path": file, "reason": reason})
            flush(batch_size)
            ctx.progress(done=done, total=len(files), unit="files", message="preprocessing")
        flush(1)
        return {"batches": batches, "count": sum(batch.count for batch in batches), "skipped": skipped}

    @action(idempotent=True)
    def load_model(self, model: Model) -> Loaded:
        """Load a network, check that its file takes what the manifest says, and keep it ready."""
        return {"model": self._ready(model).describe()}

    @action(idempotent=True)
    def infer_batch(self, ctx: Context, model: Model, batch: Batch) -> Inferred:
        """Ask the network about every sample of a batch. It is loaded where it is not, as after a restart."""
        import numpy as np

        begin = time.perf_counter()
        ready = self._ready(model)
        table = _read(ctx, batch.samples, "batch")
        paths = table.column("path").to_pylist()
        width = ready.manifest.sample.size
        samples = table.column("sample").combine_chunks().flatten().to_numpy().astype(np.float64).reshape(-1, width)
        rows: list[dict[str, Any]] = []
        for path, index, values in zip(
            paths, table.column("index").to_pylist(), ready.ask(samples, paths), strict=True
        ):
            ctx.check_cancelled()
            label, score = ready.label_of(values)
            rows.append({"path": path, "index": index, "label": label, "score": score, "values": values.tolist()})
            if len(rows) % 64 == 0:
                ctx.progress(done=len(rows), total=len(paths), unit="samples", message="inference")
        seconds = time.perf_counter() - begin
        return {"predictions": _keep_rows(ctx, rows), "count": len(rows), "seconds": round(seconds, 4)}

    @action(idempotent=True)
    def summarise_predictions(
        self,
        ctx: Context,
        results: Annotated[list[Inferred], Field(description="Outputs of infer_batch, in order.")],
        model: Annotated[dict[str, Any], Field(description="Output of load_model.")],
        skipped: list[Skipped] | None = None,
    ) -> Summary:
        """Count the labels, of all samples and of each file."""
        import pyarrow as pa

        tables = [_read(ctx, one["predictions"], "results") for one in results]
        table = pa.concat_tables(tables) if tables else pa.Table.from_pylist([], schema=_predicted())
        labels: Counter[str] = Counter()
        of_file: defaultdict[str, Counter[str]] = defaultdict(Counter)
        scores: list[float] = []
        for path, label, score in zip(*(table.column(n).to_pylist() for n in ("path", "label", "score")), strict=True):
            if label is not None:
                labels[label] += 1
                of_file[path][label] += 1
                scores.append(score)
        seconds = sum(one["seconds"] for one in results)
        report = {
            "model": model,
            "samples": table.num_rows,
            "files": len(set(table.column("path").to_pylist())),
            "skipped": skipped or [],
            "labels": dict(labels.most_common()),
            "mean_score": round(sum(scores) / len(scores), 6) if scores else None,
            "by_file": {path: dict(counts.most_common()) for path, counts in sorted(of_file.items())},
            "samples_per_s": round(table.num_rows / seconds, 1) if seconds else None,
        }
        return {"report": report, "predictions": _keep_table(ctx, table)}

    @action(idempotent=True)
    def write_report(
        self,
        ctx: Context,
        report: dict[str, Any],
        predictions: Annotated[Artifact, Field(description="Arrow file.")],
    ) -> dict[str, Any]:
        """Write predictions.parquet and report.json into the run's output folder, each whole or not at all."""
        import pyarrow.parquet as pq

        table = _read(ctx, predictions, "predictions")
        text = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode()
        writers: dict[str, Callable[[IO[bytes]], Any]] = {
            "predictions.parquet": lambda file: pq.write_table(table, file),
            "report.json": lambda file: file.write(text),
        }
        try:
            for name, write in writers.items():
                write_whole(ctx.output_dir / name, write)
        except OSError as error:
            raise ActionFailed(
                "OUTPUT_NOT_WRITABLE", f"cannot write {error.filename or 'the results'}: {error.strerror or error}"
            ) from error
        return {"uris": [(ctx.output_dir / name).as_uri() for name in writers]}

    def _ready(self, model: str) -> LoadedModel:
        from noa_model_server.runner import LoadedModel

        found = find_model(model)
        # Not by its hash: a large file would be read anew for every batch.
        seen = found.path.stat()
        key = f"{found.path}:{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}:{found.manifest.model_dump_json()}"
        with self._lock:
            ready = self._models.pop(key, None) or LoadedModel(found)
            self._models[key] = ready  # the one that was used last stands last
            while len(self._models) > _KEPT_MODELS:
                del self._models[next(iter(self._models))]
            return ready


def _walk(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
        return
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _keep(ctx: Context, part: list[tuple[str, int, npt.NDArray[np.float64]]], found: FoundModel) -> Artifact:
    import numpy as np
    import pyarrow as pa

    flat = np.concatenate([sample for _, _, sample in part]).astype(np.float32)
    table = pa.table(
        {
            "path": pa.array([path for path, _, _ in part], pa.string()),
            "index": pa.array([index for _, index, _ in part], pa.int64()),
            "sample": pa.FixedSizeListArray.from_arrays(pa.array(flat), found.manifest.sample.size),
        }
    )
    return _keep_table(ctx, table)


def _keep_rows(ctx: Context, rows: list[dict[str, Any]]) -> Artifact:
    import pyarrow as pa

    return _keep_table(ctx, pa.Table.from_pylist(rows, schema=_predicted()))


def _keep_table(ctx: Context, table: pa.Table) -> Artifact:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return ctx.artifacts.create(sink.getvalue(), ARROW)


def _read(ctx: Context, artifact: Artifact, field: str) -> pa.Table:
    import pyarrow as pa

    try:
        with pa.memory_map(str(ctx.artifacts.path(artifact))) as source:
            return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise ActionFailed("INVALID_INPUT", f"field '{field}': not an Arrow file: {error}") from error


def _predicted() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("index", pa.int64(), nullable=False),
            pa.field("label", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("values", pa.list_(pa.float64()), nullable=False),
        ]
    )
