"""Agents that steer other agents: objects of this process that are given the engine's pools."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from noa.orchestration.kinds.in_process import InProcessConnection, InProcessKind
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentHealth, AgentKind, AgentPools

if TYPE_CHECKING:
    from noa.sdk import Agent

__all__ = ["PoolsKind"]


class PoolsKind(AgentKind):
    """An agent with the actions `spawn`, `scale`, `retire` and `status` over the other agents of its engine."""

    name = "pools"

    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration."""
        if declaration.max_replicas > 1 or declaration.min_replicas > 1:
            return f"agent '{declaration.name}' steers others and is one: leave out min_replicas and max_replicas"
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet."""
        return InProcessConnection(_with_pools(declaration, context.pools), context)

    def describe(self, declaration: AgentDeclaration) -> AgentHealth | None:
        """Who the agent is."""
        return InProcessKind().describe(_with_pools(declaration, None))


def _with_pools(declaration: AgentDeclaration, pools: AgentPools | None) -> AgentDeclaration:
    return replace(declaration, factory=partial(_steering_agent, declaration.name, pools))


def _steering_agent(name: str, pools: AgentPools | None) -> Agent:
    from noa.orchestration.steering_agent import SteeringAgent

    return SteeringAgent(name, pools)
