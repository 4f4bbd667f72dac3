"""What an agent author imports.

    from noa.sdk import Agent, Context, action

    class Greeter(Agent):
        name = "greeter"

        @action(idempotent=True)
        async def greet(self, ctx: Context, name: str, times: int = 1) -> dict:
            return {"greeting": f"Hello, {name}! " * times}

In process the class is declared by a plugin's `noa_agents`; as a sidecar it is served by `python -m noa.sdk
MODULE:Greeter` or by `serve(Greeter())`. gRPC is imported by `serve` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from noa.model.payload import Artifact
from noa.sdk.agent import Agent, action
from noa.sdk.context import Context
from noa.sdk.failures import ActionCancelled, ActionFailed
from noa.sdk.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ActionCancelled", "ActionFailed", "Agent", "Artifact", "Context", "action", "serve", "write_whole"]


def serve(agent: Agent, *, environment: Mapping[str, str] | None = None) -> int:
    """Serve an agent as a sidecar until the engine ends it; returns the exit status.

    Args:
        agent: The agent object.
        environment: Where the NOA_AGENT_* variables stand; None is the process's.
    """
    from noa.sdk.server import serve as serve_sidecar  # grpc is slow to import and not needed in process

    return serve_sidecar(agent, environment=environment)
