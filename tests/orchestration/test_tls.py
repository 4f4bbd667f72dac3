"""Remote agents over TLS: what is taken, and in which words everything else is refused."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import trustme

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1 import agent_service_pb2_grpc as pb_grpc
from noa.errors import UsageError
from noa.model.execution import Succeeded
from noa.model.failure import Failure
from noa.orchestration.kinds import RemoteKind
from noa.plugin import AgentDeclaration
from noa.sdk.remote_serve import RemoteListen

TOKEN = "a-token-of-some-length-0123456789"
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
EXPIRED = {"not_before": NOW - 3 * DAY, "not_after": NOW - DAY}
FUTURE = {"not_before": NOW + DAY, "not_after": NOW + 3 * DAY}


@dataclass(frozen=True)
class Files:
    """A certificate and its key as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and writes them to files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._ca.cert_pem.bytes())

    def issue(self, *names: str, **validity: Any) -> Files:
        issued = self._ca.issue_cert(*names, **validity)
        number = len(list(self._folder.iterdir()))
        files = Files(self._folder / f"{number}.pem", self._folder / f"{number}.key")
        files.certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        files.key.write_bytes(issued.private_key_pem.bytes())
        return files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


class Service(pb_grpc.AgentServiceServicer):
    async def Health(self, request: pb.HealthRequest, context: Any) -> pb.HealthResponse:  # noqa: N802
        manifest = pb.Manifest(name="tls", language="python", version="1", protocol_versions=[1])
        return pb.HealthResponse(status=pb.HEALTH_STATUS_SERVING, manifest=manifest)

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> AsyncIterator[pb.ExecuteResponse]:  # noqa: N802
        yield pb.ExecuteResponse(accepted=pb.Accepted())
        yield pb.ExecuteResponse(completed=pb.Completed())


@contextlib.asynccontextmanager
async def listening(files: Files | None, client_ca: Path | None = None) -> AsyncIterator[str]:
    """An agent on this machine; its address."""
    server = grpc.aio.server()
    pb_grpc.add_AgentServiceServicer_to_server(Service(), server)
    if files is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        root = client_ca.read_bytes() if client_ca else None
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], root, root is not None))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


Ask = Callable[..., Any]


@pytest.fixture
async def ask(bench: Any) -> Ask:
    """Ask an agent at an address, with these options; the outcome."""

    async def asked(address: str, **options: Any) -> Any:
        texts = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
        given = {"connect_timeout_s": 30, **texts}
        bench.factory.add({"far": AgentDeclaration("far", kind="remote", addresses=(address,), options=given)})
        outcome = await bench.execute("far", "echo")
        await bench.factory.close(grace_s=0.1)
        return outcome

    return asked


def check_refused(outcome: Any, *words: str, permanent: bool = True) -> None:
    assert isinstance(outcome, Failure), outcome
    assert outcome.code == "AGENT_START_FAILED"
    for word in words:
        assert word in outcome.message, outcome.message
    assert outcome.retryable is not permanent


# --- what is taken -----------------------------------------------------------------------------------------------


