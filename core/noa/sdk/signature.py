"""From a method's annotations to its inputs, its outputs and their JSON Schemas. Everything is built once."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import is_typeddict  # pydantic brings it, and on 3.11 accepts its TypedDict alone

from noa.errors import PluginError
from noa.model.payload import Artifact
from noa.sdk.context import Context
from noa.sdk.failures import ActionFailed

__all__ = ["Bind", "Inputs", "Outputs", "type_hints"]

Bind = Callable[[dict[str, Any]], dict[str, Any]]
"""From an input object to keyword arguments; raises pydantic's ValidationError."""

_WHOLE = "inputs"


def type_hints(function: Callable[..., Any], where: str) -> dict[str, Any]:
    """The annotations of a method, resolved.

    Raises:
        PluginError: A name in them is not defined in its module.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise PluginError(
            f"{where}: annotations cannot be resolved: {error}. Types of actions must be defined or imported at the "
            "top of the module",
            plugin="",
        ) from error


class Inputs:
    """The inputs of an action.

    Attributes:
        bind: Gives the keyword arguments for an input object; None where the action takes no input, so that such an
            action costs nothing.
        context: Name of the parameter that takes the Context; empty where there is none.
        schema: JSON Schema of the input object; empty means any object.
    """

    __slots__ = ("bind", "context", "schema")

    def __init__(self, function: Callable[..., Any], hints: Mapping[str, Any], where: str) -> None:
        self.bind: Bind | None = None
        self.context = ""
        self.schema: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        whole: TypeAdapter[Any] | None = None
        rest = False
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name, Any)
            if hint is Context or (parameter.name == "ctx" and hint is Any):
                self.context = parameter.name
            elif parameter.kind is parameter.VAR_KEYWORD:
                rest = True
            elif parameter.kind in {parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY}:
                raise PluginError(
                    f"{where}: parameter '{parameter.name}' is positional only, but inputs have names", plugin=""
                )
            elif parameter.name == _WHOLE and _is_object(hint):
                whole = _adapter(hint, where)
            else:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[parameter.name] = (hint, default)
        if whole is not None and (fields or rest):
            raise PluginError(f"{where}: 'inputs' takes the whole object, so there can be no other input", plugin="")
        if whole is not None:
            self.bind, self.schema = _bind_whole(whole), _schema(whole, where, "validation")
        elif fields or rest:
            model = _model(function.__name__, fields, where)
            self.bind = _bind_fields(model, fields, self.context if rest else None)
            self.schema = _schema(TypeAdapter(model), where, "validation")
            if rest and fields:
                self.schema["additionalProperties"] = True


class Outputs:
    """The outputs of an action.

    Attributes:
        schema: JSON Schema of the output object; empty means any object.
    """

    __slots__ = ("_adapter", "schema")

    def __init__(self, hint: Any, where: str) -> None:
        self._adapter: TypeAdapter[Any] | None = None
        self.schema: dict[str, Any] = {}
        if hint in {None, type(None), Any} or hint is Artifact or typing.get_origin(hint) is typing.Annotated:
            return
        if not _is_object(hint):
            raise PluginError(
                f"{where}: returns {hint!r}, but outputs are an object: annotate a dict, TypedDict, pydantic model, "
                "dataclass or None",
                plugin="",
            )
        if _is_plain_dict(hint):
            return
        self._adapter = _adapter(hint, where)
        self.schema = _schema(self._adapter, where, "serialization")

    def to_json(self, value: Any) -> dict[str, Any]:
        """The JSON object that a result is.

        Raises:
            ActionFailed: INVALID_OUTPUT: it does not fit the annotation, or is no JSON object.
        """
        if value is None and self._adapter is None:
            return {}
        if isinstance(value, dict) and not value and self._adapter is None:
            return {}
        try:
            if self._adapter is not None:
                value = self._adapter.validate_python(value)
            result = to_jsonable_python(value, fallback=_jsonable, inf_nan_mode="null")
            msgspec.json.encode(result)  # finds text that is not UTF-8, where its author can still be named
        except ValidationError as error:
            problems = explain(error)
            raise ActionFailed(
                "INVALID_OUTPUT", f"outputs do not fit their declaration: {_sentence(problems)}",
                details={"errors": problems},
            ) from error  # fmt: skip
        except (PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
            raise ActionFailed("INVALID_OUTPUT", f"outputs are not JSON: {error}") from error
        if not isinstance(result, dict) or Artifact.from_json(result) is not None:
            raise ActionFailed(
                "INVALID_OUTPUT", f"outputs must be an object such as {{'result': …}}, got {type(value).__name__}"
            )
        return result


def explain(error: ValidationError) -> list[dict[str, str]]:
    """Each mistake as `{"field", "message", "type"}`."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=True):
        message = item["msg"]
        if item["type"] != "missing":
            message += f" (got {_short(item['input'])})"
        found.append({"field": ".".join(map(str, item["loc"])), "message": message, "type": item["type"]})
    return found


