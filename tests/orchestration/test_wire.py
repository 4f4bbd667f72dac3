"""The contract's messages and the model, both ways; gRPC's errors and ours."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1.payload_pb2 import Payload
from noa.errors import AgentProtocolError, NoaError
from noa.model.failure import Failure
from noa.model.plan import Timeouts
from noa.orchestration.wire import (
    from_completed,
    from_failure,
    from_payload,
    from_status,
    from_struct,
    to_failure,
    to_payload,
    to_request,
    to_struct,
)

KNOWN = {"AGENT_LOST", "AGENT_UNAUTHENTICATED", "AGENT_PROTOCOL_ERROR", "PAYLOAD_TOO_LARGE", "OVERLOADED"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_grpc_status_has_a_meaning(code: grpc.StatusCode) -> None:
    meaning = from_status(code, "details", "agent 'a'")
    assert isinstance(meaning, NoaError | Failure)
    assert meaning.code in KNOWN
    assert "agent 'a'" in meaning.message


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_json_objects_survive_the_wire(value: dict[str, Any]) -> None:
    assert from_struct(to_struct(value)) == value


def test_failures_survive_the_wire_with_their_causes() -> None:
    cause = Failure("DISK_FULL", "no space", details={"free": 0}, source="rust")
    failure = Failure("FAILED", "it failed", retryable=True, retry_after_ms=1500, cause=cause, source="rust")
    assert from_failure(to_failure(failure), "rust") == failure


def test_causes_deeper_than_eight_are_cut() -> None:
    failure = Failure("F0", "m")
    for number in range(1, 20):
        failure = Failure(f"F{number}", "m", cause=failure)
    depth, told = 0, from_failure(to_failure(failure), "a")
    while told is not None:
        depth, told = depth + 1, told.cause
    assert depth == 8


async def test_request_carries_limits_and_prefixes(bench: Any) -> None:
    task = bench.task("a", "b", timeouts=Timeouts(execution_ms=1000, heartbeat_ms=900), output_uri="file:///out/")
    request = await to_request(task, bench.artifacts)
    assert request.heartbeat_interval.ToMilliseconds() == 300
    assert request.HasField("deadline")
    assert not request.HasField("input")
    assert (request.artifact_prefix, request.output_prefix) == (bench.artifacts.prefix, "file:///out/")


@pytest.mark.parametrize("size", [10, 300_000])
async def test_payloads_go_inline_or_by_reference_and_come_back(bench: Any, size: int) -> None:
    payload = await to_payload(b'{"x": "' + b"y" * size + b'"}', bench.artifacts)
    assert payload.WhichOneof("value") == ("inline" if size < 1000 else "artifact")
    assert await from_payload(payload, bench.artifacts, "agent") == {"x": "y" * size}


async def test_other_content_than_json_is_a_protocol_error(bench: Any) -> None:
    with pytest.raises(AgentProtocolError, match="content type 'text/csv'"):
        await from_payload(Payload(content_type="text/csv", inline=b"a,b"), bench.artifacts, "agent 'a'")


async def test_metrics_come_out_in_seconds_and_bytes(bench: Any) -> None:
    message = pb.Completed(metrics=pb.Metrics(peak_memory_bytes=5, values={"rate": 2.0}))
    message.metrics.wall_time.FromMilliseconds(1500)
    message.metrics.cpu_time.FromMilliseconds(250)
    outcome = await from_completed(message, bench.artifacts, "agent")
    assert outcome.metrics == {"rate": 2.0, "wall_time_s": 1.5, "cpu_time_s": 0.25, "peak_memory_bytes": 5.0}
