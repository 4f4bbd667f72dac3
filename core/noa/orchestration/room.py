"""How many replicas of an agent the host has room for, beside everything else that the engine started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import psutil

from noa.orchestration.host import host_resources
from noa.plugin import AgentDeclaration

if TYPE_CHECKING:
    from noa.orchestration.supervisor import Supervisor

__all__ = ["Room"]

_BUSY = 0.95
"""Of all cores together: with as much in use, more replicas would share what there is."""

_UNLIMITED = 1_000_000


class Room:
    """The processor cores and the memory of the host, and who uses them.

    A replica counts with what its agent's declaration says of `cpu` and `memory`. Where that is silent, its memory is
    what the largest replica takes now; its processor time is not foreseen, and only where agents keep all cores busy
    already there is room for none.

    Args:
        pools: Gives declaration and replicas of every agent that was needed so far.
        host: Cores (`cpu`) and bytes (`memory`); None asks the system (cgroups count) when it is first needed.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[tuple[AgentDeclaration, Sequence[Supervisor]]]],
        host: Mapping[str, float] | None = None,
    ) -> None:
        self._pools = pools
        self._host = host

    @property
    def cores(self) -> float:
        """Of the host."""
        return self._capacity.get("cpu", 1.0)

    @property
    def _capacity(self) -> Mapping[str, float]:
        if self._host is None:
            self._host = host_resources()
        return self._host

    def replicas(self, declaration: AgentDeclaration) -> tuple[int, str]:
        """How many replicas of an agent fit, those that it has included; and what limits them, for a person."""
        pools = list(self._pools())
        most, why = _UNLIMITED, ""
        for resource in ("memory", "cpu"):
            fit, text = self._fit(resource, declaration, pools)
            if fit < most:
                most, why = fit, text
        return most, why

    def _fit(
        self, resource: str, declaration: AgentDeclaration, pools: list[tuple[AgentDeclaration, Sequence[Supervisor]]]
    ) -> tuple[int, str]:
        total = self._capacity.get(resource, 0.0)
        if total <= 0:
            return _UNLIMITED, ""
        own = next((replicas for other, replicas in pools if other.name == declaration.name), ())
        each = _each(resource, declaration, own)
        if not each:
            return self._while_busy(total, own, pools) if resource == "cpu" else (_UNLIMITED, "")
        others = sum(
            _each(resource, other, replicas) * len(_started(replicas))
            for other, replicas in pools
            if other.name != declaration.name
        )
        if resource == "memory":
            others += psutil.Process().memory_info().rss
        fit = max(0, math.floor((total - others) / each + 1e-9))
        declared = "declared" if resource in declaration.resources else "measured"
        used = f", {_amount(resource, others)} used by others" if others else ""
        return fit, f"the host has {_amount(resource, total)}{used}, each takes {_amount(resource, each)} ({declared})"

    def _while_busy(
        self, cores: float, own: Sequence[Supervisor], pools: list[tuple[AgentDeclaration, Sequence[Supervisor]]]
    ) -> tuple[int, str]:
        used = sum(replica.cpu_percent for _, replicas in pools for replica in _started(replicas)) / 100
        if used < _BUSY * cores:
            return _UNLIMITED, ""
        return len(_started(own)), f"agents use {used:.1f} of {_amount('cpu', cores)} already"


def _started(replicas: Sequence[Supervisor]) -> list[Supervisor]:
    return [replica for replica in replicas if replica.hopeful or replica.connection is not None]


def _each(resource: str, declaration: AgentDeclaration, replicas: Sequence[Supervisor]) -> float:
    """What one replica takes; 0 where that is not known."""
    declared = float(declaration.resources.get(resource, 0.0))
    if declared or resource != "memory":
        return declared
    return float(max((replica.memory_bytes or _resident(replica.pid) for replica in replicas), default=0))


def _resident(pid: int | None) -> int:
    if pid is None:
        return 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _amount(resource: str, amount: float) -> str:
    return f"{amount / 2**20:,.0f} MiB" if resource == "memory" else f"{amount:g} cores"
