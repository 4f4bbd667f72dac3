"""Replaces the replicas of one agent that fail more than their work explains."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noa.orchestration.healing import FAULTS, Budget, judge
from noa.plugin import AgentDeclaration

if TYPE_CHECKING:
    from noa.orchestration.supervisor import Supervisor

__all__ = ["BAD_ADDRESS_S", "Healer"]

log = logging.getLogger("noa.orchestration")

BAD_ADDRESS_S = 30.0
"""How long an address that fails more than others gets no work."""


class Healer:
    """One agent's.

    Args:
        declaration: Of the agent.
        replicas: All that there may be.
    """

    def __init__(self, declaration: AgentDeclaration, replicas: Sequence[Supervisor]) -> None:
        self._declaration = declaration
        self._replicas = replicas
        self._budget = Budget()

    def worked(self, replica: Supervisor, task: str, code: str) -> bool:
        """Keep how an execution ended; a replica that is worse than none is replaced.

        Args:
            task: Idempotency key.
            code: Of its failure; empty where it succeeded.

        Returns:
            Whether the replica, which somebody else runs, is to be left alone for a while.
        """
        if code not in FAULTS:
            replica.record.well()
            return False
        now = time.monotonic()
        replica.record.fault(now, task, code)
        others = [other for other in self._replicas if other is not replica]
        if replica.state != "serving":
            return False
        reason = judge(replica.record, [other.record for other in others], now)
        if not reason:
            return False
        if not self._declaration.addresses:
            if self._budget.take(now):
                replica.replace(reason)
            return False
        if not any(other.state == "serving" for other in others):
            return False
        address = self._declaration.addresses[replica.index]
        log.warning(
            "%s of agent '%s' gets no work for %g s: %s", address, self._declaration.name, BAD_ADDRESS_S, reason
        )
        replica.record.clear()
        return True
