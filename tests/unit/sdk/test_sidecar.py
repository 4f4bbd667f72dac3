"""The contract as a client sees it: a real process, a real socket, every row of the tables that the SDK answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc, payload_pb2

TOKEN = (("authorization", "Bearer secret"),)
LIMIT = 4 * 1024 * 1024
LONG = duration_pb2.Duration(seconds=60)


class Sidecar:
    """A sidecar process and a client of it."""

    def __init__(self, reference: str, folder: Path, **env: str) -> None:
        self.folder = folder
        self.listen = f"unix:{folder}/agent.sock"
        given = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parent),
            "NOA_AGENT_LISTEN": self.listen,
            "NOA_AGENT_TOKEN": "secret",
            "NOA_AGENT_PROTOCOL": "1",
        } | env
        self.process = subprocess.Popen(
            [sys.executable, "-m", "noa.sdk", reference],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={key: value for key, value in given.items() if value},
            cwd=folder,
        )
        self.number = 0

    async def __aenter__(self) -> Sidecar:
        options = (("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT))
        self.channel = grpc.aio.insecure_channel(self.listen, options=options)
        self.stub: Any = agent_service_pb2_grpc.AgentServiceStub(self.channel)
        await self.health(wait=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        self.kill()

    def kill(self) -> None:
        """End it as an engine that dies would, so that it ends what it started."""
        assert self.process.stdin is not None
        assert self.process.stderr is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()

    async def health(self, *, wait: bool = False) -> Any:
        return await self.stub.Health(pb.HealthRequest(), metadata=TOKEN, timeout=20, wait_for_ready=wait)

    def request(self, action: str, inputs: Any = None, **fields: Any) -> pb.ExecuteRequest:
        self.number += 1
        request = pb.ExecuteRequest(
            execution_id=f"r:s/t:{self.number}",
            idempotency_key="k",
            run_id="r",
            task="s/t",
            attempt=1,
            action=action,
            artifact_prefix=f"file://{self.folder}/store/",
            output_prefix=f"file://{self.folder}/out/",
        )
        if inputs is not None:
            request.input.inline = json.dumps(inputs).encode()
        for key, value in fields.items():
            setattr(request, key, value)
        return request

    def open(self, request: pb.ExecuteRequest) -> Any:
        return self.stub.Execute(request, metadata=TOKEN, timeout=60)

    async def execute(self, request: pb.ExecuteRequest) -> list[Any]:
        return [message async for message in self.open(request)]

    async def failure(self, request: pb.ExecuteRequest) -> Any:
        messages = await self.execute(request)
        assert [m.WhichOneof("event") for m in messages] == ["accepted", "failed"], messages
        return messages[-1].failed.failure

    async def outputs(self, request: pb.ExecuteRequest) -> Any:
        messages = await self.execute(request)
        assert messages[-1].WhichOneof("event") == "completed", messages
        return json.loads(messages[-1].completed.output.inline or b"{}")

    async def cancel(self, **target: Any) -> Any:
        return await self.stub.Cancel(pb.CancelRequest(**target), metadata=TOKEN)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="noa-") as made:  # short enough for a socket's path
        yield Path(made)


@pytest.fixture
async def sample(folder: Path) -> AsyncIterator[Sidecar]:
    async with Sidecar("sdk_sample_agents:Sample", folder) as sidecar:
        yield sidecar


async def rest(stream: Any) -> list[Any]:
    """What is left of a stream that was read from before."""
    messages = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def open_execution(sidecar: Sidecar, request: pb.ExecuteRequest) -> Any:
    """A stream whose execution has begun for sure."""
    stream = sidecar.open(request)
    assert (await stream.read()).WhichOneof("event") == "accepted"
    while (await sidecar.health()).in_flight == 0:
        await asyncio.sleep(0)
    return stream


# --- launch


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"NOA_AGENT_LISTEN": ""}, "NOA_AGENT_LISTEN"),
        ({"NOA_AGENT_TOKEN": ""}, "NOA_AGENT_TOKEN"),
        ({"NOA_AGENT_PROTOCOL": "7"}, "'7'"),
        ({"NOA_AGENT_PROTOCOL": ""}, "NOA_AGENT_PROTOCOL"),
        ({"NOA_AGENT_LISTEN": "0.0.0.0:80"}, "0.0.0.0:80"),
    ],
)
def test_wrong_environment_ends_with_64_and_one_line(folder: Path, env: dict[str, str], part: str) -> None:
    sidecar = Sidecar("noa.sdk.echo:EchoAgent", folder, **env)
    assert sidecar.process.stderr is not None
    text = sidecar.process.stderr.read().decode()
    assert sidecar.process.wait(20) == 64
    assert part in text
    assert text.count("\n") == 1
    sidecar.kill()


@pytest.mark.parametrize(
    ("reference", "part"),
    [("nothing", "MODULE:CLASS"), ("no_such_module:X", "no_such_module"), ("noa.sdk.echo:No", "no class 'No'"),
     ("json:JSONDecoder", "not a subclass")],
)  # fmt: skip
def test_wrong_reference_teaches(folder: Path, reference: str, part: str) -> None:
    sidecar = Sidecar(reference, folder)
    assert sidecar.process.stderr is not None
    assert part in sidecar.process.stderr.read().decode()
    assert sidecar.process.wait(20) == 64
    sidecar.kill()


async def test_end_of_stdin_ends_the_process_and_what_it_started_within_2_s(sample: Sidecar) -> None:
    child = psutil.Process((await sample.outputs(sample.request("spawn")))["pid"])
    await open_execution(sample, sample.request("stubborn"))
    assert sample.process.stdin is not None
    sample.process.stdin.close()
    assert sample.process.wait(2) == 0
    child.wait(2)


async def test_sigterm_drains_and_sigint_is_ignored(sample: Sidecar) -> None:
    sample.process.send_signal(signal.SIGINT)
    going = await open_execution(sample, sample.request("wait_asked"))
    sample.process.send_signal(signal.SIGTERM)
    while (await sample.health()).status != pb.HEALTH_STATUS_DRAINING:
        pass
    refused = await sample.failure(sample.request("greet", {"name": "Ada"}))
    assert refused.code == "OVERLOADED"
    assert refused.retryable
    assert refused.retry_after.seconds > 0
    await sample.cancel(run_id="r")
    assert [m.WhichOneof("event") for m in await rest(going)] == ["failed"]
    await asyncio.to_thread(sample.process.wait, 5)
    assert sample.process.returncode == 0


async def test_second_sigterm_ends_it_and_what_it_started_at_once_with_143(sample: Sidecar) -> None:
    child = psutil.Process((await sample.outputs(sample.request("spawn")))["pid"])
    await open_execution(sample, sample.request("stubborn"))
    sample.process.send_signal(signal.SIGTERM)
    while (await sample.health()).status != pb.HEALTH_STATUS_DRAINING:
        pass
    sample.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(sample.process.wait, 2) == 143
    child.wait(2)


# --- every call


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "secret"),)])
async def test_wrong_token_is_unauthenticated_but_probes_need_none(sample: Sidecar, metadata: Any) -> None:
    calls = [
        sample.stub.Health(pb.HealthRequest(), metadata=metadata),
        sample.stub.Cancel(pb.CancelRequest(run_id="r"), metadata=metadata),
        sample.stub.Execute(sample.request("greet"), metadata=metadata).read(),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    probe: Any = health_pb2_grpc.HealthStub(sample.channel)
    for service in ("", "noa.agent.v1.AgentService"):
        answer = await probe.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_manifest(sample: Sidecar) -> None:
    health = await sample.health()
    assert health.status == pb.HEALTH_STATUS_SERVING
    assert (health.manifest.name, health.manifest.language, health.manifest.version) == ("sample", "python", "1.2")
    assert list(health.manifest.protocol_versions) == [1]
    greet = next(one for one in health.manifest.actions if one.name == "greet")
    assert greet.idempotent
    assert greet.input_schema["required"][0] == "name"


async def test_health_answers_within_100_ms_while_actions_burn_the_processor(sample: Sidecar) -> None:
    burning = [asyncio.create_task(sample.execute(sample.request("burn", {"seconds": 3}))) for _ in range(3)]
    burning.append(asyncio.create_task(sample.execute(sample.request("block", {"seconds": 3}))))
    while (await sample.health()).in_flight < 4:
        pass
    took_s = []
    while not any(one.done() for one in burning) and len(took_s) < 100:
        began_s = time.perf_counter()
        await sample.health()
        took_s.append(time.perf_counter() - began_s)
    assert len(took_s) >= 20
    assert sorted(took_s)[int(len(took_s) * 0.9)] < 0.1, took_s
    for one in burning:
        one.cancel()


async def test_load_decides_about_health(folder: Path) -> None:
    gate = folder / "gate"
    async with Sidecar("sdk_sample_agents:Slow", folder, GATE=str(gate)) as slow:
        health = await slow.health()
        assert health.status == pb.HEALTH_STATUS_STARTING
        assert health.manifest.name == "slow"
        assert (await slow.failure(slow.request("noop"))).code == "OVERLOADED"
        probe: Any = health_pb2_grpc.HealthStub(slow.channel)
        watch = probe.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        gate.write_text("good")
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await slow.health()).status == pb.HEALTH_STATUS_SERVING
        await slow.outputs(slow.request("noop"))
        watch.cancel()


async def test_load_that_raises_is_not_serving_with_the_reason(folder: Path) -> None:
    (folder / "gate").write_text("bad")
    async with Sidecar("sdk_sample_agents:Slow", folder, GATE=str(folder / "gate")) as slow:
        while (health := await slow.health()).status == pb.HEALTH_STATUS_STARTING:
            pass
        assert health.status == pb.HEALTH_STATUS_NOT_SERVING
        assert "the model is damaged" in health.message


# --- execute


async def test_work_streams_observations_then_one_terminal_message(sample: Sidecar) -> None:
    messages = await sample.execute(sample.request("observe"))
    kinds = [m.WhichOneof("event") for m in messages]
    assert kinds[0] == "accepted"
    assert not messages[0].accepted.joined
    assert kinds[1:] == ["progress"] * 3 + ["log"] * 4 + ["output", "completed"]
    assert (messages[1].progress.fraction, messages[1].progress.done, messages[1].progress.unit) == (0.25, 1, "files")
    assert messages[7].log.level == pb.LOG_LEVEL_WARNING
    assert messages[8].output.data == b"text"
    assert messages[-1].completed.metrics.HasField("wall_time")
    assert json.loads(messages[-1].completed.output.inline)["dir"] == f"{sample.folder}/out"


@pytest.mark.parametrize("field", ["execution_id", "run_id", "action"])
async def test_empty_names_are_invalid_arguments(sample: Sidecar, field: str) -> None:
    request = sample.request("greet")
    request.ClearField(field)  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await sample.execute(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_an_execution_id_has_at_most_512_bytes(sample: Sidecar) -> None:
    await sample.outputs(sample.request("greet", {"name": "Ada"}, execution_id="x" * 512))
    for long in ("x" * 513, "é" * 257):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await sample.execute(sample.request("greet", {"name": "Ada"}, execution_id=long))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "512" in (refused.value.details() or "")


async def test_failures_are_data(sample: Sidecar) -> None:
    unknown = await sample.failure(sample.request("great"))
    assert unknown.code == "UNKNOWN_ACTION"
    assert "greet" in unknown.message
    declared = await sample.failure(sample.request("fail"))
    assert (declared.code, declared.retryable, declared.retry_after.ToMilliseconds()) == ("NO_SPACE", True, 1500)
    assert dict(declared.details) == {"left": 0}
    crash = await sample.failure(sample.request("crash"))
    assert crash.code == "INTERNAL"
    assert "KeyError" in crash.message


async def test_an_action_cannot_end_the_agent(sample: Sidecar) -> None:
    for name in ("leave", "interrupt"):
        assert (await sample.failure(sample.request(name))).code == "INTERNAL"
    await sample.outputs(sample.request("greet", {"name": "Ada"}))


@pytest.mark.parametrize(
    ("payload", "part"),
    [
        ({"inline": b"{"}, "not JSON"),
        ({"inline": b"[1]"}, "expected a JSON object"),
        ({"inline": b'{"name": "\xff"}'}, "not JSON"),
        ({"inline": b"{}"}, "'name'"),
        ({"inline": b"{}", "content_type": "text/csv"}, "text/csv"),
    ],
)
async def test_wrong_inputs_are_invalid(sample: Sidecar, payload: dict[str, Any], part: str) -> None:
    request = sample.request("greet")
    request.input.CopyFrom(payload_pb2.Payload(**payload))
    invalid = await sample.failure(request)
    assert invalid.code == "INVALID_INPUT"
    assert part in invalid.message


async def test_large_payloads_travel_by_reference_in_both_directions(sample: Sidecar) -> None:
    big = await sample.execute(sample.request("large", {"size_bytes": 300_000}))
    reference = big[-1].completed.output.artifact
    stored = Path(reference.uri.removeprefix("file://")).read_bytes()
    assert len(stored) == reference.size_bytes > 300_000
    request = sample.request("everything")
    content = json.dumps({"first": 1, "big": "x" * 300_000}).encode()
    path = sample.folder / "input"
    path.write_bytes(content)
    import hashlib

    request.input.artifact.uri = f"file://{path}"
    request.input.artifact.size_bytes = len(content)
    request.input.artifact.sha256 = hashlib.sha256(content).hexdigest()
    done = await sample.execute(request)
    assert done[-1].completed.output.artifact.size_bytes > 300_000
    path.write_bytes(b"{}")
    again = sample.request("everything")
    again.input.CopyFrom(request.input)
    assert (await sample.failure(again)).code == "ARTIFACT"


async def test_large_output_without_a_store_is_too_large(sample: Sidecar) -> None:
    request = sample.request("large", {"size_bytes": 300_000})
    request.artifact_prefix = ""
    assert (await sample.failure(request)).code == "PAYLOAD_TOO_LARGE"


async def test_same_execution_joins_while_it_goes_on_and_repeats_the_answer_afterwards(sample: Sidecar) -> None:
    request = sample.request("spawn")
    first = await sample.execute(request)
    second = await sample.execute(request)
    assert second[0].accepted.joined
    assert second[1:] == first[1:], "the work was not done twice"
    going = sample.request("wait")
    one = await open_execution(sample, going)
    two = sample.open(going)
    assert (await two.read()).accepted.joined
    await sample.cancel(execution_id=going.execution_id)
    for stream in (one, two):
        assert [m.failed.failure.code for m in await rest(stream)] == ["CANCELLED"]


async def test_client_that_hangs_up_does_not_cancel_the_work(sample: Sidecar) -> None:
    request = sample.request("wait_asked")
    stream = await open_execution(sample, request)
    stream.cancel()
    assert (await sample.health()).in_flight == 1
    joined = sample.open(request)
    assert (await joined.read()).accepted.joined
    await sample.cancel(execution_id=request.execution_id)
    assert (await joined.read()).failed.failure.code == "CANCELLED"


async def test_heartbeats_come_when_there_is_nothing_else_to_say(sample: Sidecar) -> None:
    request = sample.request("wait")
    request.heartbeat_interval.FromMilliseconds(20)
    stream = await open_execution(sample, request)
    assert [(await stream.read()).WhichOneof("event") for _ in range(3)] == ["heartbeat"] * 3
    await sample.cancel(run_id="r")


@pytest.mark.parametrize("name", ["wait", "work", "stubborn"])
async def test_deadline_ends_the_work(sample: Sidecar, name: str) -> None:
    request = sample.request(name)
    request.deadline.FromMilliseconds(int(time.time() * 1000) + 150)
    late = await sample.failure(request)
    assert late.code == "DEADLINE_EXCEEDED"
    assert late.retryable
    if name != "stubborn":
        while (await sample.health()).in_flight:
            pass


async def test_deadline_in_the_past_does_no_work(sample: Sidecar) -> None:
    request = sample.request("spawn")
    request.deadline.FromMilliseconds(1)
    assert (await sample.failure(request)).code == "DEADLINE_EXCEEDED"
    assert (await sample.health()).in_flight == 0


async def test_more_than_capacity_is_overloaded_and_may_be_asked_again(folder: Path) -> None:
    async with Sidecar("sdk_sample_agents:Small", folder) as small:
        assert (await small.health()).capacity == 1
        await open_execution(small, small.request("wait"))
        request = small.request("greet", {"name": "Ada"})
        refused = await small.failure(request)
        assert refused.code == "OVERLOADED"
        assert refused.retryable
        await small.cancel(run_id="r")
        assert (await small.outputs(request))["greeting"] == "Hello, Ada!"


async def test_a_client_that_reads_nothing_does_not_delay_the_work(sample: Sidecar) -> None:
    request = sample.request("observe", {"lines": 200_000})
    stream = await open_execution(sample, request)
    while (await sample.health()).in_flight:
        await asyncio.sleep(0)
    messages = await rest(stream)
    assert messages[-1].WhichOneof("event") == "completed", "the terminal message is never dropped"
    assert len(messages) < 200_000
    assert any("dropped" in m.log.message for m in messages)


# --- cancel


async def test_cancel_of_an_execution(sample: Sidecar) -> None:
    unknown = sample.request("greet", {"name": "Ada"})
    assert (await sample.cancel(execution_id=unknown.execution_id)).outcome == pb.CANCEL_OUTCOME_UNKNOWN
    await sample.outputs(unknown)
    finished = await sample.cancel(execution_id=unknown.execution_id)
    assert finished.outcome == pb.CANCEL_OUTCOME_ALREADY_FINISHED
    for name in ("wait", "work"):
        request = sample.request(name)
        stream = await open_execution(sample, request)
        answer = await sample.cancel(execution_id=request.execution_id, reason="tested")
        assert (answer.outcome, answer.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)
        failure = (await stream.read()).failed.failure
        assert failure.code == "CANCELLED"
        assert "tested" in failure.message


async def test_work_that_ignores_its_cancellation_is_cut_off_after_the_grace(sample: Sidecar) -> None:
    for name, inputs in (("stubborn", None), ("block", {"seconds": 1.0})):
        request = sample.request(name, inputs)
        stream = await open_execution(sample, request)
        cancel = pb.CancelRequest(execution_id=request.execution_id)
        cancel.grace.FromMilliseconds(100)
        began_s = time.perf_counter()
        await sample.stub.Cancel(cancel, metadata=TOKEN)
        assert (await stream.read()).failed.failure.code == "CANCELLED"
        assert time.perf_counter() - began_s < 1.0


async def test_release_of_a_run(sample: Sidecar) -> None:
    streams = [await open_execution(sample, sample.request(name)) for name in ("wait", "work")]
    answer = await sample.cancel(run_id="r")
    assert (answer.outcome, answer.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 2)
    for stream in streams:
        assert (await stream.read()).failed.failure.code == "CANCELLED"
    assert (await sample.cancel(run_id="r")).outcome == pb.CANCEL_OUTCOME_UNKNOWN
    held = await sample.cancel(run_id="held")
    assert (held.outcome, held.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)


async def test_what_was_told_to_end_before_is_not_counted_again(sample: Sidecar) -> None:
    request = sample.request("stubborn")
    stream = await open_execution(sample, request)
    first = await sample.cancel(execution_id=request.execution_id, grace=LONG, reason="first")
    assert (first.outcome, first.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)
    again = await sample.cancel(execution_id=request.execution_id, grace=LONG, reason="second")
    assert (again.outcome, again.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 0)
    fresh = await open_execution(sample, sample.request("wait"))
    of_run = asyncio.ensure_future(sample.cancel(run_id="r", grace=LONG))
    assert (await fresh.read()).failed.failure.code == "CANCELLED", "the run was told; it waits for the stubborn one"
    await sample.outputs(sample.request("let_go", run_id="other"))
    assert ((await of_run).outcome, (await of_run).cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)
    ended = (await stream.read()).failed.failure
    assert (ended.code, "first" in ended.message) == ("CANCELLED", True)
    finished = await sample.cancel(execution_id=request.execution_id)
    assert (finished.outcome, finished.cancelled) == (pb.CANCEL_OUTCOME_ALREADY_FINISHED, 0)


async def test_a_deadline_within_the_grace_of_a_cancel_does_not_change_the_reason(sample: Sidecar) -> None:
    request = sample.request("stubborn")
    request.deadline.FromMilliseconds(int(time.time() * 1000) + 700)
    stream = await open_execution(sample, request)
    await sample.cancel(execution_id=request.execution_id, grace=LONG, reason="first")
    ended = (await stream.read()).failed.failure
    assert (ended.code, "first" in ended.message) == ("CANCELLED", True)


async def test_a_grace_of_zero_abandons_the_work_at_once(sample: Sidecar) -> None:
    for target in ("execution_id", "run_id"):
        request = sample.request("stubborn")
        stream = await open_execution(sample, request)
        began_s = time.perf_counter()
        answer = await sample.cancel(**{target: getattr(request, target)}, grace=duration_pb2.Duration())
        assert (answer.outcome, answer.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)
        assert (await stream.read()).failed.failure.code == "CANCELLED"
        assert time.perf_counter() - began_s < 2.5, "the default would be 5 s"
    nothing = await sample.cancel(run_id="other", grace=duration_pb2.Duration())
    assert nothing.outcome == pb.CANCEL_OUTCOME_UNKNOWN
    held = await sample.cancel(run_id="held", grace=duration_pb2.Duration())
    assert (held.outcome, held.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)


async def test_a_release_that_exceeds_the_grace_is_not_unknown(sample: Sidecar) -> None:
    short = duration_pb2.Duration(nanos=50_000_000)
    first = await sample.cancel(run_id="slow", grace=short)
    assert (first.outcome, first.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 1)
    again = await sample.cancel(run_id="slow", grace=short)
    assert (again.outcome, again.cancelled) == (pb.CANCEL_OUTCOME_CANCELLED, 0), "it is still being released"
    await sample.outputs(sample.request("let_go"))
    while (last := await sample.cancel(run_id="slow")).outcome != pb.CANCEL_OUTCOME_UNKNOWN:
        assert last.cancelled == 0


async def test_cancel_without_a_target_is_an_invalid_argument(sample: Sidecar) -> None:
    for target in ({}, {"run_id": ""}, {"execution_id": ""}):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await sample.cancel(**target)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
