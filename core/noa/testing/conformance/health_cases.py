"""What Health says of the agent, and that it does so in time whatever goes on."""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import jsonschema
from grpc_health.v1 import health_pb2

from noa.agent.v1 import agent_service_pb2 as pb
from noa.testing.conformance.bench import SLACK_S, Bench
from noa.testing.conformance.case import NotApplicable, Violation, case, expect
from noa.testing.conformance.client import AGENT_SERVICE, LONG_S, Client
from noa.testing.conformance.ending_cases import check_overloaded

__all__: list[str] = []

_ANSWER_S = 0.1
_WORST_S = 2.0
_ASKED = 20
_ROUNDS = 3
_POLL_S = 0.02
_COUNT_S = 5.0


@case(
    "health.manifest",
    "The manifest has a name, a language, a version, the protocol version 1, and actions with unique names.",
    advice="Fill name, language, version, protocol_versions and actions of Manifest in every answer of Health "
    "(agent_service.proto: Manifest).",
)
async def says_who_it_is(bench: Bench) -> None:
    check_manifest((await bench.client()).manifest)


@case(
    "health.schemas",
    "Every schema of the manifest is a valid JSON Schema of the draft 2020-12.",
    advice="Mend the schema that is named; leave input_schema or output_schema unset where any object goes "
    "(agent_service.proto: Action).",
)
async def has_valid_schemas(bench: Bench) -> None:
    client = await bench.client()
    for action in client.manifest.actions:
        for which in ("input_schema", "output_schema"):
            try:
                jsonschema.Draft202012Validator.check_schema(client.schema(action.name, which))
            except jsonschema.SchemaError as error:
                where = "/".join(map(str, error.absolute_path)) or "its root"
                raise Violation(
                    f"the {which} of action '{action.name}' is wrong at {where}: {error.message}"
                ) from error


@case(
    "health.loading",
    "While Health says STARTING it has the manifest, stock probes say NOT_SERVING, and work is OVERLOADED.",
    advice="Listen first and load then; answer STARTING with the whole manifest, and refuse work as data meanwhile "
    "(Health: preparing; Execute: while Health says STARTING).",
    needs="command",
)
async def says_that_it_loads(bench: Bench) -> None:
    async with bench.fresh(serving=False) as (client, _):
        request = client.request(client.work_action, client.work_input)
        health = await client.health()
        probe = await client.probe()
        refused = await client.execute(request) if health.status == pb.HEALTH_STATUS_STARTING else None
        still = await client.health()
        if health.status != pb.HEALTH_STATUS_STARTING:
            raise NotApplicable("the agent serves as soon as it listens")
        check_manifest(health.manifest)
        if still.status != pb.HEALTH_STATUS_STARTING:
            raise NotApplicable("the agent served before it could be asked for work")
        expect(
            probe == health_pb2.HealthCheckResponse.NOT_SERVING, f"grpc.health.v1 said {probe} while it was STARTING"
        )
        check_overloaded(refused, "work while it was STARTING")


@case(
    "health.busy",
    "Health answers within 100 ms while executions burn all cores (median of 20), and never later than 2 s. One of "
    "three rounds must hold, as the machine may be busy with something else.",
    advice="Let actions run in threads or processes apart from the event loop or thread that serves calls (Health: "
    "actions keep every core busy).",
    needs="echo.burn_s",
)
async def answers_while_it_is_busy(bench: Bench) -> None:
    client = await bench.client()
    count = min(os.cpu_count() or 1, client.capacity or 64, 64)
    await asyncio.gather(*(client.begin(client.echo(burn_s=LONG_S)) for _ in range(count)))
    for left in reversed(range(_ROUNDS)):
        took = []
        for _ in range(_ASKED):
            began_s = time.monotonic()
            await client.health()
            took.append(time.monotonic() - began_s)
        median, worst = statistics.median(took), max(took)
        if median < _ANSWER_S and worst < _WORST_S:
            break
        seen = f"Health took {median * 1000:.0f} ms in the median of {_ASKED}, {worst:.1f} s at the worst"
        expect(left > 0, f"while {count} executions burned the cores, {seen}")


@case(
    "health.in-flight",
    "Health counts the executions that go on.",
    advice="Set in_flight to the executions that have begun and not ended (agent_service.proto: HealthResponse).",
    needs="echo.sleep_s",
)
async def counts_what_goes_on(bench: Bench) -> None:
    client = await bench.client()
    before = (await client.health()).in_flight
    count = min(3, client.capacity or 3)
    requests = [client.long() for _ in range(count)]
    await asyncio.gather(*map(client.begin, requests))
    await _wait_in_flight(client, before + count, f"with {count} executions begun")
    await client.cancel(run_id=client.run_id)
    await _wait_in_flight(client, before, "after they were cancelled")


@case(
    "health.stock",
    'grpc.health.v1 says SERVING while Health does, without a token, for "" and for noa.agent.v1.AgentService.',
    advice="Register the standard health service beside the agent's, outside the check of the token, and set both "
    "names whenever Health's status changes (Every call: grpc.health.v1).",
)
async def agrees_with_stock_probes(bench: Bench) -> None:
    client = await bench.client()
    for service in ("", AGENT_SERVICE):
        end_s = time.monotonic() + SLACK_S
        while (probe := await client.probe(service)) != health_pb2.HealthCheckResponse.SERVING:
            if time.monotonic() > end_s:
                break
            await asyncio.sleep(_POLL_S)
        expect(
            probe == health_pb2.HealthCheckResponse.SERVING,
            f"while Health said SERVING, grpc.health.v1 said {probe} for the service {service!r}",
        )


def check_manifest(manifest: pb.Manifest) -> None:
    """Check who the agent says it is."""
    for field in ("name", "language", "version"):
        expect(bool(getattr(manifest, field)), f"the manifest has no {field}")
    versions = list(manifest.protocol_versions)
    expect(1 in versions, f"the manifest's protocol_versions are {versions}, without 1")
    names = [action.name for action in manifest.actions]
    expect(bool(names), "the manifest has no actions")
    expect(all(names), "an action of the manifest has no name")
    twice = sorted({name for name in names if names.count(name) > 1})
    expect(not twice, f"the manifest names these actions more than once: {', '.join(twice)}")


async def _wait_in_flight(client: Client, expected: int, when: str) -> None:
    end_s = time.monotonic() + _COUNT_S
    while (found := (await client.health()).in_flight) != expected:
        if time.monotonic() > end_s:
            raise Violation(f"{when}, Health said in_flight = {found}, not {expected}")
        await asyncio.sleep(_POLL_S)
