"""What noa finds by the entry point. The services themselves live in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from noa.plugin import AgentDeclaration, hookimpl

__all__ = ["noa_agents"]

_DESCRIPTIONS = {
    "inventory": "Knows what a shop has: reserves goods, releases them, confirms their sale.",
    "payment": "Keeps the customers' accounts: charges them and refunds.",
    "shipping": "Books parcels with carriers and recalls them.",
}
_PASSED_ON = ("NOA_HOME", "NOA_ORDER_SERVICES", "NOA_ORDER_SERVICES_CRASH")
"""Variables of the engine that the services read, see `store`."""


@hookimpl
def noa_agents() -> Sequence[AgentDeclaration]:
    """The agents `inventory`, `payment` and `shipping`."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return [
        AgentDeclaration(
            name,
            kind="sidecar",
            command=(sys.executable, "-m", "noa_order_services", name),
            env=env,
            description=description,
        )
        for name, description in _DESCRIPTIONS.items()
    ]
