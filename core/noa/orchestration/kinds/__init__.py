"""The ways to reach an agent that are built in: in this process, as a sidecar process, over the network."""

from noa.orchestration.kinds.in_process import InProcessKind
from noa.orchestration.kinds.remote import RemoteKind
from noa.orchestration.kinds.sidecar import SidecarKind

__all__ = ["BUILTIN_AGENT_KINDS", "InProcessKind", "RemoteKind", "SidecarKind"]

BUILTIN_AGENT_KINDS = (InProcessKind, SidecarKind, RemoteKind)
"""For the hook `noa_agent_kinds` of the built-in plugin. None of them imports grpc before it connects."""
