"""The Debug Adapter Protocol over `noa.modes.debugger`: what an editor says, and what it is shown. No I/O here."""

from __future__ import annotations

from noa.modes.dap.base import Debugged, Runs
from noa.modes.dap.protocol import Malformed, Reader, encode
from noa.modes.dap.session import Session

__all__ = ["Debugged", "Malformed", "Reader", "Runs", "Session", "encode"]
