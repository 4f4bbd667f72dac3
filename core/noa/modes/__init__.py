"""Modes of execution: what is held for a person. `auto` holds nothing."""

from __future__ import annotations

from typing import ClassVar

from noa.plugin import Mode

__all__ = ["BUILTIN_MODES", "AutoMode"]


class AutoMode(Mode):
    """Holds nothing."""

    name: ClassVar[str] = "auto"
    description: ClassVar[str] = "Runs to the end without asking anybody."


BUILTIN_MODES = (AutoMode,)
