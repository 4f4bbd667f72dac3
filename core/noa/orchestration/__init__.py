"""Turns agent declarations into supervised pools, and assignments into outcomes.

Owns processes, sockets, gRPC channels and resource grants; knows nothing of workflows, stages or the journal. Importing
it does not import grpc: the first sidecar or remote agent does.
"""

from noa.orchestration.factory import AgentFactory
from noa.orchestration.resources import ResourceLedger, host_resources
from noa.orchestration.secrets import SecretVault
from noa.orchestration.status import AgentEvent, AgentState, AgentStatus, ReplicaStatus

__all__ = [
    "AgentEvent",
    "AgentFactory",
    "AgentState",
    "AgentStatus",
    "ReplicaStatus",
    "ResourceLedger",
    "SecretVault",
    "host_resources",
]
