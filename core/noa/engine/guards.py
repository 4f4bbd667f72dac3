"""What guarding strategies, such as a circuit breaker, remember of agents in this process; shared by all runs.

The memory is theirs; here it is only kept. What they refuse is recorded as a failed attempt.
"""

from __future__ import annotations

import logging
from typing import Any, TypeAlias

from noa.engine.chains import Entry
from noa.model.failure import Failure

__all__ = ["Guards"]

log = logging.getLogger("noa.engine")

_Key: TypeAlias = tuple[str, str, str]


class Guards:
    """Memory by guard, agent and action."""

    def __init__(self) -> None:
        self._memory: dict[_Key, Any] = {}

    def admit(self, guards: tuple[Entry, ...], agent: str, action: str, now_ms: int) -> Failure | None:
        """The first refusal of an attempt; None lets it begin, and `observe` must then be told how it ended."""
        admitted: list[Entry] = []
        for guard in guards:
            key = (guard.guard, agent, action)
            memory, refusal = guard.strategy.admit(self._memory.get(key), now_ms, guard.options)
            self._memory[key] = memory
            if refusal is not None:
                # Guards before it let the attempt in, and must not wait for its end.
                self.observe(tuple(admitted), agent, action, _REFUSED, now_ms)
                return refusal
            admitted.append(guard)
        return None

    def observe(self, guards: tuple[Entry, ...], agent: str, action: str, failure: Failure | None, now_ms: int) -> None:
        """An admitted attempt ended; None where it succeeded."""
        for guard in guards:
            key = (guard.guard, agent, action)
            try:
                self._memory[key] = guard.strategy.observe(self._memory.get(key), failure, now_ms, guard.options)
            except Exception:  # foreign code; the attempt has its outcome, which must not be lost for it
                log.exception("recovery strategy '%s' raised while it was told how an attempt ended", guard.name)


_REFUSED = Failure("CANCELLED", "another guard refused the attempt")
