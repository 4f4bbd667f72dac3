"""The agent `storage`: writes results as Parquet, JSON and a page, each whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action, write_whole
from noa_standard_agents import __version__
from noa_standard_agents.page import render
from noa_standard_agents.rows import joined_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from noa_standard_agents.findings import FileRow

__all__ = ["StorageAgent"]

_COLUMNS = ("path", "size_bytes", "sha256", "extension", "label", "group", "mime_type", "score", "is_text", "dl_label")


class Persisted(TypedDict):
    """Outputs of persist_results."""

    uris: Annotated[list[str], Field(description="The files that were written, as file URIs.")]
    bytes: Annotated[int, Field(description="Bytes of all of them.")]


class StorageAgent(Agent):
    """Writes results."""

    name = "storage"
    version = __version__

    @action(idempotent=True)
    def persist_results(
        self,
        ctx: Context,
        report: dict[str, Any],
        findings: list[dict[str, Any]],
        predictions: Annotated[Artifact, Field(description="Arrow file of labels.")],
        files: Annotated[Artifact, Field(description="Arrow file of the files that the labels are about.")],
        output_dir: Annotated[
            str | None, Field(description="Where to write; the run's own folder if not given.")
        ] = None,
    ) -> Persisted:
        """Write results.parquet (a row for each file), report.json and report.html."""
        rows = joined_rows(ctx, files, predictions)
        document = json.dumps({"report": report, "findings": findings}, indent=2, ensure_ascii=False) + "\n"
        page = render(report, findings)
        writers: dict[str, Callable[[IO[bytes]], None]] = {
            "results.parquet": lambda file: _write_parquet(rows, file),
            "report.json": lambda file: _write_text(document, file),
            "report.html": lambda file: _write_text(page, file),
        }
        folder = _output_folder(ctx, output_dir)
        written = []
        for done, (name, write) in enumerate(writers.items(), 1):
            ctx.check_cancelled()
            path = folder / name
            try:
                write_whole(path, write)
            except OSError as error:
                raise _not_writable(path, error) from error
            written.append(path)
            ctx.progress(done=done, total=len(writers), unit="files", message=name)
        return {
            "uris": ["file://" + quote(os.fsencode(path)) for path in written],
            "bytes": sum(path.stat().st_size for path in written),
        }


def _output_folder(ctx: Context, output_dir: str | None) -> Path:
    try:
        if not output_dir:
            return ctx.output_dir
        folder = Path(output_dir).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(output_dir or error.filename or "the run's output folder", error) from error
    return folder


def _not_writable(path: object, error: OSError) -> ActionFailed:
    return ActionFailed(
        "OUTPUT_NOT_WRITABLE",
        f"cannot write {path}: {error.strerror or error}. Give another folder as input output_dir",
        details={"path": str(path)},
    )


def _write_text(text: str, file: IO[bytes]) -> None:
    file.write(text.encode("utf-8", "backslashreplace"))


def _write_parquet(rows: list[FileRow], file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_table(rows), file, compression="zstd")


def _table(rows: list[FileRow]) -> pa.Table:
    import pyarrow as pa

    types = {"size_bytes": pa.int64(), "score": pa.float64(), "is_text": pa.bool_()}
    schema = pa.schema([pa.field(name, types.get(name, pa.string()), nullable=False) for name in _COLUMNS])
    return pa.table({name: [getattr(row, name) for row in rows] for name in _COLUMNS}, schema=schema)
