"""`supervised`: approvals wait for a person, and so does what a strategy asks."""

from __future__ import annotations

from typing import ClassVar

from noa.model.events import Hold
from noa.plugin import Mode

__all__ = ["SupervisedMode"]


class SupervisedMode(Mode):
    """Holds where the definition wants an approval."""

    name: ClassVar[str] = "supervised"
    description: ClassVar[str] = "Waits for a person at approvals, by the definition's rules, and where a task asks."

    def resolves(self, hold: Hold) -> str | None:
        return "continue" if hold.kind in ("breakpoint", "step", "failure") else None
