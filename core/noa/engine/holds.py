"""What becomes of a hold that was not approved. Pure."""

from __future__ import annotations

import msgspec

from noa.model.events import Hold
from noa.model.failure import Failure

__all__ = ["escalated", "rejected"]


def escalated(hold: Hold) -> Hold:
    """The hold after its time was over: others are asked, for as long as it takes."""
    return msgspec.structs.replace(hold, approvers=hold.escalate_to, timeout_ms=None, on_timeout="reject")


def rejected(subject: str, by: str, reason: str) -> Failure:
    """Why something that was not approved did not begin."""
    why = f": {reason}" if reason else ""
    return Failure("REJECTED", f"'{subject}' was rejected by {by or 'somebody'}{why}", details={"actor": by})
