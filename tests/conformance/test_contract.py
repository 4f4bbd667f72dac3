"""`agents/CONTRACT.md`, row by row, over the agents of every language, from outside."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

import grpc
import jsonschema
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2 as pb

ECHO = ("rust", "go", "python")
ALL = (*ECHO, "model-server")
ECHOING = pytest.mark.parametrize("kind", ECHO)
EVERY = pytest.mark.parametrize("kind", ALL)
EXECUTE = "/noa.agent.v1.AgentService/Execute"
CANCELLED = pb.CANCEL_OUTCOME_CANCELLED
ALREADY_FINISHED = pb.CANCEL_OUTCOME_ALREADY_FINISHED
UNKNOWN = pb.CANCEL_OUTCOME_UNKNOWN
LIMIT_BYTES = 4 << 20
UNKNOWN_FIELD = b"\xba\x3e\x03new"  # number 999, three bytes
LONG = Duration(seconds=60)


async def refused(call: Any) -> grpc.StatusCode:
    """The status that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code()


async def probe(client: Any, service: str = "") -> int:
    """What a stock probe sees, without a token."""
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)
    return int(answer.status)


# --- launch


@EVERY
async def test_another_protocol_ends_with_64_and_one_line_that_names_both(launch: Any) -> None:
    agent = launch(NOA_AGENT_PROTOCOL="7734")
    assert await agent.exit_status(20) == 64
    assert agent.output.count("\n") == 1
    assert "7734" in agent.output
    assert "1" in agent.output.replace("7734", "")


@EVERY
async def test_a_missing_or_empty_variable_ends_with_64_and_one_line_that_names_it(launch: Any) -> None:
    names = ("NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN", "NOA_AGENT_PROTOCOL")
    started = [(name, value, launch(**{name: value})) for name in names for value in (None, "")]
    for name, value, agent in started:
        assert await agent.exit_status(20) == 64, (name, value)
        assert name in agent.output, (name, value)
        assert agent.output.count("\n") == 1, (name, value)


@EVERY
async def test_end_of_stdin_ends_it_within_2_s(own: Any, kind: str) -> None:
    if kind in ECHO:
        await own.wait_status(pb.HEALTH_STATUS_SERVING)
        await own.begin(own.long())
    own.agent.close_stdin()
    await own.agent.exit_status(2)


@EVERY
async def test_sigterm_without_work_ends_with_0_and_sigint_does_nothing(own: Any) -> None:
    own.process.send_signal(signal.SIGINT)
    await own.health()
    own.process.send_signal(signal.SIGTERM)
    assert await own.agent.exit_status(5) == 0


@ECHOING
async def test_sigterm_drains(own: Any) -> None:
    await own.wait_status(pb.HEALTH_STATUS_SERVING)
    request = own.long()
    going = await own.begin(request)
    own.process.send_signal(signal.SIGTERM)
    await own.wait_status(pb.HEALTH_STATUS_DRAINING)
    assert await probe(own) == health_pb2.HealthCheckResponse.NOT_SERVING
    refusal = await own.failure(own.request())
    assert (refusal.code, refusal.retryable, refusal.HasField("retry_after")) == ("OVERLOADED", True, True)
    joined = await own.begin(request, joined=True)
    await own.cancel(execution_id=request.execution_id)
    for stream in (going, joined):
        assert (await own.terminal(stream)).failed.failure.code == "CANCELLED"
    assert await own.agent.exit_status(5) == 0


@ECHOING
async def test_a_second_sigterm_ends_it_at_once_with_143(own: Any) -> None:
    await own.wait_status(pb.HEALTH_STATUS_SERVING)
    await own.begin(own.long())
    own.process.send_signal(signal.SIGTERM)
    await own.wait_status(pb.HEALTH_STATUS_DRAINING)
    own.process.send_signal(signal.SIGTERM)
    assert await own.agent.exit_status(2) == 143


# --- every call


@EVERY
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "conformance"),)])
async def test_a_wrong_token_is_unauthenticated(client: Any, metadata: Any) -> None:
    for call in (
        client.stub.Health(pb.HealthRequest(), metadata=metadata),
        client.stub.Cancel(pb.CancelRequest(run_id="r"), metadata=metadata),
        client.stub.Execute(client.request(), metadata=metadata).read(),
    ):
        assert await refused(call) is grpc.StatusCode.UNAUTHENTICATED


