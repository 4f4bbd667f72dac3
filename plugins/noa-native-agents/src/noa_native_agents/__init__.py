"""Declares the agents `rust` and `go` and their workers, whose programs stand beside this Python or on the PATH."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from noa.plugin import AgentDeclaration, hookimpl

__all__ = ["program"]

WORKERS = 4
"""Processes of one worker at the most; each takes as many executions at once as the host gives it threads."""


def program(name: str) -> str:
    """Path of a program beside this Python, else on the PATH; the bare name where there is none."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=beside + os.pathsep + os.environ.get("PATH", "")) or name


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The agents `rust` and `go`, and `rust_worker` and `go_worker`, which may run several times."""
    return [
        AgentDeclaration(
            name="rust",
            kind="sidecar",
            command=(program("noa-rust-agent"),),
            description="Reads the host's limits and plans how to share work (Rust).",
        ),
        AgentDeclaration(
            name="go",
            kind="sidecar",
            command=(program("noa-go-agent"),),
            description="Starts services, waits until they are ready, and ends them with the run (Go).",
        ),
        AgentDeclaration(
            name="rust_worker",
            kind="sidecar",
            command=(program("noa-rust-worker"),),
            max_replicas=WORKERS,
            description="Hashes and compresses files (Rust).",
        ),
        AgentDeclaration(
            name="go_worker",
            kind="sidecar",
            command=(program("noa-go-worker"),),
            max_replicas=WORKERS,
            description="Hashes and compresses files (Go).",
        ),
    ]
