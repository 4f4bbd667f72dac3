"""Agents that are child processes of the engine."""

from __future__ import annotations

from noa.orchestration.launch import find_command
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentKind

__all__ = ["SidecarKind"]


_NUMBERS = {"scale_down_after_s": 0.01, "scale_up_wait_s": 0.01, "poison_after": 0}
"""Options and their least values."""


class SidecarKind(AgentKind):
    """A process that the engine starts, watches and ends.

    Options: `listen` ("unix" or "tcp"), `health_interval_s` (2) and `health_silence_s` (5), `queue_limit`,
    `scale_down_after_s` (60), `scale_up_wait_s` (0.5), `poison_after` (3; 0 for never).
    """

    name = "sidecar"

    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration."""
        if not declaration.command:
            return f"agent '{declaration.name}' is a sidecar and has no command: give the program and its arguments"
        for option, least in _NUMBERS.items():
            value = declaration.options.get(option, least)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value:
                return f"agent '{declaration.name}': options.{option} is {value!r}: give a number, at least {least:g}"
        found = find_command(declaration)
        return found if isinstance(found, str) else None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet."""
        from noa.orchestration.sidecar import SidecarConnection

        return SidecarConnection(declaration, replica, context)
