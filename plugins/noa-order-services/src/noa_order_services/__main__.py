"""`python -m noa_order_services inventory|payment|shipping|status`: the sidecars, and what is in their state."""

from __future__ import annotations

import sys

from noa.sdk import Agent, serve

__all__ = ["main"]


def main() -> int:
    """Serve until the engine ends it, or print the state; the exit status."""
    which = sys.argv[1] if len(sys.argv) == 2 else ""
    if which == "status":
        from noa_order_services.overview import overview

        sys.stdout.write(overview())
        return 0
    agent = _agent(which)
    if agent is None:
        sys.stderr.write("usage: noa-order-services status   (inventory, payment and shipping are started by noa)\n")
        return 2
    return serve(agent)


def _agent(name: str) -> Agent | None:
    if name == "inventory":
        from noa_order_services.inventory import InventoryAgent

        return InventoryAgent()
    if name == "payment":
        from noa_order_services.payment import PaymentAgent

        return PaymentAgent()
    if name == "shipping":
        from noa_order_services.shipping import ShippingAgent

        return ShippingAgent()
    return None


if __name__ == "__main__":
    sys.exit(main())
