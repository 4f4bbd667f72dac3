"""What every connection of a factory may use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from noa.plugin import ArtifactStore

__all__ = ["Places"]


class Places(NamedTuple):
    """Folders, store and mask for connections; see `noa.plugin.AgentContext`."""

    runtime_dir: Path
    log_dir: Path
    artifacts: ArtifactStore
    mask: Callable[[str], str] = str
