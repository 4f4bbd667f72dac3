"""What holds for every call: the token, fields that are not known, the limit of a message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import NotApplicable, case, expect
from noa.testing.conformance.client import AGENT_SERVICE, Client, Stream, outputs_of

__all__: list[str] = []

LIMIT_BYTES = 4 << 20
_UNKNOWN_FIELD = b"\xba\x3e\x03new"  # number 999, three bytes
_TOO_LARGE = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
_TOKEN = "compare the metadata `authorization` with `Bearer TOKEN` in constant time before anything else, in Execute, "
_TOKEN_ADVICE = f"In all three calls {_TOKEN}Health and Cancel; answer UNAUTHENTICATED (Every call: authorization)."


@case(
    "calls.token-missing",
    "Execute, Health and Cancel without a token end with the status UNAUTHENTICATED.",
    advice=_TOKEN_ADVICE,
)
async def refuses_calls_without_a_token(bench: Bench) -> None:
    client = await bench.client()
    await _refuses(client, (), "without a token")


@case(
    "calls.token-wrong",
    "Execute, Health and Cancel with a wrong token end with the status UNAUTHENTICATED.",
    advice=_TOKEN_ADVICE,
)
async def refuses_a_wrong_token(bench: Bench) -> None:
    client = await bench.client()
    token = client.token
    for given, how in (
        ("Bearer wrong", "with another token"),
        (token, "with the token but without the word Bearer"),
        (f"Bearer {token[:-1]}", "with the token but its last character"),
        (f"Bearer {token}x", "with the token and one more character"),
        (f"Bearer {token[:-1]}{'y' if token[-1:] == 'x' else 'x'}", "with the token but another last character"),
        ("Bearer ", "with an empty token"),
    ):
        await _refuses(client, (("authorization", given),), how)


async def _refuses(client: Client, metadata: Sequence[tuple[str, str]], how: str) -> None:
    if not client.token:
        raise NotApplicable("no token was given for the agent at this address (--token)")
    execute = client.stub.Execute(client.request(client.work_action, client.work_input), metadata=metadata)
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "Health": lambda: client.stub.Health(pb.HealthRequest(), metadata=metadata),
        "Cancel": lambda: client.stub.Cancel(pb.CancelRequest(run_id=client.run_id), metadata=metadata),
        "Execute": execute.read,
    }
    for name, call in calls.items():
        status = await client.status(call())
        expect(
            status is grpc.StatusCode.UNAUTHENTICATED,
            f"{name} {how} ended with the gRPC status {status.name}, not UNAUTHENTICATED",
        )
    execute.cancel()


@case(
    "calls.unknown-fields",
    "Fields that the agent does not know are ignored in all three requests.",
    advice="Decode requests as protobuf does, without a check for unknown fields (Every call: a field that is not "
    "known).",
)
async def ignores_unknown_fields(bench: Bench) -> None:
    client = await bench.client()
    channel = client.channel
    for name, request, answer in (
        ("Health", pb.HealthRequest(), pb.HealthResponse),
        ("Cancel", pb.CancelRequest(run_id=client.run_id), pb.CancelResponse),
    ):
        call: Any = channel.unary_unary(f"/{AGENT_SERVICE}/{name}", None, answer.FromString)
        data = request.SerializeToString() + _UNKNOWN_FIELD
        await client.answer(f"{name} with a field that is not known", call(data, metadata=client.metadata))
    if bench.lacks(client, "work"):
        return
    execute: Any = channel.unary_stream(f"/{AGENT_SERVICE}/Execute", None, pb.ExecuteResponse.FromString)
    data = client.work().SerializeToString() + _UNKNOWN_FIELD
    outputs_of(await Stream(execute(data, metadata=client.metadata), client.limit_s).terminal())


@case(
    "calls.message-limit",
    "A message just under 4 MiB is taken; one above is refused with RESOURCE_EXHAUSTED or OUT_OF_RANGE, and the agent "
    "goes on.",
    advice="Set the server's largest received message to 4,194,304 bytes explicitly; libraries have other defaults "
    "(Launch: limits).",
    needs="work",
)
async def takes_4_mib(bench: Bench) -> None:
    client = await bench.client()
    large = client.work(workflow="w" * (LIMIT_BYTES - 4096))
    outputs_of(await client.execute(large))
    call = client.stub.Execute(client.work(workflow="w" * LIMIT_BYTES), metadata=client.metadata)
    status = await client.status(call.read())
    call.cancel()
    expect(status in _TOO_LARGE, f"a message above 4 MiB ended with the gRPC status {status.name}")
    outputs_of(await client.execute(client.work()))
