"""The pools of a factory as agents may steer them: the engine's side of `noa.plugin.AgentPools`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from noa.model.ids import RunId
from noa.orchestration.pool import Pool
from noa.plugin import AgentDeclaration, AgentStatus

__all__ = ["Steering"]


class Steering:
    """Implements `AgentPools`.

    Args:
        pool: Gives the pool of an agent, made where there is none; raises UnknownAgentError.
        status: Gives the status of a declared agent, without making a pool.
        declarations: Of all agents, as they are now.
    """

    def __init__(
        self,
        pool: Callable[[str], Pool],
        status: Callable[[str], AgentStatus],
        declarations: Mapping[str, AgentDeclaration],
    ) -> None:
        self._pool = pool
        self._status = status
        self._declarations = declarations

    async def spawn(
        self, agent: str, replicas: int, *, run: RunId, keep: bool = False, wait: bool = True
    ) -> AgentStatus:
        """Hold at least so many replicas for a run, and start them."""
        await self._pool(agent).hold(run, replicas, keep=keep, exactly=False, wait=wait)
        return self._status(agent)

    async def scale(self, agent: str, replicas: int, *, run: RunId, wait: bool = True) -> AgentStatus:
        """Hold exactly so many replicas for a run."""
        await self._pool(agent).hold(run, replicas, keep=None, exactly=True, wait=wait)
        return self._status(agent)

    async def retire(self, agent: str, *, run: RunId, kept: bool = False, wait: bool = True) -> AgentStatus:
        """Let go of what a run holds."""
        await self._pool(agent).let_go(run, kept=kept, wait=wait)
        return self._status(agent)

    async def status(self, agent: str | None = None) -> Sequence[AgentStatus]:
        """What an agent, or every declared one, is now."""
        if agent is None:
            return [self._status(name) for name in sorted(self._declarations)]
        if agent not in self._declarations:
            self._pool(agent)  # raises, with the nearest name
        return [self._status(agent)]