@EVERY
async def test_health_serves_with_a_valid_manifest(client: Any, kind: str) -> None:
    health = await client.health()
    manifest = health.manifest
    assert health.status == pb.HEALTH_STATUS_SERVING
    assert all((manifest.name, manifest.language, manifest.version))
    assert 1 in manifest.protocol_versions
    names = [action.name for action in manifest.actions]
    assert len(names) == len(set(names)) > 0
    assert kind not in ECHO or "echo" in names
    for action in manifest.actions:
        for field in ("input_schema", "output_schema"):
            if action.HasField(field):
                schema = json_format.MessageToDict(getattr(action, field))
                jsonschema.Draft202012Validator.check_schema(schema)


@EVERY
async def test_stock_probes_agree_without_a_token(client: Any) -> None:
    for service in ("", "noa.agent.v1.AgentService"):
        assert await probe(client, service) == health_pb2.HealthCheckResponse.SERVING


@ECHOING
async def test_fields_that_are_not_known_are_ignored(client: Any) -> None:
    call = client.channel.unary_stream(EXECUTE, None, pb.ExecuteResponse.FromString)
    data = client.request(inline=b"{}").SerializeToString() + UNKNOWN_FIELD
    stream = call(data, metadata=client.metadata, timeout=20)
    assert (await stream.read()).WhichOneof("event") == "accepted"
    assert (await client.terminal(stream)).WhichOneof("event") == "completed"


@ECHOING
async def test_a_message_has_at_most_4_mib(client: Any) -> None:
    large = client.request(inline=b"{}", workflow="w" * (LIMIT_BYTES - 1024))
    assert large.ByteSize() < LIMIT_BYTES
    assert (await client.execute(large)).WhichOneof("event") == "completed"
    too_large = client.request(inline=b"{}", workflow="w" * LIMIT_BYTES)
    # gRPC libraries name this differently.
    limit = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
    assert await refused(client.open(too_large).read()) in limit
    await client.execute(client.request(inline=b"{}"))


# --- execute


@ECHOING
async def test_work_is_accepted_first_and_ends_with_one_terminal_message(client: Any) -> None:
    done = (await client.execute(client.request(inline=b'{"a": [1, "\xc3\xa9"], "b": null}'))).completed
    assert done.output.content_type in {"", "application/json"}
    assert json.loads(done.output.inline) == {"echo": {"a": [1, "é"], "b": None}}
    asked = {"fail": {"code": "NO_SPACE", "message": "the disk is full", "retryable": True}}
    failure = await client.failure(client.request(inline=json.dumps(asked).encode()))
    assert (failure.code, failure.message, failure.retryable) == ("NO_SPACE", "the disk is full", True)


@ECHOING
async def test_an_input_that_is_unset_is_an_empty_object(client: Any) -> None:
    assert json.loads((await client.execute(client.request())).completed.output.inline) == {"echo": {}}


@ECHOING
async def test_the_same_execution_joins_and_then_repeats_its_result(client: Any) -> None:
    request = client.request(inline=b'{"sleep_s": 0.3}')
    one = await client.begin(request)
    two = await client.begin(request, joined=True)
    terminals = [await client.terminal(one), await client.terminal(two), await client.execute(request, joined=True)]
    assert terminals[0].WhichOneof("event") == "completed"
    assert terminals[0] == terminals[1] == terminals[2], "with its wall time: the work was done once"


@ECHOING
async def test_a_client_that_hangs_up_can_join_again(client: Any) -> None:
    request = client.long()
    stream = await client.begin(request)
    stream.cancel()
    again = await client.begin(request, joined=True)
    assert await client.cancel(execution_id=request.execution_id) == (CANCELLED, 1), "the work went on"
    assert (await client.terminal(again)).failed.failure.code == "CANCELLED"


@ECHOING
async def test_heartbeats_come_when_there_is_nothing_else_to_say(client: Any) -> None:
    request = client.long()
    request.heartbeat_interval.FromMilliseconds(50)
    stream = await client.begin(request)
    assert [(await stream.read()).WhichOneof("event") for _ in range(3)] == ["heartbeat"] * 3
    await client.cancel(run_id=client.run_id)


@ECHOING
async def test_names_are_required_and_an_execution_id_has_at_most_512_bytes(client: Any) -> None:
    for field in ("execution_id", "run_id", "action"):
        assert await refused(client.open(client.request(**{field: ""})).read()) is grpc.StatusCode.INVALID_ARGUMENT
    for long in ("x" * 513, "é" * 257):
        status = await refused(client.open(client.request(execution_id=long)).read())
        assert status is grpc.StatusCode.INVALID_ARGUMENT
    longest = f"{client.run_id}:".ljust(512, "x")
    assert (await client.execute(client.request(execution_id=longest))).WhichOneof("event") == "completed"


