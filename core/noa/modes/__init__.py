"""Modes of execution: what is held for a person. Registered through `noa_modes` like anybody's."""

from noa.modes.auto import AutoMode
from noa.modes.debug import DebugMode
from noa.modes.supervised import SupervisedMode

__all__ = ["BUILTIN_MODES", "AutoMode", "DebugMode", "SupervisedMode"]

BUILTIN_MODES = (AutoMode, SupervisedMode, DebugMode)
