"""The JSON Schema of the language, with the keys of every registered stage type and recovery strategy."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from noa.definitions.models import DefinitionModel, StageModel, TaskModel
from noa.plugin.registry import Registry

__all__ = ["json_schema"]

_REFS = "#/$defs/"


def json_schema(registry: Registry) -> dict[str, Any]:
    """JSON Schema (2020-12) of a definition. Editors take completion and hover texts from it."""
    definitions: dict[str, Any] = {}
    root = _embedded(DefinitionModel, "", definitions)
    definitions["TaskModel"] = _embedded(TaskModel, "", definitions)
    stages = []
    for name, kind in registry.stage_types.items():
        key = f"Stage.{name}"
        definitions[key] = _stage(name, kind.options, kind.__doc__ or "", definitions)
        stages.append({"$ref": _REFS + key})
    definitions["Stages"] = {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["name", "type"],
            "properties": {"type": {"enum": list(registry.stage_types)}},
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": stage,
                }
                for name, stage in zip(registry.stage_types, stages, strict=True)
            ],
        },
    }
    definitions["Recovery"] = _recovery(registry, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "noa workflow",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _stage(name: str, options: type[BaseModel], text: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Common keys and the type's own in one object; where both have a key, the type's description counts."""
    common = _embedded(StageModel, "", definitions)
    own = _embedded(options, f"{name}.", definitions)
    required = dict.fromkeys([*common.get("required", ()), *own.get("required", ())])
    return {
        "type": "object",
        "title": f"{name} stage",
        "description": text.strip().split("\n", 1)[0],
        "properties": {**common["properties"], "type": {"const": name}, **own["properties"]},
        "required": list(required),
        "additionalProperties": False,
    }


def _recovery(registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    entries: list[dict[str, Any]] = [{"enum": list(registry.recovery_strategies)}]
    for name, strategy in registry.recovery_strategies.items():
        key = f"Recovery.{name}"
        definitions[key] = _embedded(strategy.options, f"{name}.", definitions)
        entries.append(
            {
                "type": "object",
                "properties": {name: {"anyOf": [{"$ref": _REFS + key}, {"type": "null"}]}},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return {
        "type": "array",
        "description": "Strategies for a failed attempt, tried in order; the nearest list counts.",
        "items": {"anyOf": entries},
    }


def _embedded(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A model's schema, its definitions moved to the shared ones; a plugin's own get a prefix, so that none collide."""
    schema = model.model_json_schema(by_alias=True)
    own = schema.pop("$defs", {})
    names = {name: name if definitions.get(name) == _renamed(part, {}) else prefix + name for name, part in own.items()}
    for name, part in own.items():
        definitions[names[name]] = _renamed(part, names)
    renamed: dict[str, Any] = _renamed(schema, names)
    return renamed


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        if "x-noa-ref" in value:  # a definition that is put together from what is registered
            rest = {key: part for key, part in value.items() if key not in ("x-noa-ref", "title")}
            return {"$ref": _REFS + value["x-noa-ref"], **rest}
        return {
            key: _REFS + names.get(part.removeprefix(_REFS), part.removeprefix(_REFS))
            if key == "$ref" and isinstance(part, str)
            else _renamed(part, names)
            for key, part in value.items()
        }
    return [_renamed(part, names) for part in value] if isinstance(value, list) else value
