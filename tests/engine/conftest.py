"""A registry with the built-in stage types and strategies, and one agent `a` that takes any action."""

from collections.abc import Callable, Sequence

import pytest

from noa.definitions import load_plan
from noa.model.plan import Plan
from noa.modes import BUILTIN_MODES
from noa.plugin import (
    AgentConnection,
    AgentContext,
    AgentDeclaration,
    AgentKind,
    Registry,
    hookimpl,
)
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES
from noa.stages import BUILTIN_STAGE_TYPES


class NowhereKind(AgentKind):
    """An agent that definitions may name; tests execute for it themselves."""

    name = "nowhere"

    def check(self, declaration: AgentDeclaration) -> str | None:
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        raise AssertionError("a simulated agent is never reached")


class EngineTestPlugin:
    @hookimpl
    def noa_agents(self) -> Sequence[AgentDeclaration]:
        return [AgentDeclaration(name=name, kind="nowhere") for name in ("a", "b")]

    @hookimpl
    def noa_agent_kinds(self):
        return [NowhereKind()]

    @hookimpl
    def noa_stage_types(self):
        return [kind() for kind in BUILTIN_STAGE_TYPES]

    @hookimpl
    def noa_modes(self):
        return [kind() for kind in BUILTIN_MODES]

    @hookimpl
    def noa_recovery_strategies(self):
        return [kind() for kind in BUILTIN_RECOVERY_STRATEGIES]


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(EngineTestPlugin(), "engine-test")
    return made


@pytest.fixture
def compile_stages(registry: Registry) -> Callable[..., Plan]:
    """Compile stages (and more workflow keys) to a plan."""

    def compile_(*stages: dict, **workflow: object) -> Plan:
        return load_plan(
            {"workflow": {"name": "w", "version": "1", "stages": list(stages), **workflow}}, registry=registry
        )

    return compile_
