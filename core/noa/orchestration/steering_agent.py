"""The agent that deploys agents: a definition asks it to start, scale and end replicas of others."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from noa.errors import AgentError, InternalError
from noa.orchestration.pool import NotSteerableError
from noa.plugin import AgentPools, AgentStatus, ReplicaStatus
from noa.sdk import ActionFailed, Agent, Context, action

__all__ = ["SteeringAgent"]

Name = Annotated[str, Field(min_length=1, description="Name of a declared agent.")]
Count = Annotated[int, Field(ge=1, description="How many; at most the agent's max_replicas.")]


class Replica(TypedDict):
    """One replica now. Figures of the process are 0 where it has none of its own."""

    replica: Annotated[int, Field(description="Its number, from 0.")]
    pid: Annotated[int | None, Field(description="Its process; null where it has none of its own.")]
    state: Annotated[str, Field(description="idle, starting, serving, draining, waiting_to_restart, failed or closed.")]
    capacity: Annotated[int, Field(description="Executions at once; 0 means no limit.")]
    in_flight: int
    language: str
    version: str
    cpu_percent: Annotated[float, Field(description="Of one core, over the last two seconds.")]
    memory_bytes: int
    restarts: int


class AgentNow(TypedDict):
    """An agent and its replicas that are not idle."""

    agent: str
    replicas: list[Replica]


class AgentFigures(AgentNow):
    """An agent, all of its replicas, and what goes on."""

    kind: str
    state: Annotated[str, Field(description="The best of its replicas.")]
    in_flight: int
    capacity: Annotated[int, Field(description="Of all replicas that serve; 0 where one has no limit, or none serves.")]
    waiting: Annotated[int, Field(description="Executions that queue for it.")]
    cpu_percent: float
    memory_bytes: int
    max_replicas: int
    held: Annotated[dict[str, int], Field(description="Replicas by the run that holds them; '' for those kept.")]


class Figures(TypedDict):
    """Outputs of status."""

    agents: list[AgentFigures]


class SteeringAgent(Agent):
    """Starts, scales and ends replicas of declared agents for the run that asks.

    Args:
        name: Its own name.
        pools: The engine's pools; None where the agent is only described.
    """

    version = "1"

    def __init__(self, name: str = "factory", pools: AgentPools | None = None) -> None:
        self.name = name  # type: ignore[misc]  # an agent of this class may be declared under any name
        self._given = pools

    @action(idempotent=True)
    async def spawn(
        self,
        ctx: Context,
        agent: Name,
        replicas: Count = 1,
        wait: Annotated[bool, Field(description="Whether to return only when all of them serve.")] = True,
        keep: Annotated[
            bool, Field(description="Whether they stay, as long as the engine, when the run is over.")
        ] = False,
    ) -> AgentNow:
        """Start so many replicas of an agent for this run and wait until they serve."""
        pools = self._for(agent)
        ctx.progress(0.0, message=f"starting {replicas} of {agent}")
        try:
            return _now(await pools.spawn(agent, replicas, run=ctx.run_id, keep=keep, wait=wait))
        except AgentError as error:
            raise _not_started(agent, error) from error

    @action(idempotent=True)
    async def scale(
        self,
        ctx: Context,
        agent: Name,
        replicas: Count,
        wait: Annotated[bool, Field(description="Whether to return only when all serve and the others ended.")] = True,
    ) -> AgentNow:
        """Have exactly so many replicas for this run; those that go end their work first."""
        pools = self._for(agent)
        ctx.progress(0.0, message=f"scaling {agent} to {replicas}")
        try:
            return _now(await pools.scale(agent, replicas, run=ctx.run_id, wait=wait))
        except AgentError as error:
            raise _not_started(agent, error) from error

    @action(idempotent=True)
    async def retire(
        self,
        ctx: Context,
        agent: Name,
        kept: Annotated[bool, Field(description="Also those that runs which are over asked to stay.")] = False,
        wait: Annotated[bool, Field(description="Whether to return only when they have ended.")] = True,
    ) -> AgentNow:
        """End the replicas that this run alone wants; they end their work first."""
        pools = self._for(agent)
        ctx.progress(0.0, message=f"retiring {agent}")
        return _now(await pools.retire(agent, run=ctx.run_id, kept=kept, wait=wait))

    @action(idempotent=True)
    async def status(
        self, agent: Annotated[str | None, Field(description="Name of a declared agent; all if not given.")] = None
    ) -> Figures:
        """Replicas, work, queue, processor time and memory of one agent or of all."""
        return {"agents": [_figures(one) for one in await self._pools.status(agent)]}

    @property
    def _pools(self) -> AgentPools:
        if self._given is None:
            raise InternalError(f"agent '{self.name}' was given no pools by its engine")
        return self._given

    def _for(self, agent: str) -> AgentPools:
        if agent == self.name:
            raise NotSteerableError(f"agent '{agent}' steers others and cannot steer itself: name another", agent=agent)
        return self._pools


def _not_started(agent: str, error: AgentError) -> ActionFailed:
    permanent = error.code != "AGENT_START_FAILED" or "permanent" in error.parts
    return ActionFailed(error.code, error.message, retryable=not permanent, details={**error.parts, "agent": agent})


def _now(status: AgentStatus) -> AgentNow:
    return {"agent": status.name, "replicas": [_replica(one) for one in status.replicas if one.state != "idle"]}


def _figures(status: AgentStatus) -> AgentFigures:
    serving = [one for one in status.replicas if one.state == "serving"]
    limited = all(one.capacity for one in serving)
    return {
        "agent": status.name,
        "kind": status.kind,
        "state": status.state,
        "in_flight": sum(one.in_flight for one in status.replicas),
        "capacity": sum(one.capacity for one in serving) if limited else 0,
        "waiting": status.waiting,
        "cpu_percent": round(sum(one.cpu_percent for one in status.replicas), 1),
        "memory_bytes": sum(one.memory_bytes for one in status.replicas),
        "max_replicas": status.max_replicas,
        "held": {str(run): count for run, count in status.held.items()},
        "replicas": [_replica(one) for one in status.replicas],
    }


def _replica(status: ReplicaStatus) -> Replica:
    return {
        "replica": status.replica,
        "pid": status.pid,
        "state": status.state,
        "capacity": status.capacity,
        "in_flight": status.in_flight,
        "language": status.language,
        "version": status.version,
        "cpu_percent": round(status.cpu_percent, 1),
        "memory_bytes": status.memory_bytes,
        "restarts": status.restarts,
    }
