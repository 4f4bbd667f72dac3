"""`auto`: nobody is waited for."""

from __future__ import annotations

from typing import ClassVar

from noa.model.events import Hold
from noa.plugin import Mode

__all__ = ["AutoMode"]


class AutoMode(Mode):
    """What asks for a person takes the answer that the definition gives for the case that nobody comes in time."""

    name: ClassVar[str] = "auto"
    description: ClassVar[str] = "Runs to the end without asking anybody; approvals take their on_timeout at once."

    def resolves(self, hold: Hold) -> str | None:
        if hold.kind in ("breakpoint", "step", "failure"):
            return "continue"
        if hold.on_timeout == "retry":
            # Its time is the pause between the tries: at once, it would be tried without end.
            return None if hold.timeout_ms is not None else "fail"
        # Who would be asked next is not waited for either.
        return "reject" if hold.on_timeout == "escalate" else hold.on_timeout
