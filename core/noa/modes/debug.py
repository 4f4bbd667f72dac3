"""`debug`: breakpoints and steps hold, beside approvals."""

from __future__ import annotations

from typing import ClassVar

from noa.model.events import Hold
from noa.plugin import Gate, Mode

__all__ = ["DebugMode"]


class DebugMode(Mode):
    """Holds where the debugger stops; an approval is still an approval."""

    name: ClassVar[str] = "debug"
    description: ClassVar[str] = "Stops before the first task, at breakpoints and step by step; approvals wait too."
    watches: ClassVar[bool] = True
    debugs: ClassVar[bool] = True

    def gate(self, gate: Gate) -> Hold | None:
        return gate.stop or gate.approval
