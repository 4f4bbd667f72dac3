"""What the factory tells about its agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noa.plugin import AgentState, AgentStatus, ReplicaStatus

__all__ = ["AgentEvent", "AgentState", "AgentStatus", "ReplicaStatus"]


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """Something that happened to a replica, such as `serving`, `draining`, `lost` or `failed`.

    Attributes:
        agent: Name of the agent.
        replica: From 0.
        state: What it is now.
        detail: Why, for a person; empty where there is nothing to say.
        pid: Its process, where it has one.
    """

    agent: str
    replica: int
    state: AgentState | Literal["lost", "draining"]
    detail: str = ""
    pid: int | None = None
