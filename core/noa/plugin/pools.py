"""The engine's pools of agents as an agent may see and steer them, so that a workflow can deploy its own agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from noa.model.ids import RunId

if TYPE_CHECKING:
    from noa.plugin.interfaces import AgentHealth

__all__ = ["AgentPools", "AgentState", "AgentStatus", "ReplicaStatus"]

AgentState: TypeAlias = Literal["idle", "starting", "serving", "draining", "waiting_to_restart", "failed", "closed"]
"""Of a replica, or of an agent as a whole (the best of its replicas)."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica now. `capacity` 0 means no limit; figures of the process are 0 where it has none of its own.

    Attributes:
        cpu_percent: Of one core, over the last two seconds; its child processes included.
        memory_bytes: Resident, child processes included.
        restarts: Starts after the first.
        language: What it last said of itself; empty before it served.
        version: Likewise.
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
    language: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """An agent now.

    Attributes:
        waiting: Executions that queue for it.
        health: What it last said of itself.
        held: How many replicas each run holds, by `AgentPools.spawn` or `scale`; the empty id is for runs that are
            over and asked for their replicas to stay.
        max_replicas: Never more.
        scaling: What was last decided about the number of replicas and why, and what is in the way of more; for a
            person.
    """

    name: str
    kind: str
    state: AgentState
    waiting: int = 0
    replicas: tuple[ReplicaStatus, ...] = field(default_factory=tuple)
    health: AgentHealth | None = None
    description: str = ""
    plugin: str = ""
    held: Mapping[RunId, int] = field(default_factory=dict)
    max_replicas: int = 1
    scaling: str = ""


class AgentPools(Protocol):
    """Starts and ends replicas of declared agents for a run; handed to agent kinds as `AgentContext.pools`.

    A run **holds** replicas. An agent has as many as the run that holds the most asked for, and at least its
    `min_replicas`; beside them those that other runs' tasks started on need. What a run holds ends with the run, unless
    it was told to keep it. Everything is idempotent: asked again it changes nothing.

    Every method raises UnknownAgentError (UNKNOWN_AGENT) for a name that is not declared.
    """

    async def spawn(
        self, agent: str, replicas: int, *, run: RunId, keep: bool = False, wait: bool = True
    ) -> AgentStatus:
        """Hold at least so many replicas for a run, and start them.

        Args:
            agent: Name of a declared agent.
            replicas: From 1 to its `max_replicas`.
            run: For which.
            keep: Whether they stay when the run is over, as long as the engine.
            wait: Whether to return only when all of them serve.

        Raises:
            UsageError: More than `max_replicas` (REPLICA_LIMIT), or an agent that is not the engine's to start
                (AGENT_NOT_STEERABLE); nothing was changed.
            AgentError: One did not start, with what it said; the run holds what it held before.
        """

    async def scale(self, agent: str, replicas: int, *, run: RunId, wait: bool = True) -> AgentStatus:
        """Hold exactly so many replicas for a run; those that nobody wants any more end when their work has ended.

        Args and errors as for `spawn`; `wait` also waits for those that end.
        """

    async def retire(self, agent: str, *, run: RunId, kept: bool = False, wait: bool = True) -> AgentStatus:
        """Let go of what a run holds; what nobody wants any more takes nothing new and ends when its work has ended.

        Args:
            kept: Also what runs that are over asked to stay.
            wait: Whether to return only when all of them have ended.
        """

    async def status(self, agent: str | None = None) -> Sequence[AgentStatus]:
        """What an agent, or every declared one, is now, by name. Starts nothing."""
