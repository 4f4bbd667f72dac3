"""Text to plan: definitions parsed with positions, validated, their expressions compiled.

Importing this package loads neither the CEL library nor JSON Schema validation; both come when a definition needs them.
"""

from noa.definitions.agents import agent_declaration
from noa.definitions.expressions import Evaluator, ExpressionError
from noa.definitions.inputs import check_inputs
from noa.definitions.loading import DICT_NAME, load_plan, parse_plan, pinned_texts
from noa.definitions.models import ExpressionText, Scope, TaskList, TaskModel
from noa.definitions.problems import explain

__all__ = [
    "DICT_NAME",
    "Evaluator",
    "ExpressionError",
    "ExpressionText",
    "Scope",
    "TaskList",
    "TaskModel",
    "agent_declaration",
    "check_inputs",
    "explain",
    "load_plan",
    "parse_plan",
    "pinned_texts",
]
