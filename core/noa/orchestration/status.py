"""What the factory tells about its agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from noa.plugin import AgentHealth

__all__ = ["AgentEvent", "AgentState", "AgentStatus", "ReplicaStatus"]

AgentState: TypeAlias = Literal["idle", "starting", "serving", "waiting_to_restart", "failed", "closed"]
"""Of a replica, or of an agent as a whole (the best of its replicas)."""


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """Something that happened to a replica, such as `serving`, `lost` or `failed`.

    Attributes:
        agent: Name of the agent.
        replica: From 0.
        state: What it is now.
        detail: Why, for a person; empty where there is nothing to say.
        pid: Its process, where it has one.
    """

    agent: str
    replica: int
    state: AgentState | Literal["lost"]
    detail: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica now. `capacity` 0 means no limit; figures of the process are 0 where it has none of its own.

    Attributes:
        cpu_percent: Of one core, over the last two seconds; its child processes included.
        memory_bytes: Resident, child processes included.
        restarts: Starts after the first.
    """

    replica: int
    state: AgentState
    in_flight: int = 0
    capacity: int = 0
    pid: int | None = None
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    restarts: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """An agent now. `waiting` are the executions that queue for it; `health` is what it last said of itself."""

    name: str
    kind: str
    state: AgentState
    waiting: int = 0
    replicas: tuple[ReplicaStatus, ...] = field(default_factory=tuple)
    health: AgentHealth | None = None
    description: str = ""
    plugin: str = ""
