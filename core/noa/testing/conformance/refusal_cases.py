"""Executions that must fail, and calls that must be refused: each with its own code and words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import jsonschema
from google.protobuf import json_format

from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import NotApplicable, Violation, case, expect
from noa.testing.conformance.client import Client, brief, outputs_of

__all__: list[str] = []

_ID_BYTES = 512
_NAMED = 10
_WRONG: tuple[Any, ...] = ({"conformance": []}, "conformance", 7.25, -1, [], True)
_VALID: Mapping[str, Any] = {
    "string": "conformance", "number": 1, "integer": 1, "boolean": False, "array": [], "object": {}, "null": None,
}  # fmt: skip


@case(
    "execute.unknown-action",
    "An action that is not known is accepted, then failed(UNKNOWN_ACTION, not retryable) naming the known ones.",
    advice="Answer as data, not with a gRPC status, and list the agent's actions in the message (Execute: action not "
    "known).",
)
async def refuses_an_unknown_action(bench: Bench) -> None:
    client = await bench.client()
    failure = await _failure(client, client.request("conformance_unknown_action", {}), "an action that is not known")
    _check(failure, "UNKNOWN_ACTION", "an action that is not known")
    names = [action.name for action in client.manifest.actions]
    missing = [name for name in names[:_NAMED] if name not in failure.message]
    expect(not missing, f"the message does not name the known actions {', '.join(missing)}: {failure.message!r}")


@case(
    "execute.not-json",
    "An input that is no JSON object is accepted, then failed(INVALID_INPUT, not retryable).",
    advice="Decode the input strictly: UTF-8, JSON, an object at its root; answer as data (Execute: not JSON).",
    needs="work",
)
async def refuses_what_is_no_json_object(bench: Bench) -> None:
    client = await bench.client()
    for data, what in (
        (b"{", "broken JSON"),
        (b"[1]", "a list"),
        (b'"text"', "a string"),
        (b'{"a": "\xff"}', "bytes that are not UTF-8"),
    ):
        failure = await _failure(client, client.request(client.work_action, data), f"an input that is {what}")
        _check(failure, "INVALID_INPUT", f"an input that is {what}")


@case(
    "execute.input-schema",
    "An input that breaks the announced schema is failed(INVALID_INPUT, not retryable) naming the field.",
    advice="Check inputs against the schema that the manifest announces before the work begins, and name the field in "
    "the message (Execute: breaks the input schema).",
)
async def keeps_its_input_schemas(bench: Bench) -> None:
    client = await bench.client()
    tried = 0
    for action in client.manifest.actions:
        for inputs, fields, what in _breaking(client.schema(action.name)):
            tried += 1
            how = f"action '{action.name}' with {what}"
            failure = await _failure(client, client.request(action.name, inputs), how)
            _check(failure, "INVALID_INPUT", how)
            text = failure.message + json.dumps(json_format.MessageToDict(failure.details))
            named = any(field in text for field in fields)
            expect(named, f"{how}: the message does not name the field: {failure.message!r}")
    if not tried:
        raise NotApplicable("no action of the agent announces a typed or required property")


def _breaking(schema: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], list[str], str]]:
    """Inputs that break an object's schema, each with the fields of which one must be named, and how it breaks it."""
    required = list(schema.get("required", ()))
    if required:
        yield {}, required, f"the required field '{required[0]}' missing"
    properties: Mapping[str, Any] = schema.get("properties", {})
    valid = {name: _valid(schema, properties.get(name, {})) for name in required}
    if not _fits(schema, valid):
        return
    for name, part in properties.items():
        wrong = next((value for value in _WRONG if not _fits(_within(schema, part), value)), None)
        if wrong is not None:
            yield {**valid, name: wrong}, [name], f"'{name}' = {json.dumps(wrong)}"


def _valid(schema: Mapping[str, Any], part: Mapping[str, Any]) -> Any:
    """A value that fits a property's schema, as far as it is a simple one."""
    candidates = [part["const"]] if "const" in part else [*part.get("enum", ())[:1], *part.get("examples", ())[:1]]
    if "default" in part:
        candidates.append(part["default"])
    if "minimum" in part:
        candidates.append(part["minimum"])
    candidates.extend(_VALID.values())
    whole = _within(schema, part)
    return next((value for value in candidates if _fits(whole, value)), None)


