"""Plans of one simulated agent `a`, and the events that a simulated run of them gives."""

from collections.abc import Callable, Sequence

import pytest

from noa.definitions import load_plan
from noa.model.plan import Plan
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentKind, Registry, hookimpl
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES
from noa.stages import BUILTIN_STAGE_TYPES


class NowhereKind(AgentKind):
    """An agent that definitions may name; a simulation executes for it."""

    name = "nowhere"

    def check(self, declaration: AgentDeclaration) -> str | None:
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        raise AssertionError("a simulated agent is never reached")


class CliTestPlugin:
    @hookimpl
    def noa_agents(self) -> Sequence[AgentDeclaration]:
        return [AgentDeclaration(name="a", kind="nowhere")]

    @hookimpl
    def noa_agent_kinds(self):
        return [NowhereKind()]

    @hookimpl
    def noa_stage_types(self):
        return [kind() for kind in BUILTIN_STAGE_TYPES]

    @hookimpl
    def noa_recovery_strategies(self):
        return [kind() for kind in BUILTIN_RECOVERY_STRATEGIES]


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(CliTestPlugin(), "cli-test")
    return made


@pytest.fixture
def compile_stages(registry: Registry) -> Callable[..., Plan]:
    """Compile stages (and more workflow keys) to a plan."""

    def compile_(*stages: dict, **workflow: object) -> Plan:
        return load_plan(
            {"workflow": {"name": "w", "version": "1", "stages": list(stages), **workflow}}, registry=registry
        )

    return compile_
