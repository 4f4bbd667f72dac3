"""Reads the tables of files and predictions, and joins them by path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noa.sdk import ActionFailed, Artifact, Context
from noa_standard_agents.findings import FileRow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["joined_rows", "read_table"]

_FILES = ("path", "size_bytes", "sha256", "extension")
_PREDICTIONS = ("path", "label", "group", "mime_type", "score", "is_text", "dl_label")
_OPTIONAL = ("extension_labels", "extension_groups")


def read_table(ctx: Context, artifact: Artifact, name: str, columns: tuple[str, ...]) -> pa.Table:
    """These columns (and of the optional ones those that are there) of an Arrow file.

    Raises:
        ActionFailed: INVALID_INPUT: it is no Arrow file, or a column is missing.
        ArtifactError: It is missing or damaged.
    """
    import pyarrow as pa

    path = ctx.artifacts.path(artifact)
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            missing = [column for column in columns if column not in reader.schema.names]
            if missing:
                raise ActionFailed(
                    "INVALID_INPUT",
                    f"field '{name}': the table has no column {', '.join(missing)}. It has: "
                    f"{', '.join(reader.schema.names)}",
                )
            wanted = [*columns, *(column for column in _OPTIONAL if column in reader.schema.names)]
            indexes = [reader.schema.get_field_index(column) for column in wanted]
            options = pa.ipc.IpcReadOptions(included_fields=indexes)
            return pa.ipc.open_file(source, options=options).read_all().select(wanted)
    except pa.ArrowInvalid as error:
        raise ActionFailed("INVALID_INPUT", f"field '{name}': not an Arrow file: {error}") from error


def joined_rows(ctx: Context, files: Artifact, predictions: Artifact) -> list[FileRow]:
    """A row for each prediction, with what is known of its file, in the order of the predictions.

    Raises:
        ActionFailed: INVALID_INPUT: a table is not what it should be, or a prediction is about no file.
    """
    known: dict[str, dict[str, Any]] = {row["path"]: row for row in read_table(ctx, files, "files", _FILES).to_pylist()}
    rows = []
    for row in read_table(ctx, predictions, "predictions", _PREDICTIONS).to_pylist():
        file = known.get(row["path"])
        if file is None:
            raise ActionFailed("INVALID_INPUT", f"field 'predictions': '{row['path']}' is not in 'files'")
        for column in _OPTIONAL:
            row[column] = tuple(row.get(column) or ())
        rows.append(FileRow(**(file | row)))
    return rows
