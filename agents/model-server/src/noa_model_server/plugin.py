"""What noa finds by the entry point. Imports nothing heavy: the network lives in the sidecar's process."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from noa.plugin import AgentDeclaration, hookimpl

__all__ = ["noa_agents"]


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The agents `ai_model` and `onnx`."""
    return [
        AgentDeclaration(
            "ai_model",
            kind="sidecar",
            command=(sys.executable, "-m", "noa_model_server"),
            description="Says what the content of files is, by a neural network.",
        ),
        AgentDeclaration(
            "onnx",
            kind="sidecar",
            command=(sys.executable, "-m", "noa_model_server", "onnx"),
            description="Runs any ONNX network that has a manifest over files.",
        ),
    ]
