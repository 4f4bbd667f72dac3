"""Certificates and keys from PEM files, checked before gRPC has them: its errors do not say which file is wrong."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from noa.errors import UsageError

__all__ = ["Pair", "read_authorities", "read_file", "read_pair"]

_EXPIRED = 10
_NOT_YET_VALID = 9
_ROUNDS = 8
"""Flights of a handshake, with room to spare."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain, the certificate itself first, and its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file.

    Args:
        path: Of the file.
        what: What it is, for the error, such as "options.ca_file".

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read: {error.strerror or error}", path=str(path)) from error


def read_authorities(path: Path, what: str) -> bytes:
    """The PEM certificates of the authorities that are trusted.

    Raises:
        UsageError: The file cannot be read, or holds no certificate.
    """
    data = read_file(path, what)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("latin-1"))
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise _not_pem(path, what, "a certificate, -----BEGIN CERTIFICATE-----") from error
    return data


def read_pair(certificate: Path, key: Path, certificate_what: str, key_what: str, *, client: bool) -> Pair:
    """A certificate with its key.

    Args:
        certificate: PEM file of the chain.
        key: PEM file of the private key, not encrypted.
        certificate_what: What the first file is, for errors.
        key_what: What the second one is.
        client: Whether it is shown by the side that connects; else by the side that listens.

    Raises:
        UsageError: A file cannot be read or is not PEM, the key is encrypted or belongs to another certificate, or the
            certificate is not valid now.
    """
    read_authorities(certificate, certificate_what)
    pair = Pair(read_file(certificate, certificate_what), read_file(key, key_what))
    try:
        _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
    except _EncryptedError as error:
        raise UsageError(
            f"{key_what}: {key} is encrypted with a password, which cannot be asked for: decrypt it with "
            "`openssl pkey`, and keep the file readable for its owner only",
            path=str(key),
        ) from error
    except ssl.SSLError as error:
        if "mismatch" in (error.reason or "").lower():
            raise UsageError(
                f"{key_what}: the key in {key} does not belong to the certificate in {certificate} "
                f"({certificate_what}): give the two files that were made together",
                path=str(key),
            ) from error
        raise _not_pem(key, key_what, "a private key, -----BEGIN PRIVATE KEY-----") from error
    wrong = _validity(certificate, key, client=client)
    if wrong:
        raise UsageError(f"{certificate_what}: the certificate in {certificate} {wrong}", path=str(certificate))
    return pair


class _EncryptedError(Exception):
    """A key that needs a password."""


def _no_password() -> str:
    raise _EncryptedError


def _not_pem(path: Path, what: str, expected: str) -> UsageError:
    return UsageError(f"{what}: {path} is not PEM: expected {expected}", path=str(path))


def _context(protocol: int, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate, key, _no_password)
    return context


def _validity(certificate: Path, key: Path, *, client: bool) -> str:
    """Why a certificate is not valid now, or an empty text: it is shown to a verifier in this process.

    The standard library decodes a certificate only while it verifies one.
    """
    sides = [_context(ssl.PROTOCOL_TLS_CLIENT, certificate, key), _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)]
    verifier = sides[1] if client else sides[0]
    verifier.verify_mode = ssl.CERT_REQUIRED
    verifier.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust it itself, whoever signed it
    verifier.load_verify_locations(certificate)
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [sides[0].wrap_bio(downward, upward), sides[1].wrap_bio(upward, downward, server_side=True)]
    for _ in range(_ROUNDS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                if error.verify_code == _EXPIRED:
                    return "has expired: renew it"
                if error.verify_code == _NOT_YET_VALID:
                    return "is not valid yet: check this machine's clock, or wait"
                return ""  # what else there is to say, such as a wrong purpose, the other side says
            except ssl.SSLError:
                return ""
    return ""
