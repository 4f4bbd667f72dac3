"""Keeps what tasks give small enough for the journal: large fields go to the artifact store."""

from __future__ import annotations

from typing import Any

import msgspec

from noa.model.execution import Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.payload import ARTIFACT_KEY, INLINE_LIMIT_BYTES, KEPT_VALUE, Artifact
from noa.plugin import ArtifactStore

__all__ = ["OutputKeeper"]

_SMALL_BYTES = 4096

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class OutputKeeper:
    """Turns what an agent gave into what the journal keeps.

    Outputs above 256 KiB keep their small fields; each field above 4 KiB becomes an artifact of the type KEPT_VALUE,
    which is put back in its place before an agent gets it.
    """

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts

    def keep(self, outcome: Succeeded, task: TaskPath) -> Outcome:
        """The outcome with outputs of at most 256 KiB, or a Failure that says why that cannot be.

        Raises:
            ArtifactError: A large field cannot be stored.
        """
        try:
            data = _encode(outcome.outputs)
        except (TypeError, ValueError, RecursionError) as error:
            return Failure("INVALID_OUTPUT", f"task '{task}' gave outputs that are not JSON: {error}")
        if len(data) > INLINE_LIMIT_BYTES and isinstance(outcome.outputs, dict):
            return Succeeded(self._spill(outcome.outputs), outcome.metrics)
        return outcome

    def whole(self, value: Any) -> Any:
        """Inputs with what was kept by reference back in its place; the same object where nothing was.

        Raises:
            ArtifactError: A value is missing or damaged.
        """
        if type(value) is dict:
            if ARTIFACT_KEY in value:
                artifact = Artifact.from_json(value)
                kept = artifact is not None and artifact.content_type == KEPT_VALUE
                return _decode(self._artifacts.get(artifact)) if artifact is not None and kept else value
            made = {name: self.whole(part) for name, part in value.items()}
            return value if all(made[name] is value[name] for name in value) else made
        if type(value) is list:
            parts = [self.whole(part) for part in value]
            return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
        return value

    def _spill(self, outputs: dict[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, value in outputs.items():
            data = _encode(value)
            if len(data) > _SMALL_BYTES and not (isinstance(value, dict) and ARTIFACT_KEY in value):
                kept[name] = self._artifacts.put(data, KEPT_VALUE).to_json()
            else:
                kept[name] = _decode(data)
        return kept
