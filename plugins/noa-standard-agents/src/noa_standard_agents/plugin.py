"""What noa finds by the entry point. Each agent's module is imported when the agent is first needed."""

from __future__ import annotations

from collections.abc import Sequence

from noa.plugin import AgentDeclaration, hookimpl
from noa.sdk import Agent

__all__ = ["noa_agents"]


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The five agents."""
    return [
        AgentDeclaration("python", factory=_python, description="Reads the files of a folder and prepares them."),
        AgentDeclaration("worker", factory=_worker, description="Judges what a model said about files."),
        AgentDeclaration("storage", factory=_storage, description="Writes results for people and programs."),
        AgentDeclaration("deployment", factory=_deployment, description="Plans and proves work that workers share."),
        AgentDeclaration("notification", factory=_notification, description="Sends alerts."),
    ]


def _python() -> Agent:
    from noa_standard_agents.preprocessing import PythonAgent

    return PythonAgent()


def _worker() -> Agent:
    from noa_standard_agents.postprocessing import WorkerAgent

    return WorkerAgent()


def _storage() -> Agent:
    from noa_standard_agents.results import StorageAgent

    return StorageAgent()


def _notification() -> Agent:
    from noa_standard_agents.alerts import NotificationAgent

    return NotificationAgent()


def _deployment() -> Agent:
    from noa_standard_agents.deployment import DeploymentAgent

    return DeploymentAgent()
