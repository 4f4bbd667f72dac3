"""The agent `monitor`: starts what is current in a target folder and asks for its health, again and again."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Context, action
from noa_release_agents import __version__
from noa_release_agents.environment import Environment
from noa_release_agents.service import Answer, Service, list_agents

__all__ = ["MonitorAgent"]

_START_POLL_S = 0.05
_SHOWN = 10


class Health(TypedDict):
    """What is known of one agent after the watch."""

    version: Annotated[str, Field(description="That it says it has.")]
    start_ms: Annotated[float, Field(description="From its start until it said that it serves.")]
    checks: int
    errors: int
    p50_ms: float
    p95_ms: float


class Watched(TypedDict):
    """Outputs of watch."""

    release: str
    agents: dict[str, Health]
    checks: int
    errors: int
    start_ms: Annotated[float, Field(description="Of the slowest agent.")]
    p95_ms: Annotated[float, Field(description="Of the slowest agent.")]
    seconds: float


@dataclass(slots=True)
class _Seen:
    """What one agent answered."""

    start_ms: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [answer.message for answer in self.answers if not answer.ok]

    def health(self) -> Health:
        """The figures."""
        latencies = sorted(answer.latency_ms for answer in self.answers if answer.ok) or [0.0]
        return {
            "version": next((answer.version for answer in self.answers if answer.version), ""),
            "start_ms": self.start_ms,
            "checks": len(self.answers),
            "errors": len(self.errors),
            "p50_ms": latencies[(len(latencies) - 1) // 2],
            "p95_ms": latencies[round((len(latencies) - 1) * 0.95)],
        }


class MonitorAgent(Agent):
    """Watches."""

    name = "monitor"
    version = __version__

    @action(idempotent=True)
    async def watch(
        self,
        ctx: Context,
        target: Annotated[str, Field(min_length=1, description="The target folder.")],
        release: Annotated[str, Field(min_length=1, description="The release that is to be current.")],
        window_s: Annotated[float, Field(gt=0, description="How long it is watched.")] = 2.0,
        every_s: Annotated[float, Field(gt=0, description="How often each agent is asked.")] = 0.2,
        max_errors: Annotated[int, Field(ge=0, description="Bad answers that are let pass.")] = 0,
        max_latency_ms: Annotated[float, Field(gt=0, description="Limit of the 95th percentile.")] = 1000.0,
        start_timeout_s: Annotated[float, Field(gt=0, description="Until each must serve.")] = 30.0,
    ) -> Watched:
        """Start every agent of the current release and ask for its health; HEALTH_BAD where the answers are bad."""
        began = time.monotonic()
        environment = Environment(target)
        if environment.active != release:
            raise ActionFailed("TARGET_CHANGED", f"'{environment.active or 'nothing'}' is current, not '{release}'")
        folder = environment.folder(release)
        try:
            names = await list_agents(folder)
        except ValueError as error:
            raise ActionFailed("HEALTH_BAD", f"release {release} cannot be loaded: {error}") from error
        seen = {name: _Seen() for name in names}
        async with AsyncExitStack() as stack:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="noa-"))
            services = [Service(folder, name, Path(temporary, str(number))) for number, name in enumerate(names)]
            for service in services:
                stack.push_async_callback(service.stop)
                await service.start()
            starts = [_serving(service, start_timeout_s) for service in services]
            for service, start_ms in zip(services, await asyncio.gather(*starts), strict=True):
                seen[service.name].start_ms = start_ms
            await _ask_again_and_again(ctx, services, seen, window_s=window_s, every_s=every_s, max_errors=max_errors)
        agents = {name: one.health() for name, one in seen.items()}
        _judge(seen, agents, release, max_errors=max_errors, max_latency_ms=max_latency_ms)
        return {
            "release": release,
            "agents": agents,
            "checks": sum(one["checks"] for one in agents.values()),
            "errors": sum(one["errors"] for one in agents.values()),
            "start_ms": max(one["start_ms"] for one in agents.values()),
            "p95_ms": max(one["p95_ms"] for one in agents.values()),
            "seconds": round(time.monotonic() - began, 3),
        }


async def _serving(service: Service, timeout_s: float) -> float:
    """Wait until it says that it serves; how long that took, in milliseconds."""
    began = time.monotonic()
    while True:
        answer = await service.ask(timeout_s)
        took_s = time.monotonic() - began
        if answer.ok:
            return round(took_s * 1000, 1)
        if answer.final or took_s > timeout_s:
            raise ActionFailed(
                "HEALTH_BAD",
                f"agent '{service.name}' did not serve after {took_s:.1f} s: {answer.message}",
                details={"agent": service.name, "after_s": round(took_s, 3)},
            )
        await asyncio.sleep(_START_POLL_S)


async def _ask_again_and_again(
    ctx: Context,
    services: list[Service],
    seen: dict[str, _Seen],
    *,
    window_s: float,
    every_s: float,
    max_errors: int,
) -> None:
    """Until the window is over, or it is bad already: then it is not left in use for longer."""
    began = time.monotonic()
    rounds = 0
    while (now := time.monotonic()) < began + window_s or not rounds:
        for service, answer in zip(services, await asyncio.gather(*(s.ask(window_s) for s in services)), strict=True):
            seen[service.name].answers.append(answer)
            if not answer.ok:
                ctx.warning(f"agent '{service.name}': {answer.message}")
        if sum(len(one.errors) for one in seen.values()) > max_errors:
            return
        rounds += 1
        ctx.progress(min(1.0, (now - began) / window_s), done=rounds, unit="rounds", message="asked")
        await asyncio.sleep(max(0.0, min(began + rounds * every_s, began + window_s) - time.monotonic()))


def _judge(
    seen: dict[str, _Seen], agents: dict[str, Health], release: str, *, max_errors: int, max_latency_ms: float
) -> None:
    errors = [f"agent '{name}': {message}" for name, one in seen.items() for message in one.errors]
    details: dict[str, Any] = {"agents": agents}
    if len(errors) > max_errors:
        raise ActionFailed(
            "HEALTH_BAD",
            f"release {release} gave {len(errors)} bad answers, {max_errors} are let pass. The first: {errors[0]}",
            details={**details, "errors": errors[:_SHOWN]},
        )
    slow = [name for name, one in agents.items() if one["p95_ms"] > max_latency_ms]
    if slow:
        took_ms = agents[slow[0]]["p95_ms"]
        raise ActionFailed(
            "HEALTH_BAD",
            f"agent '{slow[0]}' of release {release} answers in {took_ms:g} ms (95th percentile), "
            f"more than max_latency_ms = {max_latency_ms:g}",
            details=details,
        )
