"""Keeps secrets out of what comes back from agents: outcomes, and what is seen on the way."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from noa.engine.ports import Secrets
from noa.model.execution import Log, Observation, Outcome, OutputChunk, Progress, Succeeded
from noa.model.failure import Failure

__all__ = ["MaskedView", "masked_outcome"]


def masked_outcome(outcome: Outcome, secrets: Secrets) -> Outcome:
    """What an agent gave without the secrets that it was given."""
    if isinstance(outcome, Succeeded):
        outputs = secrets.mask_json(outcome.outputs)
        return outcome if outputs is outcome.outputs else Succeeded(outputs, secrets.mask_json(outcome.metrics))
    if isinstance(outcome, Failure):
        return _masked_failure(outcome, secrets)
    return outcome  # what is no outcome at all is told by its type only


def _masked_failure(failure: Failure, secrets: Secrets) -> Failure:
    details = secrets.mask_json(failure.details)
    message = secrets.mask(failure.message)
    cause = None if failure.cause is None else _masked_failure(failure.cause, secrets)
    if details is failure.details and message == failure.message and cause == failure.cause:
        return failure
    return msgspec.structs.replace(failure, message=message, details=details, cause=cause)


class MaskedView:
    """Passes on what is seen of one attempt, without secrets.

    Output comes in pieces, and a secret may lie across two of them: an end that may be the beginning of one is kept
    back until the next piece, or until `flush`.
    """

    __slots__ = ("_held", "_secrets", "_tell")

    def __init__(self, secrets: Secrets, tell: Callable[[Observation], None]) -> None:
        self._secrets = secrets
        self._tell = tell
        self._held: OutputChunk | None = None

    def __call__(self, observation: Observation) -> None:
        """Take what was seen."""
        if isinstance(observation, OutputChunk):
            self._piece(observation)
        elif isinstance(observation, Log | Progress):
            message = self._secrets.mask(observation.message)
            same = message is observation.message
            self._tell(observation if same else msgspec.structs.replace(observation, message=message))
        else:
            self._tell(observation)

    def flush(self) -> None:
        """Pass on what was kept back."""
        held, self._held = self._held, None
        if held is not None:
            self._tell(OutputChunk(self._secrets.mask(held.text), held.content_type))

    def _piece(self, chunk: OutputChunk) -> None:
        if self._held is not None and self._held.content_type != chunk.content_type:
            self.flush()
        held, self._held = self._held, None
        text, rest = self._secrets.mask_piece(chunk.text if held is None else held.text + chunk.text)
        if rest:
            self._held = OutputChunk(rest, chunk.content_type)
        if text or not rest:
            same = held is None and text is chunk.text
            self._tell(chunk if same else OutputChunk(text, chunk.content_type))
