"""Values that tasks exchange: JSON, in which large parts are references to artifacts.

A reference stands in JSON as `{"$artifact": {"uri", "size_bytes", "sha256", "content_type"}}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

__all__ = ["ARTIFACT_KEY", "INLINE_LIMIT_BYTES", "KEPT_VALUE", "Artifact", "Json", "iter_artifacts"]

Json: TypeAlias = Any
"""A JSON value: None, bool, int, float, str, list or dict with string keys."""

INLINE_LIMIT_BYTES = 256 * 1024
"""A payload above this size travels by reference."""

ARTIFACT_KEY = "$artifact"

KEPT_VALUE = "application/vnd.noa.value+json"
"""Type of a value that the engine itself keeps by reference, because the journal would not hold it; agents get the
value."""


class Artifact(msgspec.Struct, frozen=True):
    """A reference to bytes in the artifact store.

    Attributes:
        uri: Where the bytes are, such as `file:///srv/.noa/artifacts/ab/ab12…`.
        size_bytes: How many bytes.
        sha256: Their SHA-256, 64 lower-case hexadecimal digits.
        content_type: Media type.
    """

    uri: str
    size_bytes: int
    sha256: str
    content_type: str = "application/octet-stream"

    def to_json(self) -> dict[str, Any]:
        """The reference as it stands in a JSON payload."""
        return {ARTIFACT_KEY: msgspec.to_builtins(self)}

    @classmethod
    def from_json(cls, value: Json) -> Artifact | None:
        """The reference that a JSON value is, or None when it is an ordinary value."""
        if isinstance(value, dict) and len(value) == 1 and ARTIFACT_KEY in value:
            try:
                return msgspec.convert(value[ARTIFACT_KEY], cls)
            except msgspec.ValidationError:
                return None
        return None

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic reads and writes the reference, so that it can be a field of a model."""
        from pydantic_core import core_schema as schema  # kept off the path of those who need no pydantic

        def parse(value: Any) -> Artifact:
            found = value if isinstance(value, cls) else cls.from_json(value)
            if found is None:
                raise ValueError(
                    f'expected an artifact reference {{"{ARTIFACT_KEY}": {{"uri", "size_bytes", "sha256"}}}}'
                )
            return found

        return schema.no_info_plain_validator_function(
            parse, serialization=schema.plain_serializer_function_ser_schema(cls.to_json)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """JSON Schema of the reference."""
        text = {"type": "string"}
        parts = {"uri": text, "size_bytes": {"type": "integer", "minimum": 0}, "sha256": text, "content_type": text}
        reference = {"type": "object", "properties": parts, "required": ["uri", "size_bytes", "sha256"]}
        return {
            "type": "object",
            "description": "Reference to an artifact.",
            "properties": {ARTIFACT_KEY: reference},
            "required": [ARTIFACT_KEY],
        }


def iter_artifacts(value: Json) -> Iterator[Artifact]:
    """Every reference in a JSON value, in document order."""
    found = Artifact.from_json(value)
    if found is not None:
        yield found
    elif isinstance(value, dict):
        for part in value.values():
            yield from iter_artifacts(part)
    elif isinstance(value, list):
        for part in value:
            yield from iter_artifacts(part)
