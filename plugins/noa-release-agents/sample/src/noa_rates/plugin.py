"""What noa finds by the entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from noa.plugin import AgentDeclaration, hookimpl

__all__ = ["noa_agents"]


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The agent `rates`, in a process of its own."""
    command = (sys.executable, "-m", "noa.sdk", "noa_rates.agent:RatesAgent")
    return [AgentDeclaration("rates", kind="sidecar", command=command, description="Knows what a parcel costs.")]
