"""Artifacts as plain files named by their content, in the layout that `agents/CONTRACT.md` gives to agents too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from noa.errors import ArtifactError, UsageError
from noa.model.payload import Artifact
from noa.plugin.interfaces import ArtifactStore

__all__ = ["FileArtifactStore"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileArtifactStore(ArtifactStore):
    """Keeps artifacts below a folder of this machine.

    Args:
        url_or_path: `file:///abs/folder` (percent-encoded where needed) or a path. Missing folders are created.

    `get` and `stream` read only below the folder, so a reference cannot make the engine open any other file.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        text = str(url_or_path)
        scheme, separator, rest = text.partition("://")
        if separator and scheme != "file":
            raise UsageError(f"'{text}': expected file:///folder, got the scheme '{scheme}'", url=text)
        # file:// URLs encode; file://relative is taken as a path from the working folder.
        self.folder = Path(os.path.abspath(unquote(rest) if separator else text))  # resolve() would follow links
        self._prefix = f"file://{quote(str(self.folder))}/"

    @property
    def prefix(self) -> str:
        return self._prefix

    def put(self, data: bytes, content_type: str) -> Artifact:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        artifact = Artifact(f"{self._prefix}{sha256[:2]}/{sha256}", len(data), sha256, content_type)
        if self.exists(artifact):
            with contextlib.suppress(OSError):  # removed by `noa gc` just now: it is written again
                os.utime(path)  # young, so that it stays until an event names it
                return artifact
        temporary = self.folder / f".tmp-{secrets.token_hex(8)}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise self._error(artifact, f"cannot be written to {path}: {error.strerror or error}") from error
        return artifact

    def get(self, artifact: Artifact) -> bytes:
        return b"".join(self.stream(artifact))

    def stream(self, artifact: Artifact, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The bytes in pieces; size and hash are checked, so a damaged artifact raises after its last piece."""
        path = self._locate(artifact)
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(chunk_bytes):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
        except FileNotFoundError as error:
            raise self._error(artifact, f"is missing: {path} does not exist") from error
        except OSError as error:
            raise self._error(artifact, f"cannot be read from {path}: {error.strerror or error}") from error
        if size != artifact.size_bytes:
            raise self._error(artifact, f"is damaged: {path} has {size} bytes, expected {artifact.size_bytes}")
        if digest.hexdigest() != artifact.sha256:
            raise self._error(
                artifact, f"is damaged: {path} has the SHA-256 {digest.hexdigest()}, expected {artifact.sha256}"
            )

    def exists(self, artifact: Artifact) -> bool:
        try:
            return self._locate(artifact).stat().st_size == artifact.size_bytes
        except (OSError, ArtifactError):
            return False

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _locate(self, artifact: Artifact) -> Path:
        """The file of a reference, which must lie in this store."""
        if not _SHA256.fullmatch(artifact.sha256):
            raise self._error(artifact, f"has no valid SHA-256: '{artifact.sha256}'")
        path = self._path(artifact.sha256)
        url = urlsplit(artifact.uri)
        if url.scheme != "file" or os.path.abspath(unquote(url.path)) != str(path):
            raise self._error(artifact, f"is not in this store: expected {self._prefix}{path.parent.name}/{path.name}")
        return path

    def _error(self, artifact: Artifact, what: str, **parts: Any) -> ArtifactError:
        return ArtifactError(f"artifact {artifact.uri} {what}", uri=artifact.uri, sha256=artifact.sha256, **parts)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder last over a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
