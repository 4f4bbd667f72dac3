"""The ways to reach an agent that are built in: in this process, as a sidecar process, over the network.

`pools` is for agents of this process that steer the others.
"""

from noa.orchestration.kinds.in_process import InProcessKind
from noa.orchestration.kinds.pools import PoolsKind
from noa.orchestration.kinds.remote import RemoteKind
from noa.orchestration.kinds.sidecar import SidecarKind

__all__ = ["BUILTIN_AGENT_KINDS", "InProcessKind", "PoolsKind", "RemoteKind", "SidecarKind"]

BUILTIN_AGENT_KINDS = (InProcessKind, SidecarKind, RemoteKind, PoolsKind)
"""For the hook `noa_agent_kinds` of the built-in plugin. None of them imports grpc before it connects."""
