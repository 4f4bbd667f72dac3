"""Agents that somebody else runs, reached over the network."""

from __future__ import annotations

import difflib

from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentKind

__all__ = ["RemoteKind"]

_PORT_MAX = 65_535
_OPTIONS = frozenset(
    {
        "token", "token_env", "token_file", "tls", "ca_file", "cert_file", "key_file", "server_name",
        "connect_timeout_s", "health_interval_s", "health_silence_s", "queue_limit",
    }
)  # fmt: skip


class RemoteKind(AgentKind):
    """Agents at `addresses`; each address is a replica.

    Options: `token`, `token_env` or `token_file`; TLS with `ca_file` (or `tls: true` for the system's roots),
    `cert_file` and `key_file` for mutual TLS, `server_name`; `connect_timeout_s` (10, and never more than the
    declaration's `start_timeout_s`), `health_interval_s` (2), `health_silence_s` (5), `queue_limit`.
    """

    name = "remote"

    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration."""
        name = declaration.name
        if not declaration.addresses:
            return f"agent '{name}' is remote and has no addresses: give host:port of each replica"
        for address in declaration.addresses:
            if wrong := _wrong_address(address):
                return (
                    f"agent '{name}': address '{address}' {wrong}: host:port is expected, such as localhost:50051"
                    + (". TLS is switched on by tls or ca_file" if address.startswith("https:") else "")
                )
        # A misspelt option of TLS would send the token in plain text.
        if unknown := sorted(set(declaration.options) - _OPTIONS):
            near = difflib.get_close_matches(unknown[0], _OPTIONS, 1)
            return (
                f"agent '{name}': options.{unknown[0]} is not an option of remote agents. "
                f"Known: {', '.join(sorted(_OPTIONS))}" + (f". Did you mean '{near[0]}'?" if near else "")
            )
        if bool(declaration.options.get("cert_file")) != bool(declaration.options.get("key_file")):
            return f"agent '{name}': mutual TLS needs both cert_file and key_file"
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet."""
        from noa.orchestration.remote import RemoteConnection

        return RemoteConnection(declaration, replica, context)


def _wrong_address(address: str) -> str:
    """What is wrong with an address, to stand after it in a sentence; empty where it can be dialled."""
    if address.startswith("unix:"):
        return ""
    if "://" in address:
        return "is a URL"
    if "/" in address:
        return "has a path"
    host, colon, port = address.rpartition(":")
    if not colon or not port or address.endswith("]"):
        return "has no port"
    if not host:
        return "has no host"
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return "needs brackets around its IPv6 address"
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _PORT_MAX):
        return f"has port '{port}', which is not a number from 1 to {_PORT_MAX}"
    return ""
