"""The contract's messages to the model and back, and gRPC's errors to ours. No I/O but the artifact store's."""

from __future__ import annotations

import asyncio
import math
import re
import time
from typing import Any

import grpc
import msgspec
from google.protobuf import struct_pb2

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import failure_pb2, payload_pb2
from noa.errors import AgentLostError, AgentProtocolError, AgentUnauthenticatedError, NoaError, SecretError
from noa.model.execution import Assignment, Log, Observation, OutputChunk, Progress, Succeeded
from noa.model.failure import Failure
from noa.model.payload import INLINE_LIMIT_BYTES, Artifact
from noa.plugin import ActionInfo, AgentHealth, ArtifactStore

__all__ = [
    "MESSAGE_LIMIT_BYTES",
    "PROTOCOL_VERSION",
    "from_completed",
    "from_failure",
    "from_health",
    "from_output",
    "from_log",
    "from_payload",
    "from_progress",
    "from_status",
    "from_struct",
    "to_failure",
    "to_payload",
    "to_request",
    "to_struct",
]

PROTOCOL_VERSION = 1
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
"""Of a message, in both directions."""

_CAUSE_DEPTH = 8
_TEXT_LIMIT = 16 * 1024
_PROGRESS_LIMIT = 1024
"""Characters of a text that the engine passes on; the contract's limits are in bytes."""

_JSON = "application/json"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_LEVELS = {1: "debug", 2: "info", 3: "warning", 4: "error"}
_SIZES = re.compile(r"\((\d+) vs\.? (\d+)\)")

# --- requests ----------------------------------------------------------------------------------------------------


