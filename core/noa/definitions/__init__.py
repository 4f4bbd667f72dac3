"""Text to plan: definitions parsed with positions, validated, their expressions compiled.

Importing this package loads neither the CEL library nor JSON Schema validation; both come when a definition needs them.
"""

from noa.definitions.agents import agent_declaration, with_secrets
from noa.definitions.expressions import Evaluator, ExpressionError
from noa.definitions.graph import critical_path, plan_dict, plan_mermaid, plan_text
from noa.definitions.inputs import check_inputs, schema_problems
from noa.definitions.loading import DICT_NAME, load_plan, parse_plan, pinned_texts
from noa.definitions.models import ExpressionText, Scope, TaskList, TaskModel
from noa.definitions.problems import explain
from noa.definitions.schema import json_schema

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
    "critical_path",
    "explain",
    "json_schema",
    "load_plan",
    "parse_plan",
    "pinned_texts",
    "plan_dict",
    "plan_mermaid",
    "plan_text",
    "schema_problems",
    "with_secrets",
]
