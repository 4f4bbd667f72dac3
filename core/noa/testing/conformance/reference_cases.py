"""Inputs and outputs by reference: artifacts in a folder that the agent and the checker share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from noa.agent.v1 import payload_pb2
from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import Client, brief, outputs_of

__all__: list[str] = []

_LARGE_BYTES = 300_000
_INLINE_BYTES = 262_144


@case(
    "execute.input-reference",
    "An input that is an artifact is read; one that is missing or has another size fails as data.",
    advice="Read `input.artifact.uri` (file:///…), compare the file's size with size_bytes, and answer `failed` where "
    "that goes wrong (Artifacts; payload.proto).",
    needs="files echo",
)
async def reads_its_input(bench: Bench) -> None:
    client = await bench.client()
    inputs = {"text": "x" * 500_000}
    artifact = _store(client, json.dumps(inputs).encode())
    outputs = outputs_of(await client.execute(_with(client, artifact)))
    given = outputs.get("echo") if isinstance(outputs, dict) else None
    expect(given == inputs, f"echo with an input of 500 kB by reference gave back {str(given)[:100]}")
    wrong = payload_pb2.Artifact()
    wrong.CopyFrom(artifact)
    wrong.size_bytes += 1
    missing = payload_pb2.Artifact()
    missing.CopyFrom(artifact)
    missing.uri += "-missing"
    for reference, what in ((wrong, "whose size_bytes is wrong"), (missing, "whose file is missing")):
        terminal = await client.execute(_with(client, reference))
        expect(
            terminal.WhichOneof("event") == "failed" and bool(terminal.failed.failure.code),
            f"an input artifact {what} ended with {brief(terminal)}, not with failed",
        )


def _store(client: Client, data: bytes) -> payload_pb2.Artifact:
    sha256 = hashlib.sha256(data).hexdigest()
    path = client.folder / "artifacts" / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return payload_pb2.Artifact(
        uri=f"file://{path}", size_bytes=len(data), sha256=sha256, content_type="application/json"
    )


def _with(client: Client, artifact: payload_pb2.Artifact) -> Any:
    request = client.request("echo")
    request.input.artifact.CopyFrom(artifact)
    return request


@case(
    "execute.output-reference",
    "An output above 256 KiB is an artifact below artifact_prefix with the right size, sha256 and name.",
    advice="Write it to `<prefix>.tmp-<random>`, sync, rename it to `<prefix><two digits>/<sha256>`, and send the "
    "reference in output.artifact (Execute: output above 256 KiB; Artifacts).",
    needs="files echo.size_bytes",
)
async def gives_large_outputs_by_reference(bench: Bench) -> None:
    client = await bench.client()
    small = await client.execute(client.echo(size_bytes=100_000))
    expect(
        small.completed.output.WhichOneof("value") == "inline",
        f"an output of 100 kB came as {small.completed.output.WhichOneof('value')}, not inline",
    )
    for _ in range(2):  # the second time the artifact is there already
        terminal = await client.execute(client.echo(size_bytes=_LARGE_BYTES))
        outputs = outputs_of(terminal)
        _check_artifact(client, terminal.completed.output)
        padding = outputs.get("padding") if isinstance(outputs, dict) else None
        expect(padding == "x" * _LARGE_BYTES, f"echo with size_bytes={_LARGE_BYTES} gave padding {str(padding)[:50]!r}")
    root = client.folder / "artifacts"
    left = [path.name for path in root.rglob(".tmp-*")]
    expect(not left, f"temporary files were left below artifact_prefix: {left[:5]}")


def _check_artifact(client: Client, output: payload_pb2.Payload) -> None:
    if output.WhichOneof("value") != "artifact":
        raise Violation(
            f"an output of more than {_LARGE_BYTES} bytes came inline; above {_INLINE_BYTES} it goes by reference"
        )
    artifact = output.artifact
    expect(
        artifact.uri.startswith(client.artifact_prefix),
        f"the output's artifact {artifact.uri} is not below artifact_prefix {client.artifact_prefix}",
    )
    data = Path(artifact.uri.removeprefix("file://")).read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    name = artifact.uri.removeprefix(client.artifact_prefix)
    expect(artifact.size_bytes == len(data), f"size_bytes is {artifact.size_bytes}, the file has {len(data)} bytes")
    expect(artifact.sha256 == sha256, f"sha256 is {artifact.sha256!r}, that of the file is {sha256}")
    expect(name == f"{sha256[:2]}/{sha256}", f"the artifact is named {name!r}, not {sha256[:2]}/{sha256}")