def invalid_input(action: str, error: ValidationError) -> ActionFailed:
    """The failure for inputs that do not fit; names each field."""
    problems = explain(error)
    return ActionFailed("INVALID_INPUT", f"action '{action}': {_sentence(problems)}", details={"errors": problems})


def _sentence(problems: list[dict[str, str]]) -> str:
    return "; ".join(f"field '{p['field']}': {p['message']}" if p["field"] else p["message"] for p in problems[:10])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_object(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return (
        is_typeddict(origin)
        or dataclasses.is_dataclass(origin)
        or (inspect.isclass(origin) and issubclass(origin, (BaseModel, Mapping)))
    )


def _is_plain_dict(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    if is_typeddict(origin) or not inspect.isclass(origin):
        return False
    return issubclass(origin, Mapping) and (not arguments or arguments[1] is Any)


def _adapter(hint: Any, where: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint)
    except PydanticUserError as error:
        raise PluginError(f"{where}: type {hint!r} cannot stand for JSON: {error.message}", plugin="") from error


def _model(name: str, fields: dict[str, Any], where: str) -> type[BaseModel]:
    # Aliases keep parameter names free that pydantic keeps for itself (`schema`, `copy`, `_private`).
    renamed: dict[str, Any] = {}
    for key, (hint, default) in fields.items():
        renamed[f"p_{key}"] = (hint, default)
    try:
        return create_model(
            name,
            __config__=ConfigDict(
                extra="ignore",
                arbitrary_types_allowed=False,
                alias_generator=lambda key: key.removeprefix("p_"),
                protected_namespaces=(),
            ),
            **renamed,
        )
    except PydanticUserError as error:
        raise PluginError(f"{where}: an input's type cannot stand for JSON: {error.message}", plugin="") from error


def _bind_fields(model: type[BaseModel], fields: Mapping[str, Any], rest_but: str | None) -> Bind:
    """Keyword arguments from the model's fields, and the other fields too unless `rest_but` is None.

    A parameter that was not given is left to the method's own default, so that mutable defaults stay the author's.
    """
    validate = model.__pydantic_validator__.validate_python
    names = [(f"p_{name}", name) for name in fields]

    def bind(inputs: dict[str, Any]) -> dict[str, Any]:
        made: Any = validate(inputs)
        arguments = {name: getattr(made, field) for field, name in names if field in made.__pydantic_fields_set__}
        if rest_but is not None:
            arguments.update((k, v) for k, v in inputs.items() if k not in fields and k not in {rest_but, "self"})
        return arguments

    return bind


def _bind_whole(adapter: TypeAdapter[Any]) -> Bind:
    validate = adapter.validator.validate_python

    def bind(inputs: dict[str, Any]) -> dict[str, Any]:
        return {_WHOLE: validate(inputs)}

    return bind


def _schema(
    adapter: TypeAdapter[Any], where: str, mode: typing.Literal["validation", "serialization"]
) -> dict[str, Any]:
    try:
        schema = adapter.json_schema(mode=mode)
    except PydanticUserError as error:
        raise PluginError(f"{where}: a type has no JSON Schema: {error.message}", plugin="") from error
    schema.pop("title", None)
    if schema.get("additionalProperties") is True and "properties" not in schema:
        del schema["additionalProperties"]
    return schema


def _jsonable(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.to_json()
    raise TypeError(f"a value of type {type(value).__name__} cannot stand in JSON")
