"""The messages that the reference agent sends, and the failures that its work ends with."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1.failure_pb2 import Failure
from noa.agent.v1.payload_pb2 import Payload

__all__ = ["WorkFailed", "accepted", "completed", "failed", "heartbeat", "is_terminal", "seconds"]

MESSAGE_LIMIT = 16 << 10  # bytes of a failure's message


class WorkFailed(Exception):
    """Work that failed in a way that it declares.

    Args:
        code: In UPPER_SNAKE_CASE.
        message: For a person.
        retryable: Whether another attempt may succeed.
        retry_after_s: Seconds to wait before another attempt; None says nothing.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


def accepted(joined: bool) -> pb.ExecuteResponse:
    """The first message of every stream."""
    return pb.ExecuteResponse(accepted=pb.Accepted(joined=joined))


def heartbeat() -> pb.ExecuteResponse:
    """Nothing else to say."""
    return pb.ExecuteResponse(heartbeat=pb.Heartbeat())


def completed(output: Payload, metrics: pb.Metrics) -> pb.ExecuteResponse:
    """Terminal: the work is done."""
    return pb.ExecuteResponse(completed=pb.Completed(output=output, metrics=metrics))


def failed(failure: WorkFailed) -> pb.ExecuteResponse:
    """Terminal: the work has failed. A message above 16 KiB is cut."""
    message = failure.message.encode()[:MESSAGE_LIMIT].decode(errors="ignore")
    answer = Failure(code=failure.code, message=message, retryable=failure.retryable)
    if failure.retry_after_s is not None:
        answer.retry_after.CopyFrom(duration(failure.retry_after_s))
    return pb.ExecuteResponse(failed=pb.Failed(failure=answer))


def is_terminal(message: pb.ExecuteResponse) -> bool:
    """Whether nothing comes after this."""
    return message.WhichOneof("event") in {"completed", "failed"}


def duration(value_s: float) -> Duration:
    """Seconds as the contract writes them."""
    made = Duration()
    made.FromNanoseconds(round(value_s * 1e9))
    return made


def seconds(message: Any, field: str, default: float) -> float:
    """A duration or a time of `message` in seconds; `default` where it is unset."""
    if not message.HasField(field):
        return default
    value = getattr(message, field)
    return float(value.seconds + value.nanos / 1e9)
