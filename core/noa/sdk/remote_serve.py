"""`python -m noa.sdk MODULE:CLASS --listen HOST:PORT …`: serve an agent that engines on other machines reach.

A sidecar is told by its engine where to listen and ends with it. A remote agent is started by whoever runs it, listens
on an address of its own, over TLS unless that address is the loopback interface, and lives until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import grpc

from noa.errors import UsageError
from noa.sdk.agent import Agent
from noa.sdk.launch import Launch
from noa.sdk.runner import ActionRunner
from noa.sdk.server import Sidecar, actions_for_testing, prepare_process
from noa.sdk.tls_files import Pair, read_authorities, read_file, read_pair
from noa.sdk.workshop import Workshop

__all__ = ["RemoteListen", "serve_remote"]

_STREAMS_END_S = 30.0
"""No engine waits for this process to end, and a result that is not read is work done for nothing."""

_NOTICE_S = 2.5
"""How long a drain takes at the least: engines ask Health every two seconds and then send their work elsewhere, whereas
a call that meets a server on its way out is cut off."""

_TOKEN_BYTES = 16
"""A token shorter than this can be guessed."""


@dataclass(frozen=True, slots=True)
class RemoteListen:
    """Where and how a remote agent listens.

    Attributes:
        address: `HOST:PORT`; `0.0.0.0` or `[::]` is every interface.
        token: That every call must carry.
        pair: Its certificate and key; None is plain text.
        client_ca: Authorities of the certificates that clients must show; None asks for none.
    """

    address: str
    token: str = field(repr=False)
    pair: Pair | None = None
    client_ca: bytes | None = None

    @classmethod
    def of_arguments(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> RemoteListen:
        """Read the command line after `MODULE:CLASS`, and the files that it names.

        Raises:
            UsageError: An option, a file or the combination is wrong; the message says which.
        """
        given = _parser().parse_args(arguments)
        _check_address(given.listen)
        if bool(given.tls_cert) != bool(given.tls_key):
            raise UsageError("TLS needs both --tls-cert and --tls-key")
        if given.client_ca and not given.tls_cert:
            raise UsageError("--client-ca asks clients for certificates, which needs --tls-cert and --tls-key")
        if not given.tls_cert and not given.plain_text and not _is_loopback(given.listen):
            raise UsageError(
                f"--listen {given.listen} can be reached from other machines, and without TLS the token and all data "
                "would go there in plain text: give --tls-cert and --tls-key (and --client-ca for mutual TLS), or "
                "--plain-text where something else protects the connection"
            )
        pair = None
        if given.tls_cert:
            pair = read_pair(Path(given.tls_cert), Path(given.tls_key), "--tls-cert", "--tls-key", client=False)
        client_ca = read_authorities(Path(given.client_ca), "--client-ca") if given.client_ca else None
        return cls(given.listen, _token(given.token_file, environment), pair, client_ca)


def serve_remote(agent: Agent, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
    """Serve an agent until SIGTERM or SIGINT. Call it from the main thread of a process of its own.

    Args:
        agent: The agent object.
        arguments: The command line after `MODULE:CLASS`.
        environment: Where NOA_AGENT_TOKEN and NOA_AGENT_CONFORMANCE may stand; None is the process's.

    Returns:
        Exit status: 0 after a drain, 1 where it cannot listen. A second SIGTERM ends the process with 143 instead.

    Raises:
        UsageError: The arguments or the files that they name are wrong.
        PluginError: The agent is declared wrongly.
    """
    variables = os.environ if environment is None else environment
    listen = RemoteListen.of_arguments(arguments, variables)
    prepare_process()
    workshop = Workshop(ActionRunner(agent, also=actions_for_testing(variables)))
    workshop.start()
    return asyncio.run(_RemoteAgent(workshop, listen).run())


class _RemoteAgent(Sidecar):
    streams_end_s = _STREAMS_END_S

    def __init__(self, workshop: Workshop, listen: RemoteListen) -> None:
        super().__init__(workshop, Launch(listen.address, listen.token))
        self._remote = listen

    async def linger(self) -> None:
        await asyncio.sleep(_NOTICE_S)

    def listen(self, server: grpc.aio.Server) -> None:
        remote = self._remote
        # A person who runs it by hand ends it with Ctrl-C.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self.terminate)
        if remote.pair is None:
            server.add_insecure_port(remote.address)
            how = "in plain text"
        else:
            credentials = grpc.ssl_server_credentials(
                [(remote.pair.key, remote.pair.certificate)], remote.client_ca, remote.client_ca is not None
            )
            server.add_secure_port(remote.address, credentials)
            how = "over mutual TLS" if remote.client_ca is not None else "over TLS"
        logging.getLogger("noa.sdk").info("listening on %s %s", remote.address, how)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. {' '.join(self.format_usage().split())}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m noa.sdk MODULE:CLASS", allow_abbrev=False, description=__doc__)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where to listen, such as 0.0.0.0:50051")
    parser.add_argument("--token-file", metavar="FILE", help="the token of every call; else NOA_AGENT_TOKEN")
    parser.add_argument("--tls-cert", metavar="FILE", help="PEM chain of this agent, its own certificate first")
    parser.add_argument("--tls-key", metavar="FILE", help="PEM private key of that certificate")
    parser.add_argument("--client-ca", metavar="FILE", help="mutual TLS: PEM authorities of the clients")
    parser.add_argument("--plain-text", action="store_true", help="no TLS although others can reach the address")
    return parser


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise UsageError(f"--listen is {address!r}: expected HOST:PORT, such as 0.0.0.0:50051 or [::]:50051")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(file: str | None, environment: Mapping[str, str]) -> str:
    if file is None:
        token, origin = environment.get("NOA_AGENT_TOKEN", ""), "NOA_AGENT_TOKEN"
    else:
        data, origin = read_file(Path(file), "--token-file"), f"--token-file {file}"
        token = data.decode("utf-8", "replace").strip()
    if not token:
        raise UsageError(
            f"{origin} has no token: every call must carry one. Give it in a file with --token-file, or in the "
            "environment variable NOA_AGENT_TOKEN"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError(f"{origin}: a token is one line of ASCII letters, digits and signs, without spaces")
    if len(token) < _TOKEN_BYTES:
        print(  # noqa: T201 - a program's own message
            f"{origin}: a token of {len(token)} characters can be guessed; take one of `openssl rand -hex 32`",
            file=sys.stderr,
            flush=True,
        )
    return token
