"""Every hook of noa on one page. pluggy finds the plugins; what the hooks return does the work.

A plugin is a module or object with functions of these names, each marked `@noa.plugin.hookimpl`, found by the entry
point group `noa.plugins`, given by `--plugin FILE.py`, or registered by hand. Hooks are called once, when the registry
first needs them, in the order of the plugins' names; `noa_event` is the exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from noa.model.events import Event
    from noa.plugin.interfaces import (
        AgentDeclaration,
        AgentKind,
        AlertChannel,
        ArtifactStore,
        Journal,
        Mode,
        RecoveryStrategy,
        StageType,
    )

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "noa"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def noa_agents() -> Sequence[AgentDeclaration]:
    """Agents that definitions may name: an in-process class, a sidecar's command, or remote addresses."""
    raise NotImplementedError


@hookspec
def noa_agent_kinds() -> Sequence[AgentKind]:
    """Ways to reach an agent, named by `AgentDeclaration.kind`. In-process, sidecar and remote are built in."""
    raise NotImplementedError


@hookspec
def noa_stage_types() -> Sequence[StageType]:
    """Stage types, named by a stage's `type`. Pure: see `noa.plugin.StageType`."""
    raise NotImplementedError


@hookspec
def noa_recovery_strategies() -> Sequence[RecoveryStrategy]:
    """Recovery strategies, named in `recovery:` lists. Pure: see `noa.plugin.RecoveryStrategy`."""
    raise NotImplementedError


@hookspec
def noa_modes() -> Sequence[Mode]:
    """Modes of execution, named by `mode:` and `--mode`."""
    raise NotImplementedError


@hookspec
def noa_journals() -> Mapping[str, type[Journal]]:
    """Journals by URL scheme, such as `{"sqlite": SqliteJournal}`; called with the URL."""
    raise NotImplementedError


@hookspec
def noa_artifact_stores() -> Mapping[str, type[ArtifactStore]]:
    """Artifact stores by URL scheme, such as `{"file": FileArtifactStore}`; called with the URL."""
    raise NotImplementedError


@hookspec
def noa_alert_channels() -> Sequence[AlertChannel]:
    """Places where alerts go."""
    raise NotImplementedError


@hookspec
def noa_event(run_id: str, seq: int, event: Event) -> None:
    """Called after an event is on disk, in order for each run.

    Observe only: what it returns is ignored, what it raises is logged with the plugin's name, and a slow observer loses
    its oldest events, never delays a run.
    """


@hookspec
def noa_commands() -> Sequence[click.Command | Any]:
    """More commands of the `noa` program."""
    raise NotImplementedError
