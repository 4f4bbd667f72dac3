"""Demands of tasks against the pools that could grant them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from noa.definitions.problems import known, place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import StagePlan

__all__ = ["HOST_POOLS", "check_demands"]

HOST_POOLS = ("cpu", "memory", "gpu")
"""Pools that every host has: cores, bytes, devices."""


def check_demands(
    source: Source,
    stages: Mapping[str, StagePlan],
    paths: Mapping[tuple[str, str, int], NodePath],
    declared: Mapping[str, float],
    host: Mapping[str, float] | None,
    problems: list[Problem],
) -> None:
    """Add a problem for each demand that no pool can ever grant.

    Args:
        declared: Capacity of the definition's pools; they stand before those of the host.
        host: Capacity of the host's pools; None where it is not known, then its demands are not judged.
    """
    pools: dict[str, float | None] = dict.fromkeys(HOST_POOLS)
    if host is not None:
        pools |= {name: host.get(name, 0.0) for name in HOST_POOLS} | dict(host)
    pools |= declared
    for stage in stages.values():
        for template in stage.templates.values():
            for index, task in enumerate(template.tasks):
                base = paths[stage.name, template.name, index]
                problems += _wrong_demands(source, task.resources, base, pools)
                if task.compensate is not None:
                    problems += _wrong_demands(source, task.compensate.resources, (*base, "compensate"), pools)


def _wrong_demands(
    source: Source, demands: Mapping[str, float], base: NodePath, pools: Mapping[str, float | None]
) -> Iterator[Problem]:
    for pool, demand in demands.items():
        reason = _refusal(pool, demand, pools)
        if reason:
            path = (*base, "resources", pool)
            if not source.has(path):  # from the defaults
                path = ("workflow", "defaults", "resources", pool)
            code = "IMPOSSIBLE_DEMAND" if pool in pools else "UNKNOWN_POOL"
            yield source.problem(code, f"{place(source, base)}{reason}", path)


def _refusal(pool: str, demand: float, pools: Mapping[str, float | None]) -> str:
    if pool not in pools:
        return f"resource pool '{pool}' is not known. {known(pool, pools)}"
    capacity = pools[pool]
    if capacity is not None and demand > capacity:
        return f"demands {_shown(pool, demand)} of '{pool}', which has {_shown(pool, capacity)}: it could never start"
    return ""


def _shown(pool: str, amount: float) -> str:
    if pool == "memory" and amount >= 1 << 20:
        return f"{amount / (1 << 20):,.0f} MiB"
    return f"{amount:g}"