async def test_tls_to_the_host_that_the_certificate_names(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1")) as address:
        assert await ask(address, ca_file=authority.file) == Succeeded()


async def test_tls_to_a_name_that_the_options_give(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("agent.test")) as address:
        assert await ask(address, ca_file=authority.file, server_name="agent.test") == Succeeded()


async def test_mutual_tls(ask: Ask, authority: Authority) -> None:
    engine = authority.issue("engine.test")
    async with listening(authority.issue("127.0.0.1"), authority.file) as address:
        options = {"ca_file": authority.file, "cert_file": engine.certificate, "key_file": engine.key}
        assert await ask(address, **options) == Succeeded()


async def test_tls_without_a_file_trusts_the_authorities_of_the_machine(
    ask: Ask, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with listening(authority.issue("127.0.0.1")) as address:
        assert await ask(address, tls=True) == Succeeded()


# --- certificates of the agent -----------------------------------------------------------------------------------


async def test_expired_certificate_of_the_agent(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1", **EXPIRED)) as address:
        outcome = await ask(address, ca_file=authority.file)
    check_refused(outcome, "the agent's certificate has expired: renew it on the agent's side", f"Address: {address}")


async def test_certificate_of_the_agent_that_is_not_valid_yet(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1", **FUTURE)) as address:
        outcome = await ask(address, ca_file=authority.file)
    check_refused(outcome, "the agent's certificate is not valid yet: check the clocks of both machines")


async def test_certificate_of_another_host(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("agent.test")) as address:
        outcome = await ask(address, ca_file=authority.file)
    check_refused(outcome, "the agent's certificate is not for '127.0.0.1'", "server_name")


async def test_certificate_of_another_name_than_the_options_give(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1", "agent.test")) as address:
        outcome = await ask(address, ca_file=authority.file, server_name="other.test")
    check_refused(outcome, "the agent's certificate is not for 'other.test'", "Hostname mismatch")


async def test_certificate_of_an_authority_that_is_not_trusted(
    ask: Ask, authority: Authority, stranger: Authority
) -> None:
    async with listening(stranger.issue("127.0.0.1")) as address:
        outcome = await ask(address, ca_file=authority.file)
    check_refused(outcome, "signed by an authority that is not trusted", f"ca_file, {authority.file}")


# --- certificates of the engine ----------------------------------------------------------------------------------


async def test_missing_client_certificate(ask: Ask, authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1"), authority.file) as address:
        outcome = await ask(address, ca_file=authority.file, connect_timeout_s=1)
    words = ("asks for a client certificate (mutual TLS)", "set cert_file and key_file")
    check_refused(outcome, *words, permanent=False)


async def test_client_certificate_of_an_authority_that_the_agent_does_not_know(
    ask: Ask, authority: Authority, stranger: Authority
) -> None:
    engine = stranger.issue("engine.test")
    async with listening(authority.issue("127.0.0.1"), authority.file) as address:
        options = {"ca_file": authority.file, "cert_file": engine.certificate, "key_file": engine.key}
        outcome = await ask(address, **options, connect_timeout_s=1)
    words = ("does not take the client certificate in", str(engine.certificate), "--client-ca")
    check_refused(outcome, *words, permanent=False)


@pytest.mark.parametrize(
    ("validity", "words"),
    [(EXPIRED, "has expired: renew it"), (FUTURE, "is not valid yet: check this machine's clock")],
)
async def test_client_certificate_that_is_not_valid_now_is_refused_before_it_is_shown(
    ask: Ask, authority: Authority, validity: dict[str, Any], words: str
) -> None:
    engine = authority.issue("engine.test", **validity)
    options = {"ca_file": authority.file, "cert_file": engine.certificate, "key_file": engine.key}
    outcome = await ask("127.0.0.1:1", **options)
    check_refused(outcome, f"cert_file: the certificate in {engine.certificate} {words}")


# --- one side without TLS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual-tls"])
async def test_plain_text_to_an_agent_that_speaks_tls(ask: Ask, authority: Authority, mutual: bool) -> None:
    async with listening(authority.issue("127.0.0.1"), authority.file if mutual else None) as address:
        outcome = await ask(address)
    check_refused(outcome, "it speaks TLS, and the declaration asks for plain text: set ca_file")


async def test_tls_to_an_agent_that_speaks_plain_text(ask: Ask, authority: Authority) -> None:
    async with listening(None) as address:
        outcome = await ask(address, ca_file=authority.file)
    check_refused(outcome, "it speaks plain text, and the declaration asks for TLS", "--tls-cert and --tls-key")


async def test_server_that_is_no_agent(ask: Ask) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome = await ask(f"127.0.0.1:{port}", connect_timeout_s=1)
    check_refused(outcome, "ends the connection and is no agent", permanent=False)


async def test_host_name_that_cannot_be_resolved(ask: Ask) -> None:
    outcome = await ask("no-such-host.invalid:1", connect_timeout_s=1)
    check_refused(outcome, "the host name 'no-such-host.invalid' cannot be resolved", permanent=False)


# --- files -------------------------------------------------------------------------------------------------------


async def test_files_that_cannot_be_used_are_named(ask: Ask, bench: Any, authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("engine.test"), authority.issue("engine.test")
    garbage, empty = tmp_path / "garbage", tmp_path / "empty"
    garbage.write_bytes(bytes(range(256)))
    empty.write_bytes(b"")
    cases = [
        ({"ca_file": tmp_path / "gone"}, f"ca_file: {tmp_path / 'gone'} cannot be read: No such file"),
        ({"ca_file": tmp_path}, f"ca_file: {tmp_path} cannot be read: Is a directory"),
        ({"ca_file": garbage}, f"ca_file: {garbage} is not PEM: expected a certificate"),
        ({"ca_file": empty}, f"ca_file: {empty} is not PEM"),
        ({"ca_file": good.key}, f"ca_file: {good.key} is not PEM: expected a certificate"),
        ({"cert_file": garbage, "key_file": good.key}, f"cert_file: {garbage} is not PEM"),
        ({"cert_file": good.certificate, "key_file": garbage}, f"key_file: {garbage} is not PEM"),
        (
            {"cert_file": good.certificate, "key_file": good.certificate},
            f"key_file: {good.certificate} is not PEM: expected a private key",
        ),
        (
            {"cert_file": good.certificate, "key_file": other.key},
            f"the key in {other.key} does not belong to the certificate in {good.certificate}",
        ),
        ({"ca_file": authority.file, "token_file": tmp_path / "gone"}, "options.token_file"),
        ({"ca_file": authority.file, "token_file": empty}, f"options.token_file: {empty} is empty"),
    ]
    for number, (options, words) in enumerate(cases):
        name = f"far{number}"
        given = {key: str(value) for key, value in options.items()}
        bench.factory.add({name: AgentDeclaration(name, kind="remote", addresses=("127.0.0.1:1",), options=given)})
        check_refused(await bench.execute(name, "echo"), f"agent '{name}': ", words)


def test_misspelt_option_is_refused_rather_than_spoken_in_plain_text() -> None:
    declaration = AgentDeclaration("a", kind="remote", addresses=("h:1",), options={"ca_flie": "x"})
    refusal = RemoteKind().check(declaration) or ""
    assert "options.ca_flie is not an option" in refusal
    assert "Did you mean 'ca_file'?" in refusal


# --- python -m noa.sdk … --listen --------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def remote_agent(authority: Authority, token_file: Path) -> Iterator[str]:
    """An agent of the Python SDK over mutual TLS in a process of its own; its address."""
    files, port = authority.issue("127.0.0.1"), free_port()
    arguments = ["--listen", f"127.0.0.1:{port}", "--tls-cert", files.certificate, "--tls-key", files.key]
    process = subprocess.Popen(
        [sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent", *map(str, arguments),
         "--client-ca", str(authority.file), "--token-file", str(token_file)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield f"127.0.0.1:{port}"
    process.terminate()
    _, printed = process.communicate(timeout=30)
    assert process.returncode == 0, printed
    assert f"listening on 127.0.0.1:{port} over mutual TLS" in printed
    assert TOKEN not in printed


async def test_python_agent_serves_over_mutual_tls_until_it_is_told_to_end(
    ask: Ask, authority: Authority, remote_agent: str, token_file: Path
) -> None:
    engine = authority.issue("engine.test")
    outcome = await ask(
        remote_agent, ca_file=authority.file, cert_file=engine.certificate, key_file=engine.key,
        token_file=token_file,
    )  # fmt: skip
    assert outcome == Succeeded({"echo": {}}, outcome.metrics)


async def test_wrong_tokens_of_every_length_are_refused_and_the_right_one_is_taken(
    authority: Authority, remote_agent: str
) -> None:
    engine = authority.issue("engine.test")
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(), engine.key.read_bytes(), engine.certificate.read_bytes()
    )
    last = "y" if TOKEN[-1] != "y" else "z"
    wrong = [TOKEN[:length] for length in range(len(TOKEN))]
    wrong += [TOKEN[:-1] + last, TOKEN + "x", TOKEN.upper(), "x" * 5000]
    async with grpc.aio.secure_channel(remote_agent, credentials) as channel:
        stub = pb_grpc.AgentServiceStub(channel)

        async def code_of(call: str, metadata: Any) -> grpc.StatusCode:
            try:
                if call == "Execute":
                    async for _ in stub.Execute(pb.ExecuteRequest(), metadata=metadata, timeout=30):
                        pass
                elif call == "Cancel":
                    await stub.Cancel(pb.CancelRequest(run_id="r"), metadata=metadata, timeout=30)
                else:
                    await stub.Health(pb.HealthRequest(), metadata=metadata, wait_for_ready=True, timeout=30)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        for token in wrong:
            assert await code_of("Health", [("authorization", f"Bearer {token}")]) is grpc.StatusCode.UNAUTHENTICATED
        odd = [None, [("authorization", TOKEN)], [("authorization", "Bearer")], [("authorization", f"bearer {TOKEN}")]]
        for metadata in [*odd, [("authorization", "Bearer wrong")]]:
            for call in ("Execute", "Health", "Cancel"):
                assert await code_of(call, metadata) is grpc.StatusCode.UNAUTHENTICATED, (call, metadata)
        assert await code_of("Health", [("authorization", f"Bearer {TOKEN}")]) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--listen 0.0.0.0:1", "can be reached from other machines, and without TLS the token .* --plain-text"),
        ("--listen agents.example.org:1", "can be reached from other machines"),
        ("--listen 127.0.0.1", r"expected HOST:PORT"),
        ("--listen 127.0.0.1:0", r"expected HOST:PORT"),
        ("--listen 127.0.0.1:1 --tls-cert x", "TLS needs both --tls-cert and --tls-key"),
        ("--listen 127.0.0.1:1 --client-ca x", "needs --tls-cert and --tls-key"),
        ("--listen 127.0.0.1:1 --tls-cert /gone --tls-key /gone", "--tls-cert: /gone cannot be read: No such file"),
        ("--listen 127.0.0.1:1 --tls-cert {old} --tls-key {old_key}", "--tls-cert: the certificate in .* has expired"),
        ("--listen 127.0.0.1:1 --tls-cert {good} --tls-key {old_key}", "--tls-key: the key in .* does not belong"),
        (
            "--listen 127.0.0.1:1 --tls-cert {good} --tls-key {good_key} --client-ca {good_key}",
            "--client-ca: .* not PEM",
        ),
        ("--listen 127.0.0.1:1 --token-file /gone", "--token-file: /gone cannot be read"),
        ("--listen 127.0.0.1:1", "NOA_AGENT_TOKEN has no token: every call must carry one"),
        ("--token-file x", "required: --listen. usage: python -m noa.sdk"),
        ("--listen 127.0.0.1:1 --tls-crt x", "unrecognized arguments: --tls-crt"),
    ],
)
def test_arguments_that_cannot_be_served_are_refused(authority: Authority, arguments: str, words: str) -> None:
    good, old = authority.issue("127.0.0.1"), authority.issue("127.0.0.1", **EXPIRED)
    files = {"good": good.certificate, "good_key": good.key, "old": old.certificate, "old_key": old.key}
    with pytest.raises(UsageError) as refused:
        RemoteListen.of_arguments(arguments.format(**files).split(), {})
    assert re.search(words, refused.value.message), refused.value.message


def test_encrypted_key_is_refused(authority: Authority, tmp_path: Path, token_file: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    good = authority.issue("127.0.0.1")
    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    arguments = ["--listen", "127.0.0.1:1", "--tls-cert", str(good.certificate), "--tls-key", str(locked)]
    with pytest.raises(UsageError, match="is encrypted with a password, which cannot be asked for"):
        RemoteListen.of_arguments(arguments, {"NOA_AGENT_TOKEN": TOKEN})


def test_plain_text_is_served_on_the_loopback_interface_or_where_it_is_asked_for() -> None:
    environment = {"NOA_AGENT_TOKEN": TOKEN}
    for arguments in (["127.0.0.1:1"], ["[::1]:1"], ["localhost:1"], ["0.0.0.0:1", "--plain-text"]):
        listen = RemoteListen.of_arguments(["--listen", *arguments], environment)
        assert (listen.token, listen.pair) == (TOKEN, None)
        assert TOKEN not in repr(listen)
