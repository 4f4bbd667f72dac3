"""Agents that somebody else runs, reached over the network."""

from __future__ import annotations

from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentKind

__all__ = ["RemoteKind"]


class RemoteKind(AgentKind):
    """Agents at `addresses`; each address is a replica.

    Options: `token_env` or `token_file`; TLS with `ca_file` (or `tls: true` for the system's roots), `cert_file` and
    `key_file` for mutual TLS, `server_name`; `connect_timeout_s` (10), `health_interval_s` (2), `health_silence_s` (5).
    """

    name = "remote"

    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration."""
        name = declaration.name
        if not declaration.addresses:
            return f"agent '{name}' is remote and has no addresses: give host:port of each replica"
        for address in declaration.addresses:
            host, _, port = address.rpartition(":")
            if not address.startswith("unix:") and (not host or not port.isdigit()):
                return f"agent '{name}': address '{address}' is not host:port"
        if bool(declaration.options.get("cert_file")) != bool(declaration.options.get("key_file")):
            return f"agent '{name}': mutual TLS needs both options.cert_file and options.key_file"
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet."""
        from noa.orchestration.remote import RemoteConnection

        return RemoteConnection(declaration, replica, context)
