"""The stream of an execution that ends well: its order, its outputs, what is seen on the way."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import jsonschema

from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import Client, brief, outputs_of

__all__: list[str] = []

_SAMPLE: dict[str, Any] = {"text": "é ☃", "number": 2.5, "list": [1, None, True], "object": {"a": {}}}
_TERMINAL = {"completed", "failed"}
_LINE = re.compile(r"^line \d+$")
_COUNT = 50


@case(
    "execute.accepted",
    "The first message of a new execution is accepted(joined=false).",
    advice="Send `accepted` before the work and before any other message (Execute: new execution_id).",
    needs="work",
)
async def accepts_first(bench: Bench) -> None:
    client = await bench.client()
    first = await client.open(client.work()).first()
    right = first.WhichOneof("event") == "accepted" and not first.accepted.joined
    expect(right, f"the first message of a new execution was {brief(first)}")


@case(
    "execute.terminal",
    "A stream has exactly one of completed or failed, as its last message, and ends with the status OK.",
    advice="Send one terminal message, nothing after it, and end the call with OK, also where the work failed "
    "(Execute: two terminal messages, or none).",
    needs="work",
)
async def ends_once(bench: Bench) -> None:
    client = await bench.client()
    for request in (client.work(), client.request("conformance_unknown_action")):
        stream = client.open(request)
        await stream.rest()
        kinds = [message.WhichOneof("event") for message in stream.messages]
        count = sum(kind in _TERMINAL for kind in kinds)
        expect(count == 1, f"a stream had {count} terminal messages: {stream.seen}")
        expect(kinds[-1] in _TERMINAL, f"after its terminal message a stream went on: {stream.seen}")


@case(
    "execute.output",
    "The output is a JSON object that fits the output schema, and echo gives back its input.",
    advice="Encode outputs as a JSON object in UTF-8 that fits the announced output_schema; `echo` answers "
    '{"echo": <the input>} (Execute: the work ends well; The action echo).',
    needs="work",
)
async def answers_what_fits(bench: Bench) -> None:
    client = await bench.client()
    asked = dict(bench.target.actions) or {"echo": _SAMPLE}
    for name, inputs in asked.items():
        terminal = await client.execute(client.request(name, inputs))
        outputs = outputs_of(terminal)
        kind = terminal.completed.output.content_type
        json_type = kind.partition(";")[0].strip() in {"", "application/json"}
        expect(json_type, f"the output of '{name}' has the content type {kind!r}, not application/json")
        expect(isinstance(outputs, dict), f"the output of '{name}' is no JSON object: {str(outputs)[:200]}")
        _check_fits(client, name, outputs)
        if name == "echo" and not bench.target.actions:
            given = outputs.get("echo")
            expect(given == inputs, f"echo was given {json.dumps(inputs)} and gave back {json.dumps(given)[:300]}")


def _check_fits(client: Client, name: str, outputs: Any) -> None:
    try:
        jsonschema.validate(outputs, client.schema(name, "output_schema"), cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "its root"
        raise Violation(
            f"the output of '{name}' does not fit its output_schema at {where}: {error.message[:300]}"
        ) from error


@case(
    "execute.heartbeats",
    "With a heartbeat_interval of 200 ms, heartbeats come while there is nothing else to say.",
    advice="Send `heartbeat` whenever nothing was sent for the request's heartbeat_interval, 5 s where it is unset "
    "(Execute: nothing to say).",
    needs="echo.sleep_s",
)
async def beats(bench: Bench) -> None:
    client = await bench.client()
    request = client.long()
    request.heartbeat_interval.FromMilliseconds(200)
    stream = await client.begin(request)
    began_s, beats = time.monotonic(), 0
    while beats < 3 and time.monotonic() - began_s < 4:
        message = await stream.next(4)
        expect(message is not None, "the stream ended while the work should go on")
        beats += message.WhichOneof("event") == "heartbeat"
    expect(beats >= 3, f"in 4 s {beats} heartbeats came, with a heartbeat_interval of 200 ms")


@case(
    "execute.progress",
    "The fractions of progress messages are between 0 and 1 and never fall.",
    advice="Keep the largest fraction that was sent, and send none below it, none outside 0..1 and no NaN "
    "(agent_service.proto: Progress).",
    needs="echo.progress",
)
async def never_goes_back(bench: Bench) -> None:
    client = await bench.client()
    stream = client.open(client.echo(progress=20))
    outputs_of(await stream.terminal())
    fractions = [
        message.progress.fraction
        for message in stream.messages
        if message.WhichOneof("event") == "progress" and message.progress.HasField("fraction")
    ]
    expect(len(fractions) > 1, f"echo with progress=20 sent {len(fractions)} progress messages with a fraction")
    wrong = [fraction for fraction in fractions if math.isnan(fraction) or not 0 <= fraction <= 1]
    expect(not wrong, f"these fractions are not between 0 and 1: {wrong[:5]}")
    expect(fractions == sorted(fractions), f"fractions fell: {fractions}")


@case(
    "execute.observations",
    "Log lines and output chunks arrive complete and in order.",
    advice="Send `log` and `output` messages in the order in which the work made them, through one queue, and all of "
    "them before the terminal message (Execute: new execution_id; The action echo).",
    needs="echo.logs echo.chunks",
)
async def shows_everything_in_order(bench: Bench) -> None:
    client = await bench.client()
    stream = client.open(client.echo(logs=_COUNT, chunks=_COUNT))
    outputs_of(await stream.terminal())
    lines = [message.log.message for message in stream.messages if message.WhichOneof("event") == "log"]
    lines = [line for line in lines if _LINE.match(line)]
    expected = [f"line {i}" for i in range(1, _COUNT + 1)]
    expect(lines == expected, f"of {_COUNT} log lines {len(lines)} came: {_difference(lines, expected)}")
    chunks = b"".join(message.output.data for message in stream.messages if message.WhichOneof("event") == "output")
    text = [line.decode(errors="replace") for line in chunks.splitlines()]
    expected = [f"chunk {i}" for i in range(1, _COUNT + 1)]
    expect(text == expected, f"of {_COUNT} output chunks {len(text)} came: {_difference(text, expected)}")


def _difference(found: list[str], expected: list[str]) -> str:
    for i, (one, other) in enumerate(zip(found, expected, strict=False), 1):
        if one != other:
            return f"number {i} was {one!r}, not {other!r}"
    return f"the last one was {found[-1]!r}" if found else "there was none"


@case(
    "execute.unset-input",
    "An input that is unset, or inline with no bytes, is the empty object {}.",
    advice="Read a Payload without a value, and one with zero inline bytes, as {} (Execute: input is unset).",
    needs="echo",
)
async def takes_no_input_for_an_empty_object(bench: Bench) -> None:
    client = await bench.client()
    for request, how in ((client.request("echo"), "an unset input"), (client.request("echo", b""), "no inline bytes")):
        outputs = outputs_of(await client.execute(request))
        given = outputs.get("echo") if isinstance(outputs, dict) else outputs
        expect(given == {}, f"echo with {how} gave back {json.dumps(given)[:200]}, not {{}}")
