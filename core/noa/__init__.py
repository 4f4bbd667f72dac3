"""noa: a unified workflow system. Durable runs in one process, agents in any language, one contract.

    result = noa.run_sync("definitions/unified-pipeline.yaml", inputs={"path": "."})

Names are imported when they are first used, so that importing `noa` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noa.errors import DefinitionError, InputError, NoaError
    from noa.model.failure import Failure
    from noa.modes.debugger import Debugger
    from noa.runtime import RunResult, Runtime, Settings, run, run_sync

__all__ = [
    "Debugger",
    "DefinitionError",
    "Failure",
    "InputError",
    "NoaError",
    "RunResult",
    "Runtime",
    "Settings",
    "run",
    "run_sync",
]

_HOMES = {
    "Debugger": "noa.modes.debugger",
    "DefinitionError": "noa.errors",
    "Failure": "noa.model.failure",
    "InputError": "noa.errors",
    "NoaError": "noa.errors",
    "RunResult": "noa.runtime",
    "Runtime": "noa.runtime",
    "Settings": "noa.runtime",
    "run": "noa.runtime",
    "run_sync": "noa.runtime",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'noa' has no attribute '{name}'")