def _within(schema: Mapping[str, Any], part: Any) -> Any:
    """A property's schema with the definitions that it may refer to."""
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    return {**part, **definitions} if isinstance(part, Mapping) else part


def _fits(schema: Any, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@case(
    "execute.names",
    "An empty execution_id, run_id or action ends the call with the status INVALID_ARGUMENT.",
    advice="Check the three fields before anything is accepted (Execute: empty).",
)
async def wants_names(bench: Bench) -> None:
    client = await bench.client()
    for field in ("execution_id", "run_id", "action"):
        request = client.request(client.work_action, client.work_input)
        request.ClearField(field)
        await _check_invalid(client, request, f"an empty {field}")


@case(
    "execute.id-length",
    "An execution_id of 512 bytes works; one of 513 bytes ends the call with the status INVALID_ARGUMENT.",
    advice="Measure execution_id in bytes of UTF-8, not in characters (agent_service.proto: ExecuteRequest).",
    needs="work",
)
async def takes_long_ids(bench: Bench) -> None:
    client = await bench.client()
    longest = f"{client.run_id}:".ljust(_ID_BYTES, "x")
    outputs_of(await client.execute(client.work(execution_id=longest)))
    await _check_invalid(client, client.work(execution_id=longest + "x"), "an execution_id of 513 bytes")
    await _check_invalid(client, client.work(execution_id="é" * 257), "an execution_id of 257 characters in 514 bytes")


@case(
    "execute.failure",
    "A failure of the work arrives as data, with its own code, message and retryable.",
    advice="Send `failed` with the Failure that the work gave, and end the call with OK (Execute: the work fails).",
    needs="echo.fail",
)
async def fails_as_data(bench: Bench) -> None:
    client = await bench.client()
    for retryable in (True, False):
        asked = {"code": "CONFORMANCE_NO_SPACE", "message": "the disk is full, é", "retryable": retryable}
        failure = await _failure(client, client.echo(fail=asked), f"echo with fail={json.dumps(asked)}")
        given = {"code": failure.code, "message": failure.message, "retryable": failure.retryable}
        expect(given == asked, f"echo was asked to fail with {json.dumps(asked)} and failed with {json.dumps(given)}")
    failure = await _failure(client, client.echo(fail={"code": "LATER", "message": "later", "retry_after_s": 1.5}), "")
    after_ms = failure.retry_after.ToMilliseconds() if failure.HasField("retry_after") else None
    given_as = "no retry_after" if after_ms is None else f"a retry_after of {after_ms} ms"
    expect(after_ms == 1500, f"echo was asked to fail with retry_after_s 1.5, its failure has {given_as}")


@case(
    "execute.panic",
    "Work that panics or raises what it did not declare is failed(INTERNAL, not retryable), and the agent goes on.",
    advice="Catch whatever the work raises around each execution and answer INTERNAL with its text (Execute: the work "
    "panics).",
    needs="echo.panic",
)
async def survives_a_panic(bench: Bench) -> None:
    client = await bench.client()
    failure = await _failure(client, client.echo(panic=True), "work that panics")
    _check(failure, "INTERNAL", "work that panics")
    expect(bool(failure.message), "the failure of work that panics has no message")
    outputs_of(await client.execute(client.echo()))


async def _failure(client: Client, request: Any, what: str) -> Any:
    terminal = await client.execute(request)
    if terminal.WhichOneof("event") != "failed":
        raise Violation(f"{what or 'work that should fail'} ended with {brief(terminal)}")
    return terminal.failed.failure


def _check(failure: Any, code: str, what: str) -> None:
    seen = f"failed({failure.code or 'no code'}, {'' if failure.retryable else 'not '}retryable, {failure.message!r})"
    expect(failure.code == code and not failure.retryable, f"{what} ended with {seen}")


async def _check_invalid(client: Client, request: Any, what: str) -> None:
    call = client.stub.Execute(request, metadata=client.metadata)
    status = await client.status(call.read())
    call.cancel()
    expect(
        status is grpc.StatusCode.INVALID_ARGUMENT,
        f"{what} ended with the gRPC status {status.name}, not INVALID_ARGUMENT",
    )
