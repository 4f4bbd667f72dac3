"""Why a remote agent cannot be reached: gRPC only says that it cannot, so the handshake is done once more by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from dataclasses import dataclass

from noa.orchestration.tls import ClientTls

__all__ = ["Finding", "probe"]

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What an HTTP/2 client says first: the preface and empty settings (RFC 9113, 3.4)."""

_EXPIRED, _NOT_YET_VALID, _WRONG_HOST, _WRONG_IP = 10, 9, 62, 64
_UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes:
        text: A sentence for a person: what is wrong, on which side, what to do.
        final: Whether waiting will not help, so that it is told at once.
    """

    text: str
    final: bool


async def probe(address: str, tls: ClientTls | None, timeout_s: float) -> Finding | None:
    """Connect to an address as gRPC does, and say what stands in the way; None where nothing was found.

    Args:
        address: `host:port`.
        tls: As configured; None is plain text.
        timeout_s: For each of at most two connections.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        if tls is not None:
            return await _secure(host, int(port), tls, timeout_s)
        return await _plain(host, int(port), timeout_s)
    except TimeoutError:
        return Finding(
            f"nothing answered within {timeout_s:g} s: is the host up, and does a firewall let it by?", False
        )
    except socket.gaierror as error:
        return Finding(f"the host name '{host}' cannot be resolved ({error.strerror})", False)
    except ConnectionRefusedError:
        return Finding("nothing listens there (connection refused)", False)
    except OSError as error:
        return Finding(f"the connection failed: {error.strerror or error}", False)


async def _plain(host: str, port: int, timeout_s: float) -> Finding | None:
    if await _says_something(host, port, None, "", timeout_s):
        return None
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE  # nothing is sent; only whether it speaks TLS is asked
    anyone.set_alpn_protocols(["h2"])
    try:
        await _says_something(host, port, anyone, host, timeout_s)
    except (ssl.SSLError, ConnectionError) as error:
        # An alert is an answer in TLS, such as that a certificate is asked for.
        if not isinstance(error, ssl.SSLError) or "alert" not in _reason(error):
            return Finding("what listens there ends the connection and is no agent", False)
    return Finding(
        "it speaks TLS, and the declaration asks for plain text: set ca_file (or tls where the "
        "machine's authorities signed its certificate)",
        True,
    )


async def _secure(host: str, port: int, tls: ClientTls, timeout_s: float) -> Finding | None:
    name = tls.server_name or host
    try:
        context = await asyncio.to_thread(tls.context)
        if await _says_something(host, port, context, name, timeout_s):
            return None
    except ssl.SSLCertVerificationError as error:
        return Finding(_untrusted(error, name, tls), True)
    except ssl.SSLError as error:
        return _refused_by_agent(_reason(error), tls) or Finding(f"the TLS handshake failed: {error}", True)
    return Finding(_hung_up(tls), False)


async def _says_something(host: str, port: int, context: ssl.SSLContext | None, name: str, timeout_s: float) -> bool:
    """Whether the other side answers an HTTP/2 greeting; False where it hangs up."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name if context is not None else None
        )
        try:
            writer.write(_HELLO)
            await writer.drain()
            return bool(await reader.read(1))
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):  # an SSLError is one
                await writer.wait_closed()


def _untrusted(error: ssl.SSLCertVerificationError, name: str, tls: ClientTls) -> str:
    code, said = error.verify_code, error.verify_message.rstrip(".")
    if code == _EXPIRED:
        return "the agent's certificate has expired: renew it on the agent's side, or set this machine's clock right"
    if code == _NOT_YET_VALID:
        return "the agent's certificate is not valid yet: check the clocks of both machines"
    if code in (_WRONG_HOST, _WRONG_IP):
        return (
            f"the agent's certificate is not for '{name}' ({said}): use an address that the certificate names, set "
            "server_name to a name that it has, or issue another certificate"
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"the agent's certificate was signed by an authority that is not trusted ({said}). Trusted are "
            f"{tls.authorities_from}: put the authority that signed it into ca_file"
        )
    return f"the agent's certificate is refused: {said}"


def _refused_by_agent(reason: str, tls: ClientTls) -> Finding | None:
    if reason == "wrong version number":
        return Finding(
            "it speaks plain text, and the declaration asks for TLS: have the agent listen with --tls-cert and "
            "--tls-key, or leave tls, ca_file and cert_file away",
            True,
        )
    if "certificate required" in reason or "unknown ca" in reason or ("alert" in reason and "certificate" in reason):
        return Finding(f"{_hung_up(tls)} (it said: {reason})", True)
    return None


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name of an error, as words."""
    return (error.reason or "").lower().replace("_", " ")


def _hung_up(tls: ClientTls) -> str:
    if tls.pair is None:
        return (
            "it ended the connection right after the TLS handshake. It most likely asks for a client certificate "
            "(mutual TLS): set cert_file and key_file"
        )
    return (
        "it ended the connection right after the TLS handshake. It most likely does not take the client certificate "
        f"in {tls.pair_files[0]} (cert_file): the authority that signed it must be in the agent's --client-ca"
    )
