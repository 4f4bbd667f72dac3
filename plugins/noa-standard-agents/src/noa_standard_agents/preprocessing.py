"""The agent `python`: reads the files of a folder once and prepares them for the model."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action
from noa_standard_agents import __version__
from noa_standard_agents.features import BLOCK_BYTES, WIDTH, features_of
from noa_standard_agents.folder import EXCLUDED, Skipped, Walk, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PythonAgent", "open_folder"]

ARROW = "application/vnd.apache.arrow.file"
_CHUNK_BYTES = 1 << 20
_ROWS_PER_BATCH = 512
_SKIPPED_SHOWN = 1000
_PROGRESS_EVERY = 50


class SkippedFile(TypedDict):
    """Something that was not read."""

    path: str
    reason: str


class Prepared(TypedDict):
    """Outputs of data_preprocessing."""

    files: Annotated[Artifact, Field(description="Arrow file: path, size_bytes, sha256, extension, features.")]
    count: Annotated[int, Field(description="Files in the table.")]
    total_bytes: int
    skipped: Annotated[list[SkippedFile], Field(description="The first 1,000 that were not read, and why.")]
    skipped_count: int
    root: Annotated[str, Field(description="The folder, absolute.")]


@dataclass(frozen=True, slots=True)
class Row:
    """A file that was read; `features` are 2,048 int32."""

    path: str
    size_bytes: int
    sha256: str
    extension: str
    features: bytes


class PythonAgent(Agent):
    """Reads files."""

    name = "python"
    version = __version__

    @action(idempotent=True)
    def data_preprocessing(
        self,
        ctx: Context,
        path: Annotated[str, Field(description="Folder whose files are read.")],
        max_files: Annotated[int | None, Field(ge=0, description="Take the first files only, in order.")] = None,
        follow_links: Annotated[bool, Field(description="Whether to follow symbolic links.")] = False,
        exclude: Annotated[list[str] | None, Field(description="Names of folders to pass over.")] = None,
    ) -> Prepared:
        """Read each file of a folder once: hash, size, extension and the features that the model takes."""
        root = open_folder(path)
        names = frozenset(os.fsencode(name) for name in (EXCLUDED if exclude is None else exclude))
        work = _Preparation(ctx, Walk(os.fsencode(root), follow_links, names), max_files)
        with tempfile.TemporaryFile() as file:
            work.write(file)
            file.seek(0)
            files = ctx.artifacts.create(file, ARROW)
        ctx.progress(1.0, done=work.count, total=work.count, unit="files", message="read")
        return {
            "files": files,
            "count": work.count,
            "total_bytes": work.total_bytes,
            "skipped": [{"path": shown(one.path), "reason": one.reason} for one in work.skipped],
            "skipped_count": work.skipped_count,
            "root": shown(os.fsencode(root)),
        }


def open_folder(path: str) -> Path:
    """A folder that can be read, absolute.

    Raises:
        ActionFailed: INPUT_NOT_FOUND, INPUT_NOT_A_FOLDER, INPUT_UNREADABLE.
    """
    folder = Path(path).expanduser()
    try:
        folder = folder.resolve()
        is_folder = folder.is_dir()
        folder.stat()
        if is_folder:
            os.listdir(folder)
    except FileNotFoundError:
        raise ActionFailed("INPUT_NOT_FOUND", f"input path '{path}' does not exist ({folder})") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise ActionFailed("INPUT_UNREADABLE", f"input path '{path}' cannot be read: {error}") from error
    if not is_folder:
        raise ActionFailed("INPUT_NOT_A_FOLDER", f"input path '{path}' is a file, expected a folder")
    return folder


class _Preparation:
    """One reading of a folder."""

    def __init__(self, ctx: Context, walk: Walk, max_files: int | None) -> None:
        self.count = 0
        self.total_bytes = 0
        self.skipped: list[Skipped] = []
        self.skipped_count = 0
        self._ctx = ctx
        self._walk = walk
        self._max_files = max_files

    def write(self, file: IO[bytes]) -> None:
        """Write the table, a few hundred rows at a time, so that memory does not grow with the folder."""
        import pyarrow as pa

        schema = _schema()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, schema, options=options) as writer:
            rows: list[Row] = []
            for row in self._rows():
                rows.append(row)
                if len(rows) == _ROWS_PER_BATCH:
                    writer.write_batch(_batch(rows, schema))
                    rows.clear()
            if rows:
                writer.write_batch(_batch(rows, schema))

    def _rows(self) -> Iterator[Row]:
        paths = self._paths()
        for number, path in enumerate(paths, 1):
            self._ctx.check_cancelled()
            if number % _PROGRESS_EVERY == 0:
                self._ctx.progress(done=number, total=len(paths), unit="files", message="reading")
            try:
                row = _read(self._walk.root, path, self._ctx)
            except OSError as error:
                self._skip(Skipped(path, error.strerror or type(error).__name__))
                continue
            self.count += 1
            self.total_bytes += row.size_bytes
            yield row

    def _paths(self) -> list[bytes]:
        paths: list[bytes] = []
        if self._max_files == 0:
            return paths
        for path in self._walk.files(self._skip):
            paths.append(path)
            if len(paths) % _PROGRESS_EVERY == 0:
                self._ctx.check_cancelled()
            if len(paths) == self._max_files:
                break
        return paths

    def _skip(self, skipped: Skipped) -> None:
        self.skipped_count += 1
        if len(self.skipped) < _SKIPPED_SHOWN:
            self.skipped.append(skipped)


def _read(root: bytes, path: bytes, ctx: Context) -> Row:
    """Read a file once. O_NONBLOCK, so that a pipe that took the file's place meanwhile cannot block."""
    descriptor = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    digest, size, first, last = hashlib.sha256(), 0, b"", b""
    with open(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            if len(first) < BLOCK_BYTES:
                first += chunk[: BLOCK_BYTES - len(first)]
            last = (last + chunk)[-BLOCK_BYTES:] if len(chunk) < BLOCK_BYTES else chunk[-BLOCK_BYTES:]
            ctx.check_cancelled()
    return Row(shown(path), size, digest.hexdigest(), _extension(path), features_of(first, last))


def _extension(path: bytes) -> str:
    """The last suffix in lower case without its dot; empty for none and for names such as `.profile`."""
    return os.path.splitext(shown(path.rpartition(b"/")[2]))[1][1:].lower()


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("extension", pa.string(), nullable=False),
            pa.field("features", pa.list_(pa.int32(), WIDTH), nullable=False),
        ]
    )


def _batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    values: Any = pa.Array.from_buffers(
        pa.int32(), WIDTH * len(rows), [None, pa.py_buffer(b"".join(row.features for row in rows))]
    )
    columns = [
        pa.array([row.path for row in rows], pa.string()),
        pa.array([row.size_bytes for row in rows], pa.int64()),
        pa.array([row.sha256 for row in rows], pa.string()),
        pa.array([row.extension for row in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(values, type=schema.field("features").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