async def to_request(assignment: Assignment, artifacts: ArtifactStore) -> pb.ExecuteRequest:
    """What an agent is asked. Inputs above 256 KiB are put into the artifact store.

    Raises:
        ArtifactError: The store could not take them.
        SecretError: They hold a secret and are too large for a message.
    """
    request = pb.ExecuteRequest(
        execution_id=assignment.execution_id,
        idempotency_key=assignment.idempotency_key,
        run_id=assignment.run_id,
        workflow=assignment.workflow,
        stage=assignment.stage,
        task=assignment.task,
        attempt=assignment.attempt,
        action=assignment.action,
        artifact_prefix=artifacts.prefix,
        output_prefix=assignment.output_uri,
    )
    if assignment.inputs:
        data = _encode(assignment.inputs)
        if len(data) <= INLINE_LIMIT_BYTES:
            request.input.inline = data
        elif assignment.confidential:
            raise SecretError(
                f"the inputs of task '{assignment.task}' have {len(data):,} bytes and hold a secret: above "
                f"{INLINE_LIMIT_BYTES:,} bytes they would be written to the artifact store. Let another task "
                "make an artifact of what is large, or take the secret by the agent's env"
            )
        else:
            request.input.CopyFrom(await to_payload(data, artifacts))
    limits = assignment.timeouts
    if limits.execution_ms is not None:
        request.deadline.FromMilliseconds(time.time_ns() // 1_000_000 + limits.execution_ms)
    if limits.heartbeat_ms is not None:
        request.heartbeat_interval.FromMilliseconds(max(1, min(5_000, limits.heartbeat_ms // 3)))
    return request


async def to_payload(data: bytes, artifacts: ArtifactStore, content_type: str = _JSON) -> payload_pb2.Payload:
    """Bytes as a payload: inside the message up to 256 KiB, else by reference.

    Raises:
        ArtifactError: The store could not take them.
    """
    if len(data) <= INLINE_LIMIT_BYTES:
        return payload_pb2.Payload(content_type=content_type, inline=data)
    stored = await asyncio.to_thread(artifacts.put, data, content_type)
    return payload_pb2.Payload(
        content_type=content_type,
        artifact=payload_pb2.Artifact(
            uri=stored.uri, size_bytes=stored.size_bytes, sha256=stored.sha256, content_type=stored.content_type
        ),
    )


# --- results -----------------------------------------------------------------------------------------------------


async def from_completed(message: pb.Completed, artifacts: ArtifactStore, what: str) -> Succeeded:
    """The result of an execution.

    Args:
        message: From the stream.
        artifacts: Where an output by reference lies.
        what: Who answered what, for errors, such as "agent 'rust', action 'echo'".

    Raises:
        AgentProtocolError: The output is not a JSON object, or is larger than a message may carry inline.
        ArtifactError: The output's artifact is missing or damaged.
    """
    outputs = await from_payload(message.output, artifacts, what) if message.HasField("output") else {}
    return Succeeded(outputs, _metrics(message.metrics) if message.HasField("metrics") else {})


async def from_payload(payload: payload_pb2.Payload, artifacts: ArtifactStore, what: str) -> dict[str, Any]:
    """The JSON object that a payload is; unset is `{}`. Raises as `from_completed`."""
    kind = payload.WhichOneof("value")
    if kind is None:
        return {}
    if kind == "inline":
        data = payload.inline
        if len(data) > INLINE_LIMIT_BYTES:
            raise AgentProtocolError(
                f"{what}: the output has {len(data):,} bytes inline; an inline payload has at most "
                f"{INLINE_LIMIT_BYTES:,}. The agent must write it below artifact_prefix and answer with an artifact "
                "(agents/CONTRACT.md, Artifacts)",
                size_bytes=len(data),
                limit_bytes=INLINE_LIMIT_BYTES,
            )
    else:
        reference = payload.artifact
        data = await asyncio.to_thread(
            artifacts.get,
            Artifact(reference.uri, reference.size_bytes, reference.sha256, reference.content_type or _JSON),
        )
    if payload.content_type and payload.content_type.partition(";")[0].strip().lower() != _JSON:
        raise AgentProtocolError(
            f"{what}: the output has the content type '{payload.content_type}'; expected {_JSON}. Put other content "
            "into an artifact and its reference into a field"
        )
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        start = data[:40].decode("utf-8", "replace")
        raise AgentProtocolError(f"{what}: the output is not JSON: {error}; it begins with {start!r}") from error
    except RecursionError as error:
        raise AgentProtocolError(f"{what}: the output is nested too deeply to be read: flatten it") from error
    if not isinstance(value, dict):
        raise AgentProtocolError(f"{what}: the output must be a JSON object; it is {_json_kind(value)}")
    return value


def _json_kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _metrics(message: pb.Metrics) -> dict[str, float]:
    # JSON has no NaN and no infinity.
    found = {name: value for name, value in message.values.items() if math.isfinite(value)}
    if message.HasField("wall_time"):
        found["wall_time_s"] = message.wall_time.ToMicroseconds() / 1e6
    if message.HasField("cpu_time"):
        found["cpu_time_s"] = message.cpu_time.ToMicroseconds() / 1e6
    if message.peak_memory_bytes:
        found["peak_memory_bytes"] = float(message.peak_memory_bytes)
    return found


# --- failures ----------------------------------------------------------------------------------------------------


def from_failure(message: failure_pb2.Failure, agent: str) -> Failure:
    """A failure that an agent told; causes beyond eight levels are cut."""
    return _from_failure(message, agent, _CAUSE_DEPTH)


def _from_failure(message: failure_pb2.Failure, agent: str, depth: int) -> Failure:
    deeper = message.HasField("cause") and depth > 1
    return Failure(
        code=message.code or "INTERNAL",
        message=_cut(message.message) or f"agent '{agent}' failed and did not say why",
        retryable=message.retryable,
        retry_after_ms=message.retry_after.ToMilliseconds() if message.HasField("retry_after") else None,
        details=from_struct(message.details) if message.HasField("details") else {},
        cause=_from_failure(message.cause, agent, depth - 1) if deeper else None,
        source=agent,
    )


def to_failure(failure: Failure) -> failure_pb2.Failure:
    """A failure as the contract says it; causes beyond eight levels are cut."""
    return _to_failure(failure, _CAUSE_DEPTH)


def _to_failure(failure: Failure, depth: int) -> failure_pb2.Failure:
    message = failure_pb2.Failure(code=failure.code, message=failure.message, retryable=failure.retryable)
    if failure.retry_after_ms is not None:
        message.retry_after.FromMilliseconds(failure.retry_after_ms)
    if failure.details:
        message.details.CopyFrom(to_struct(failure.details))
    if failure.cause is not None and depth > 1:
        message.cause.CopyFrom(_to_failure(failure.cause, depth - 1))
    return message


# --- observations ------------------------------------------------------------------------------------------------


def from_progress(message: pb.Progress) -> Progress:
    """How far the work is."""
    return Progress(
        fraction=message.fraction if message.HasField("fraction") else None,
        message=_cut(message.message, _PROGRESS_LIMIT),
        done=message.done if message.HasField("done") else None,
        total=message.total if message.HasField("total") else None,
        unit=message.unit,
    )


def from_log(message: pb.Log) -> Observation:
    """A line of an agent."""
    at_ms = message.time.ToMilliseconds() if message.HasField("time") else time.time_ns() // 1_000_000
    return Log(_LEVELS.get(message.level, "info"), _cut(message.message), at_ms)  # type: ignore[arg-type]


def _cut(text: str, limit: int = _TEXT_LIMIT) -> str:
    """A text of an agent, cut where it is longer than the contract lets it be."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters, cut)"


def from_output(message: pb.OutputChunk) -> OutputChunk:
    """A piece of output as text."""
    return OutputChunk(message.data.decode("utf-8", "replace"), message.content_type or "text/plain")


# --- health ------------------------------------------------------------------------------------------------------

_STATUS = {1: "starting", 2: "serving", 3: "draining", 4: "not_serving"}


def from_health(message: pb.HealthResponse) -> AgentHealth:
    """Who an agent is; a status that is not known is read as not_serving."""
    who = message.manifest
    return AgentHealth(
        status=_STATUS.get(message.status, "not_serving"),  # type: ignore[arg-type]
        name=who.name,
        language=who.language,
        version=who.version,
        message=message.message,
        protocol_versions=tuple(who.protocol_versions),
        actions=tuple(
            ActionInfo(
                action.name,
                action.description,
                from_struct(action.input_schema),
                from_struct(action.output_schema),
                action.idempotent,
            )
            for action in who.actions
        ),
        capacity=message.capacity,
        in_flight=message.in_flight,
    )


# --- JSON objects ------------------------------------------------------------------------------------------------


def from_struct(message: struct_pb2.Struct) -> dict[str, Any]:
    """A JSON object; whole numbers come back as int."""
    return {key: _from_value(value) for key, value in message.fields.items()}


def _from_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return [_from_value(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def to_struct(value: dict[str, Any]) -> struct_pb2.Struct:
    """The inverse of `from_struct`; what is not JSON becomes text."""
    message = struct_pb2.Struct()
    message.update(msgspec.to_builtins(value, str_keys=True, enc_hook=str))
    return message


# --- gRPC's errors -----------------------------------------------------------------------------------------------

_LOST = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
)
_REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def from_status(code: grpc.StatusCode, details: str | None, what: str, *, accepted: bool = False) -> NoaError | Failure:
    """What a gRPC status means: an error where the call or the agent is at fault, a failure where the payload is.

    Args:
        code: Any status.
        details: Its text.
        what: Who was asked what, such as "agent 'rust', action 'echo'".
        accepted: Whether the agent had accepted the execution: from then on it can no longer refuse it as overloaded.
    """
    text = f"{code.name}: {details}" if details else code.name
    if code in _LOST:
        return AgentLostError(f"{what}: the connection broke ({text})", status=code.name)
    if code in _REFUSED:
        return AgentUnauthenticatedError(
            f"{what}: the agent refuses the token ({text}). A sidecar must compare with NOA_AGENT_TOKEN; for a remote "
            "agent check its token: `token` of a definition's agent, or options.token_env or options.token_file",
            status=code.name,
        )
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not (accepted and "larger than max" not in (details or "")):
        return _exhausted(details or "", text, what)
    if code is grpc.StatusCode.OK:
        return AgentProtocolError(f"{what}: the stream ended without `completed` or `failed`", status=code.name)
    return AgentProtocolError(
        f"{what}: the call failed with {text}, which the contract does not allow", status=code.name
    )


def _exhausted(details: str, text: str, what: str) -> Failure:
    if "larger than max" not in details:
        return Failure("OVERLOADED", f"{what}: the agent is overloaded ({text})", retryable=True)
    found = _SIZES.search(details)
    size, limit = (int(found[1]), int(found[2])) if found else (None, MESSAGE_LIMIT_BYTES)
    amount = f"of {size:,} bytes " if size is not None else ""
    return Failure(
        "PAYLOAD_TOO_LARGE",
        f"{what}: a message {amount}is larger than the limit of {limit:,} bytes. Values above "
        f"{INLINE_LIMIT_BYTES:,} bytes must be artifacts (agents/CONTRACT.md, Artifacts)",
        details={"limit_bytes": limit, **({"size_bytes": size} if size is not None else {})},
    )
