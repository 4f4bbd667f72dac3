"""What noa finds by the entry point. Each agent's module is imported when the agent is first needed."""

from __future__ import annotations

from collections.abc import Sequence

from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import Agent

__all__ = ["noa_agents"]


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The four agents."""
    return [
        AgentDeclaration("builder", factory=_builder, description="Builds the wheel of a plugin package and tests it."),
        AgentDeclaration("deployer", factory=_deployer, description="Keeps releases side by side; one is current."),
        AgentDeclaration("monitor", factory=_monitor, description="Starts what was released and asks for its health."),
        AgentDeclaration("advisor", factory=_advisor, description="Proposes settings from what releases measured."),
    ]


def _builder() -> Agent:
    from noa_release_agents.builder import BuilderAgent

    return BuilderAgent()


def _deployer() -> Agent:
    from noa_release_agents.deployer import DeployerAgent

    return DeployerAgent()


def _monitor() -> Agent:
    from noa_release_agents.monitor import MonitorAgent

    return MonitorAgent()


def _advisor() -> Agent:
    from noa_release_agents.advisor import AdvisorAgent

    return AdvisorAgent()
