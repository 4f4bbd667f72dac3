"""Artifacts as an agent makes and reads them: files below the prefix that the engine gave, named by their content.

The layout is the one of `agents/CONTRACT.md`: `<prefix><first two digits>/<sha256>`, written under a temporary name,
synced, and renamed. It shares no code with the engine's store on purpose: an agent has the contract only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from noa.errors import ArtifactError
from noa.model.payload import Artifact

__all__ = ["Artifacts", "Source", "path_of_uri", "uri_of_path"]

_CHUNK_BYTES = 1 << 20


Source: TypeAlias = "Any"
"""Where the bytes of a new artifact come from: an object that holds bytes (`bytes`, `memoryview`, an Arrow buffer, an
array), a file's path (`pathlib.Path`), or an open binary stream."""


def path_of_uri(uri: str) -> Path:
    """The local path of a `file:///…` URI.

    Raises:
        ArtifactError: It is not a `file` URI of this machine.
    """
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ArtifactError(f"cannot open {uri!r}: expected file:///absolute/path", uri=uri)
    return Path(unquote(parts.path))


def uri_of_path(path: Path) -> str:
    """The `file:///…` URI of an absolute path; undecodable bytes of names are percent-encoded."""
    return "file://" + quote(os.fsencode(path))


class Artifacts:
    """Makes and opens artifacts. Safe to use from any thread.

    Args:
        prefix: `file:///…/` of the store, as the engine gave it; empty where it gave none (then only reading works).
    """

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def create(self, source: Source, content_type: str = "application/octet-stream") -> Artifact:
        """Store bytes durably; the same bytes give the same artifact.

        Args:
            source: Anything that holds bytes, a path (`pathlib.Path`), or an open binary stream, which is read to its
                end and not closed.
            content_type: Media type.

        Raises:
            ArtifactError: The engine gave no store, or it cannot be written; nothing is left behind.
        """
        if isinstance(source, str):
            raise TypeError(
                "expected bytes, a pathlib.Path or a binary stream, got str: encode() it or wrap it in Path"
            )
        if isinstance(source, os.PathLike):
            with open(source, "rb") as stream:
                return self._store(_chunks(stream), content_type)
        if hasattr(source, "read"):
            return self._store(_chunks(source), content_type)
        return self._store(iter((memoryview(source),)), content_type)

    def path(self, artifact: Artifact) -> Path:
        """Where the bytes lie, the size checked.

        Raises:
            ArtifactError: It is missing or has another size.
        """
        path = path_of_uri(artifact.uri)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ArtifactError(
                f"artifact {artifact.uri} cannot be read: {error.strerror}", uri=artifact.uri
            ) from error
        if size != artifact.size_bytes:
            raise ArtifactError(
                f"artifact {artifact.uri} is damaged: expected {artifact.size_bytes} bytes, found {size}",
                uri=artifact.uri,
            )
        return path

    def open(self, artifact: Artifact) -> BinaryIO:
        """The bytes as a stream; the caller closes it. Raises ArtifactError."""
        return open(self.path(artifact), "rb")

    def read(self, artifact: Artifact) -> bytes:
        """All bytes, size and hash checked.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        data = self.path(artifact).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != artifact.sha256:
            raise ArtifactError(
                f"artifact {artifact.uri} is damaged: expected sha256 {artifact.sha256}, found {found}",
                uri=artifact.uri,
            )
        return data

    def _store(self, chunks: Iterator[bytes | memoryview], content_type: str) -> Artifact:
        if not self._prefix:
            raise ArtifactError("cannot create an artifact: the engine gave no artifact_prefix for this execution")
        base = os.fspath(path_of_uri(self._prefix))
        # A prefix ends with a slash; urlsplit keeps it, Path drops it.
        root = base + "/" if self._prefix.endswith("/") else base
        temporary = Path(f"{root}.tmp-{secrets.token_hex(8)}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            sha256, size = _write(temporary, chunks)
            target = Path(f"{root}{sha256[:2]}/{sha256}")
            _place(temporary, target, size)
        except OSError as error:
            raise ArtifactError(
                f"cannot write an artifact below {self._prefix}: {error.strerror or error}", prefix=self._prefix
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()
        return Artifact(uri_of_path(target), size, sha256, content_type)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _write(path: Path, chunks: Iterator[bytes | memoryview]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for chunk in chunks:
            digest.update(chunk)
            size += memoryview(chunk).nbytes
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _place(temporary: Path, target: Path, size: int) -> None:
    with suppress(OSError):
        if target.stat().st_size == size:
            return  # the same content is there already
    target.parent.mkdir(exist_ok=True)
    temporary.rename(target)
    for folder in (target.parent, target.parent.parent):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
