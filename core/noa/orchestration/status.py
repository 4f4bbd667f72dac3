"""What the factory tells about its agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noa.plugin import AgentState, AgentStatus, ReplicaStatus

__all__ = ["AgentEvent", "AgentState", "AgentStatus", "ReplicaStatus"]


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """Something that happened to a replica (`serving`, `draining`, `lost`, `failed` …), or to an agent: `scaled`.

    Attributes:
        agent: Name of the agent.
        replica: From 0; -1 where it is about the agent as a whole (`scaled`).
        state: What it is now.
        detail: Why, for a person, such as "1 -> 4: 37 wait, oldest 0.4 s"; empty where there is nothing to say.
        pid: Its process, where it has one.
    """

    agent: str
    replica: int
    state: AgentState | Literal["lost", "draining", "scaled"]
    detail: str = ""
    pid: int | None = None
