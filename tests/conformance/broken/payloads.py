"""How the reference agent reads inputs and writes outputs: inline up to 256 KiB, above that as artifacts."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from noa.agent.v1.payload_pb2 import Artifact, Payload

from .messages import WorkFailed

__all__ = ["Payloads"]

INLINE_LIMIT = 256 << 10


class Payloads:
    """Payloads of the contract in and out of files. Its methods block; call them in a thread."""

    def __init__(self) -> None:
        self.temporary: set[Path] = set()

    def read_input(self, payload: Payload) -> dict[str, Any]:
        """The JSON object of an input.

        Raises:
            WorkFailed: INVALID_INPUT where it is not a JSON object or its artifact cannot be read, PAYLOAD_TOO_LARGE
                where more than 256 KiB are inline.
        """
        if payload.WhichOneof("value") == "artifact":
            return self.parse(self.read_artifact(payload.artifact))
        if not payload.inline:
            return self.unset_input()
        if len(payload.inline) > INLINE_LIMIT:
            message = f"input: {len(payload.inline)} bytes are inline, at most {INLINE_LIMIT} may be: send an artifact"
            raise WorkFailed("PAYLOAD_TOO_LARGE", message)
        return self.parse(payload.inline)

    def unset_input(self) -> dict[str, Any]:
        """What an input is that nobody gave."""
        return {}

    def parse(self, data: bytes) -> dict[str, Any]:
        """A JSON object from UTF-8; INVALID_INPUT for all else."""
        try:
            value = json.loads(data.decode(), parse_constant=self.refuse_constant)
        except (ValueError, RecursionError) as error:
            raise WorkFailed("INVALID_INPUT", f"input: not JSON in UTF-8: {error}") from None
        if not isinstance(value, dict):
            raise WorkFailed("INVALID_INPUT", f"input: a JSON object is expected, got {type(value).__name__}")
        return value

    def refuse_constant(self, name: str) -> None:
        """`NaN` and its like are Python's, not JSON's."""
        raise ValueError(f"{name} is no JSON value")

    def read_artifact(self, artifact: Artifact) -> bytes:
        """The bytes of an artifact, whose size and hash must be as they were announced."""
        try:
            data = self.path_of(artifact.uri).read_bytes()
        except OSError as error:
            raise WorkFailed("INVALID_INPUT", f"input: {artifact.uri} cannot be read: {error}") from None
        if len(data) != artifact.size_bytes:
            message = f"input: {artifact.uri} has {len(data)} bytes, {artifact.size_bytes} were announced"
            raise WorkFailed("INVALID_INPUT", message)
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise WorkFailed("INVALID_INPUT", f"input: {artifact.uri} has another sha256 than was announced")
        return data

    def write_output(self, output: dict[str, Any], prefix: str) -> Payload:
        """An output for the wire.

        Args:
            output: A JSON object.
            prefix: The request's `artifact_prefix`.

        Raises:
            WorkFailed: PAYLOAD_TOO_LARGE where it is too large and there is no prefix.
        """
        data = json.dumps(output, allow_nan=False).encode()
        if len(data) <= INLINE_LIMIT:
            return Payload(inline=data)
        if not prefix:
            raise WorkFailed("PAYLOAD_TOO_LARGE", f"the output has {len(data)} bytes and artifact_prefix is empty")
        return Payload(artifact=self.write_artifact(data, prefix))

    def write_artifact(self, data: bytes, prefix: str) -> Artifact:
        """A new file below the prefix, named by its content."""
        sha256 = hashlib.sha256(data).hexdigest()
        relative = f"{sha256[:2]}/{sha256}"
        target = self.path_of(prefix) / relative
        if not target.exists():
            self.write_file(data, target)
        return Artifact(uri=prefix + relative, size_bytes=len(data), sha256=sha256, content_type="application/json")

    def write_file(self, data: bytes, target: Path) -> None:
        """The bytes under a temporary name, on disk, then under their own."""
        temporary = target.parent.parent / f".tmp-{uuid.uuid4().hex}"
        self.temporary.add(temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        finally:
            temporary.unlink(missing_ok=True)
            self.temporary.discard(temporary)

    def remove_temporary(self) -> None:
        """Nothing half written stays when the process ends."""
        for path in list(self.temporary):
            path.unlink(missing_ok=True)

    def path_of(self, uri: str) -> Path:
        """The path of a `file:///` URI."""
        parts = urlsplit(uri)
        if parts.scheme != "file":
            raise WorkFailed("INVALID_INPUT", f"{uri}: only file:/// can be read and written here")
        return Path(unquote(parts.path))
