"""The agents and definitions that the benchmarks run."""

from __future__ import annotations

from collections.abc import Sequence

from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.sdk import Agent, action


class Noop(Agent):
    """Does nothing, as fast as it can."""

    name = "noop"
    version = "1"

    @action(idempotent=True)
    async def noop(self) -> dict:
        return {}


class BenchPlugin:
    """Declares the no-op agent in process, and an SDK's echo agent as a sidecar or at an address."""

    def __init__(self, echo_command: tuple[str, ...], echo_address: str) -> None:
        self._command = echo_command
        self._address = echo_address

    @hookimpl
    def noa_agents(self) -> Sequence[AgentDeclaration]:
        found = [AgentDeclaration(name="noop", factory=Noop)]
        if self._command:
            found.append(AgentDeclaration(name="echo", kind="sidecar", command=self._command))
        if self._address:
            options = {"token_env": "BENCH_TOKEN"}
            found.append(AgentDeclaration(name="echo", kind="remote", addresses=(self._address,), options=options))
        return found


def registry(*, echo_command: tuple[str, ...] = (), echo_address: str = "") -> Registry:
    """noa's own plugin and the benchmark's, without the other installed ones."""
    import noa.builtins

    made = Registry()
    made.register(noa.builtins, "noa")
    made.register(BenchPlugin(echo_command, echo_address), "bench")
    return made


def chain(count: int, agent: str = "noop", action_name: str = "noop") -> dict:
    """`count` tasks, one after the other."""
    tasks = [{"name": f"t{i}", "agent": agent, "action": action_name} for i in range(count)]
    return _workflow("chain", {"name": "s", "type": "sequential", "tasks": tasks})


def fan_out(count: int, width: int, agent: str = "noop", action_name: str = "noop") -> dict:
    """`count` tasks, `width` at a time."""
    tasks = [{"name": f"t{i}", "agent": agent, "action": action_name} for i in range(count)]
    return _workflow("fan-out", {"name": "s", "type": "parallel", "max_parallel": width, "tasks": tasks})


def _workflow(name: str, *stages: dict) -> dict:
    return {"workflow": {"name": name, "version": "1", "stages": list(stages)}}