@ECHOING
async def test_an_unknown_action_fails_and_names_the_known_ones(client: Any) -> None:
    failure = await client.failure(client.request(action="ecoh"))
    assert (failure.code, failure.retryable) == ("UNKNOWN_ACTION", False)
    assert "echo" in failure.message


@ECHOING
@pytest.mark.parametrize("inline", [b"{", b"[1]", b'{"a": "\xff"}', b'{"sleep_s": "long"}'])
async def test_a_wrong_input_is_invalid(client: Any, inline: bytes) -> None:
    failure = await client.failure(client.request(inline=inline))
    assert (failure.code, failure.retryable) == ("INVALID_INPUT", False)
    if b"sleep_s" in inline:
        assert "sleep_s" in failure.message


@ECHOING
@pytest.mark.parametrize("left_ms", [300, -1000])
async def test_a_deadline_ends_the_work(client: Any, left_ms: int) -> None:
    request = client.long()
    request.deadline.FromMilliseconds(time.time_ns() // 1_000_000 + left_ms)
    began_s = time.monotonic()
    failure = await client.failure(request)
    assert (failure.code, failure.retryable) == ("DEADLINE_EXCEEDED", True)
    assert time.monotonic() - began_s < 5
    assert await client.cancel(execution_id=request.execution_id) == (ALREADY_FINISHED, 0)


# --- cancel


@ECHOING
async def test_cancel_while_it_goes_on_and_again(client: Any) -> None:
    request = client.long()
    stream = await client.begin(request)
    assert await client.cancel(execution_id=request.execution_id, grace=LONG, reason="why") == (CANCELLED, 1)
    # Whether it has ended by then is the agent's own affair; nothing is told a second time.
    assert await client.cancel(execution_id=request.execution_id) in {(CANCELLED, 0), (ALREADY_FINISHED, 0)}
    failure = (await client.terminal(stream)).failed.failure
    assert failure.code == "CANCELLED"
    assert await client.cancel(execution_id=request.execution_id) == (ALREADY_FINISHED, 0)
    assert (await client.execute(request, joined=True)).failed.failure == failure


@ECHOING
async def test_cancel_after_the_end_changes_nothing(client: Any) -> None:
    request = client.request()
    terminal = await client.execute(request)
    assert await client.cancel(execution_id=request.execution_id) == (ALREADY_FINISHED, 0)
    assert await client.execute(request, joined=True) == terminal


@ECHOING
async def test_cancel_of_what_was_never_seen_does_not_stop_it_later(client: Any) -> None:
    request = client.request()
    assert await client.cancel(execution_id=request.execution_id) == (UNKNOWN, 0)
    assert (await client.execute(request)).WhichOneof("event") == "completed"


@ECHOING
async def test_cancel_of_a_run(client: Any) -> None:
    assert await client.cancel(run_id=client.run_id) == (UNKNOWN, 0)
    streams = [await client.begin(client.long()) for _ in range(2)]
    other = client.long(run_id=f"{client.run_id}-other")
    going = await client.begin(other)
    assert await client.cancel(run_id=client.run_id) == (CANCELLED, 2)
    for stream in streams:
        assert (await client.terminal(stream)).failed.failure.code == "CANCELLED"
    assert await client.cancel(run_id=client.run_id) == (UNKNOWN, 0)
    assert await client.cancel(run_id=other.run_id) == (CANCELLED, 1), "another run goes on"
    assert (await client.terminal(going)).failed.failure.code == "CANCELLED"


@ECHOING
async def test_a_grace_of_zero_is_zero(client: Any) -> None:
    request = client.long()
    stream = await client.begin(request)
    began_s = time.monotonic()
    assert await client.cancel(run_id=client.run_id, grace=Duration()) == (CANCELLED, 1)
    assert (await client.terminal(stream)).failed.failure.code == "CANCELLED"
    assert time.monotonic() - began_s < 4


@ECHOING
async def test_cancels_at_once_count_an_execution_once(client: Any) -> None:
    request = client.long()
    stream = await client.begin(request)
    targets = [{"execution_id": request.execution_id}, {"run_id": client.run_id}] * 3
    answers = await asyncio.gather(*(client.cancel(**target) for target in targets))
    assert sum(count for _, count in answers) == 1, answers
    assert (await client.terminal(stream)).failed.failure.code == "CANCELLED"


@ECHOING
async def test_cancel_without_a_target_is_an_invalid_argument(client: Any) -> None:
    for target in ({}, {"run_id": ""}, {"execution_id": ""}):
        assert await refused(client.cancel(**target)) is grpc.StatusCode.INVALID_ARGUMENT
