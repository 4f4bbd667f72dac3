"""What every connection of a factory may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from noa.plugin import AgentDeclaration, ArtifactStore

__all__ = ["Places"]


def _as_declared(declaration: AgentDeclaration) -> AgentDeclaration:
    return declaration


class Places(NamedTuple):
    """Folders, store and mask for connections; see `noa.plugin.AgentContext`. `ready` puts secrets into a declaration
    that a connection is about to be made of, and nowhere else; it raises SecretError."""

    runtime_dir: Path
    log_dir: Path
    artifacts: ArtifactStore
    mask: Callable[[str], str] = str
    ready: Callable[[AgentDeclaration], AgentDeclaration] = _as_declared
