"""Conditions of stages: true or false, or an error that names the stage and the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noa.definitions import ExpressionError
from noa.plugin.interfaces import StageView

__all__ = ["holds"]


def holds(stage: StageView, key: str, expression: Any, bindings: Mapping[str, Any] | None = None) -> bool:
    """Whether the condition under this key of a stage is true.

    Raises:
        ExpressionError: It failed, or gave something else than true or false.
    """
    value = stage.evaluate(expression, bindings)
    if value is not True and value is not False:
        name = stage.plan.name
        raise ExpressionError(f"stage '{name}': '{key}' gave {value!r}, expected true or false", stage=name)
    return value
