"""The plugin that noa itself is: everything built in, through the same hooks as anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from noa.plugin import (
    AgentDeclaration,
    AgentKind,
    ArtifactStore,
    Journal,
    Mode,
    RecoveryStrategy,
    StageType,
    hookimpl,
)

__all__: list[str] = []


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The agent `factory`, by which a workflow starts, scales and ends others."""
    return [AgentDeclaration("factory", kind="pools", description="Starts, scales and ends replicas of other agents.")]


@hookimpl
def noa_agent_kinds() -> Sequence[AgentKind]:
    """In-process, sidecar, remote, and pools for agents that steer others."""
    from noa.orchestration.kinds import BUILTIN_AGENT_KINDS

    return [kind() for kind in BUILTIN_AGENT_KINDS]


@hookimpl
def noa_stage_types() -> Sequence[StageType]:
    """Sequential, parallel, conditional, loop."""
    from noa.stages import BUILTIN_STAGE_TYPES

    return [stage_type() for stage_type in BUILTIN_STAGE_TYPES]


@hookimpl
def noa_recovery_strategies() -> Sequence[RecoveryStrategy]:
    """Retry."""
    from noa.recovery import BUILTIN_RECOVERY_STRATEGIES

    return [strategy() for strategy in BUILTIN_RECOVERY_STRATEGIES]


@hookimpl
def noa_modes() -> Sequence[Mode]:
    """Auto."""
    from noa.modes import BUILTIN_MODES

    return [mode() for mode in BUILTIN_MODES]


@hookimpl
def noa_journals() -> Mapping[str, type[Journal]]:
    """SQLite; memory for tests and rehearsals, where nothing has to survive."""
    from noa.storage import SqliteJournal
    from noa.testing.memory_journal import MemoryJournal

    return {"memory": MemoryJournal, "sqlite": SqliteJournal}


@hookimpl
def noa_artifact_stores() -> Mapping[str, type[ArtifactStore]]:
    """Files."""
    from noa.storage import FileArtifactStore

    return {"file": FileArtifactStore}
