"""Between the messages of the contract and noa's own data. Nothing here waits or decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import failure_pb2, payload_pb2
from noa.model.execution import Assignment, Log, Observation, OutputChunk, Progress
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.model.payload import Artifact
from noa.plugin import AgentHealth

__all__ = ["PROTOCOL", "assignment_of", "chunks_of", "failed", "manifest_of", "observed"]

PROTOCOL = 1
"""Version of the contract that this SDK speaks."""

_LOG_BYTES = 16 * 1024
_PROGRESS_BYTES = 1024
_CHUNK_BYTES = 256 * 1024
_DETAILS_BYTES = 64 * 1024
_CAUSES = 8
_LEVELS: Mapping[str, pb.LogLevel.ValueType] = {
    "debug": pb.LOG_LEVEL_DEBUG,
    "info": pb.LOG_LEVEL_INFO,
    "warning": pb.LOG_LEVEL_WARNING,
    "error": pb.LOG_LEVEL_ERROR,
}


def manifest_of(health: AgentHealth) -> pb.Manifest:
    """Who an agent is."""
    return pb.Manifest(
        name=health.name,
        language=health.language,
        version=health.version,
        protocol_versions=[PROTOCOL],
        actions=[
            pb.Action(
                name=action.name,
                description=action.description,
                input_schema=_struct(action.input_schema) if action.input_schema else None,
                output_schema=_struct(action.output_schema) if action.output_schema else None,
                idempotent=action.idempotent,
            )
            for action in health.actions
        ],
    )


def assignment_of(request: pb.ExecuteRequest, agent: str, inputs: dict[str, Any]) -> Assignment:
    """What is asked, with the inputs as they were decoded."""
    return Assignment(
        execution_id=ExecutionId(request.execution_id),
        idempotency_key=request.idempotency_key,
        run_id=RunId(request.run_id),
        workflow=request.workflow,
        stage=request.stage,
        task=TaskPath(request.task),
        attempt=request.attempt,
        agent=agent,
        action=request.action,
        inputs=inputs,
        output_uri=request.output_prefix,
    )


def artifact_of(message: payload_pb2.Artifact) -> Artifact:
    """A reference."""
    return Artifact(message.uri, message.size_bytes, message.sha256, message.content_type or "application/octet-stream")


def payload_of(artifact: Artifact) -> payload_pb2.Payload:
    """A JSON payload that lies in the store."""
    reference = payload_pb2.Artifact(
        uri=artifact.uri, size_bytes=artifact.size_bytes, sha256=artifact.sha256, content_type=artifact.content_type
    )
    return payload_pb2.Payload(content_type="application/json", artifact=reference)


def observed(observation: Observation) -> list[pb.ExecuteResponse]:
    """An observation as messages, each within the contract's limits; stages and waits are the engine's own."""
    if isinstance(observation, Progress):
        return [pb.ExecuteResponse(progress=_progress(observation))]
    if isinstance(observation, Log):
        entry = pb.Log(level=_LEVELS[observation.level], message=_clip(observation.message, _LOG_BYTES))
        if observation.at_ms:
            entry.time.FromMilliseconds(observation.at_ms)
        return [pb.ExecuteResponse(log=entry)]
    if isinstance(observation, OutputChunk):
        content_type = "" if observation.content_type == "text/plain" else observation.content_type
        return [
            pb.ExecuteResponse(output=pb.OutputChunk(content_type=content_type, data=part))
            for part in chunks_of(observation.text)
        ]
    return []


def chunks_of(text: str) -> list[bytes]:
    """UTF-8 in pieces of at most 256 KiB that do not cut a character."""
    data = text.encode()
    parts = []
    while len(data) > _CHUNK_BYTES:
        end = _CHUNK_BYTES
        while data[end] & 0xC0 == 0x80:
            end -= 1
        parts.append(data[:end])
        data = data[end:]
    return [*parts, data]


def failed(failure: Failure) -> pb.ExecuteResponse:
    """The terminal message for work that failed."""
    return pb.ExecuteResponse(failed=pb.Failed(failure=_failure(failure, _CAUSES)))


def _progress(progress: Progress) -> pb.Progress:
    message = pb.Progress(message=_clip(progress.message, _PROGRESS_BYTES), unit=progress.unit)
    if progress.fraction is not None:
        message.fraction = progress.fraction
    if progress.done is not None:
        message.done = max(0, progress.done)
    if progress.total is not None:
        message.total = max(0, progress.total)
    return message


def _failure(failure: Failure, causes: int) -> failure_pb2.Failure:
    message = failure_pb2.Failure(
        code=failure.code, message=_clip(failure.message, _LOG_BYTES), retryable=failure.retryable
    )
    if failure.retry_after_ms is not None:
        message.retry_after.FromMilliseconds(failure.retry_after_ms)
    if failure.details:
        message.details.CopyFrom(_details(failure.details))
    if failure.cause is not None and causes > 1:
        message.cause.CopyFrom(_failure(failure.cause, causes - 1))
    return message


def _details(details: dict[str, Any]) -> Struct:
    try:
        data = msgspec.json.encode(details)
        if len(data) > _DETAILS_BYTES:
            return _struct({"dropped": f"details of {len(data)} bytes, more than {_DETAILS_BYTES}"})
        return _struct(msgspec.json.decode(data))
    except (TypeError, ValueError, ParseError) as error:
        return _struct({"dropped": f"details are not JSON: {error}"})


def _struct(value: Mapping[str, Any]) -> Struct:
    return ParseDict(_finite(value), Struct())


def _finite(value: Any) -> Any:
    # A Struct holds doubles only: infinite ones are refused by its parser.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _clip(text: str, limit_bytes: int) -> str:
    if len(text) * 4 <= limit_bytes:
        return text
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    return data[: limit_bytes - 4].decode(errors="ignore") + "…"
