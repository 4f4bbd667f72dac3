"""Inputs of a workflow: their declarations, and the values that a run is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noa.definitions.models import WorkflowModel
from noa.definitions.problems import known, nearest
from noa.definitions.source import NodePath, Source
from noa.errors import InputError, Problem
from noa.model.plan import InputSpec, Plan

__all__ = ["check_inputs", "compile_inputs", "schema_problems"]


def compile_inputs(source: Source, workflow: WorkflowModel, problems: list[Problem]) -> dict[str, InputSpec]:
    """The declared inputs; a schema that is none, or a default that does not fit it, is added to `problems`."""
    found = {}
    for name, declared in workflow.inputs.items():
        path = ("workflow", "inputs", name)
        schema = {key: value for key, value in declared.items() if key != "default"}
        required = "default" not in declared
        fits = _check_schema(source, schema, path, problems)
        if not required and schema and fits:
            reason = _mismatch(schema, declared["default"])
            if reason:
                message = f"input '{name}': the default does not fit its own schema: {reason}"
                problems.append(source.problem("WRONG_VALUE", message, (*path, "default")))
        found[name] = InputSpec(schema, required, declared.get("default"))
    return found


def _check_schema(source: Source, schema: Mapping[str, Any], path: NodePath, problems: list[Problem]) -> bool:
    """Whether it is a JSON Schema whose keys are known; otherwise problems at the wrong keys."""
    if not schema:
        return True
    from jsonschema import Draft202012Validator

    keys = set(Draft202012Validator.VALIDATORS) | _ANNOTATIONS
    before = len(problems)
    for key in schema:
        if key not in keys and not key.startswith("x-"):
            message = f"input '{path[-1]}': unknown JSON Schema key '{key}'"
            near = nearest(key, keys)
            message += f". Did you mean '{near}'?" if near else ""
            problems.append(source.problem("UNKNOWN_KEY", message, (*path, key), key=True))
    for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema):
        below = (*path, *error.absolute_path)
        hint = "An input with a 'default' need not be given." if below[-1:] == ("required",) else ""
        if below[-1] == "type" and isinstance(error.instance, str):
            near = nearest(error.instance, _TYPES)
            text = f"'{error.instance}' is not a JSON Schema type. {known(error.instance, _TYPES)}" if near else (
                f"'{error.instance}' is not a JSON Schema type, expected one of {', '.join(_TYPES)}")  # fmt: skip
        else:
            text = f"not a JSON Schema: {error.message}"
        problems.append(source.problem("INVALID_SCHEMA", f"input '{path[-1]}': {text}", below, hint=hint))
    return len(problems) == before


_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_ANNOTATIONS = {"title", "description", "examples", "$comment", "$defs", "$id", "$schema", "$anchor",
                "definitions", "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding",
                "contentSchema", "default",
                "then", "else", "minContains", "maxContains", "$vocabulary", "$dynamicAnchor"}  # fmt: skip


def check_inputs(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a run: what was given, and the defaults of what was not.

    Raises:
        InputError: Some are missing, not known or do not fit their schema; the message names all of them.
    """
    inputs: dict[str, Any] = {}
    wrong: list[str] = []
    if not plan.open_inputs:
        wrong += [f"input '{n}' is not known. {known(n, plan.inputs)}" for n in given if n not in plan.inputs]
    for name, spec in plan.inputs.items():
        if name not in given:
            if spec.required:
                wrong.append(f"input '{name}' is missing{_described(spec)}")
            else:
                inputs[name] = spec.default
            continue
        inputs[name] = given[name]
        reason = _mismatch(spec.schema, given[name]) if spec.schema else ""
        if reason:
            wrong.append(f"input '{name}': {reason}")
    if wrong:
        raise InputError(f"workflow '{plan.name}': " + "\n".join(wrong), workflow=plan.name, reasons=wrong)
    return {**inputs, **given} if plan.open_inputs else inputs


def _described(spec: InputSpec) -> str:
    kind = spec.schema.get("type")
    text = spec.schema.get("description")
    parts = [str(p) for p in (f"type {kind}" if kind else "", text) if p]
    return f" ({'; '.join(parts)})" if parts else ""


def schema_problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What is wrong with a value by a JSON Schema, one sentence each; an empty schema takes anything."""
    if not schema:
        return []
    from jsonschema import Draft202012Validator

    found = Draft202012Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, e.absolute_path)) or 'the value'}: {e.message}" for e in found]


def _mismatch(schema: Mapping[str, Any], value: Any) -> str:
    """Why a value does not fit a schema; empty where it does."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(dict(schema)).iter_errors(value))
    if error is None:
        return ""
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    message = error.message if len(error.message) <= 300 else error.message[:297] + "…"
    return f"{where.lstrip('.')}: {message}" if where else message
