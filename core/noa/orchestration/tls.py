"""TLS towards remote agents: what the declaration's files give, and whom the engine trusts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from noa.errors import AgentStartError, UsageError
from noa.plugin import AgentDeclaration
from noa.sdk.tls_files import Pair, read_authorities, read_pair

__all__ = ["ClientTls", "read_tls"]

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where distributions keep the authorities that the machine trusts."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How the engine speaks TLS to one agent.

    Attributes:
        authorities: PEM of those who may have signed the agent's certificate; None are the ones that come with gRPC.
        authorities_from: Where they stand, for a person.
        pair: What the engine shows of itself; None where it shows nothing.
        pair_files: Certificate and key, where there is a pair.
        server_name: Whom the agent's certificate must name; empty is the host of its address.
    """

    authorities: bytes | None
    authorities_from: str
    pair: Pair | None = None
    pair_files: tuple[str, str] = ("", "")
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel."""
        pair = self.pair
        return grpc.ssl_channel_credentials(
            self.authorities, pair.key if pair is not None else None, pair.certificate if pair is not None else None
        )

    def context(self) -> ssl.SSLContext:
        """For a handshake without gRPC."""
        data = self.authorities.decode("latin-1") if self.authorities is not None else None
        context = ssl.create_default_context(cadata=data)
        context.set_alpn_protocols(["h2"])
        if self.pair is not None:
            context.load_cert_chain(*self.pair_files)
        return context


def read_tls(declaration: AgentDeclaration) -> ClientTls | None:
    """What the options of a declaration say about TLS; None for plain text. Files are read anew at each call.

    Raises:
        AgentStartError: A file cannot be used; the message names the option and the file.
    """
    options = declaration.options
    if not uses_tls(options):
        return None
    try:
        authorities, origin = _authorities(options.get("ca_file"))
        certificate, key = options.get("cert_file"), options.get("key_file")
        pair = None
        if certificate and key:
            names = ("cert_file", "key_file")
            pair = read_pair(Path(str(certificate)), Path(str(key)), *names, client=True)
    except UsageError as error:
        raise AgentStartError(
            f"agent '{declaration.name}': {error.message}", agent=declaration.name, permanent=True
        ) from error
    files = (str(certificate or ""), str(key or ""))
    return ClientTls(authorities, origin, pair, files, str(options.get("server_name") or ""))


def uses_tls(options: Mapping[str, Any]) -> bool:
    """Whether the options of a remote agent ask for TLS."""
    return bool(options.get("tls") or options.get("ca_file") or options.get("cert_file"))


def _authorities(file: Any) -> tuple[bytes | None, str]:
    if file:
        return read_authorities(Path(str(file)), "ca_file"), f"ca_file, {file}"
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle:
        return read_authorities(Path(bundle), "SSL_CERT_FILE"), f"SSL_CERT_FILE, {bundle}"
    for path in map(Path, _BUNDLES):
        if path.is_file():
            return read_authorities(path, "the machine's authorities"), f"the machine's, {path}"
    return None, "those that come with gRPC"
