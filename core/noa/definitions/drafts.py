"""Data to models, stage by stage. What is wrong is reported and left out, so that the rest is still checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from noa.definitions.models import DefinitionModel, StageModel, TaskModel, WorkflowModel
from noa.definitions.problems import kind_of, known, model_problems, place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.plugin.interfaces import StageType, TemplateSpec

__all__ = ["PLACEHOLDER", "StageDraft", "read_stages", "read_workflow"]

PLACEHOLDER = "?"
"""Agent and action of a task whose own are wrong; such a task is not checked further."""

_STAGES: NodePath = ("workflow", "stages")
_COMMON_KEYS = tuple(StageModel.model_fields)
_NAMING_KEYS = ("name", "agent", "action", "workflow")
"""Keys of a task that its name may come from, or whose absence makes it a placeholder."""


@dataclass(slots=True)
class StageDraft:
    """A stage whose form was checked.

    Attributes:
        name: Its name, or a stand-in where that is wrong.
        path: Where it stands.
        model: Keys common to all stages.
        kind: Its type; None where that is wrong.
        options: The type's own keys; None where they are wrong.
        specs: Its task graphs.
        whole: Whether all its tasks are known; nobody is blamed for naming others where they are not.
    """

    name: str
    path: NodePath
    model: StageModel
    kind: StageType | None = None
    options: BaseModel | None = None
    specs: Sequence[TemplateSpec] = field(default_factory=list)
    whole: bool = False


def read_workflow(source: Source, problems: list[Problem]) -> WorkflowModel | None:
    """The workflow without its stages' contents; None where there is nothing that could be checked further."""
    data = source.data
    if not isinstance(data, dict):
        problems.append(source.problem("WRONG_TYPE", f"expected a mapping with 'workflow', got {kind_of(data)}", ()))
        return None
    workflow = data.get("workflow")
    # Stages are checked one by one; a copy without them keeps this cheap.
    shallow: Any = data
    if isinstance(workflow, dict) and isinstance(workflow.get("stages"), list) and workflow["stages"]:
        shallow = data | {"workflow": workflow | {"stages": [None]}}
    model: DefinitionModel | None = _validated(source, DefinitionModel, shallow, (), problems)
    if model is not None:
        return model.workflow
    if not isinstance(workflow, dict):
        return None
    stand_in = {"name": "unnamed", "stages": [None]}
    rest: WorkflowModel | None = _validated(
        source, WorkflowModel, shallow["workflow"], ("workflow",), [], again=True, stand_in=stand_in
    )
    return rest


def read_stages(source: Source, types: Mapping[str, StageType], problems: list[Problem]) -> list[StageDraft]:
    """The stages in the order of the file."""
    stages = source.data["workflow"].get("stages") if isinstance(source.data.get("workflow"), dict) else None
    if not isinstance(stages, list):
        return []
    found = (_read_stage(source, types, index, problems) for index in range(len(stages)))
    return [draft for draft in found if draft is not None]


def _read_stage(
    source: Source, types: Mapping[str, StageType], index: int, problems: list[Problem]
) -> StageDraft | None:
    path = (*_STAGES, index)
    raw = source.data["workflow"]["stages"][index]
    if not isinstance(raw, dict):
        problems.append(
            source.problem("WRONG_TYPE", f"stage {index + 1}: expected a mapping, got {kind_of(raw)}", path)
        )
        return None
    kind = _kind(source, types, raw, path, problems)
    if kind is not None:
        type_keys = _keys(kind.options)
    elif "type" in raw:
        type_keys = list(raw)  # which keys its type would have is not known
    else:
        type_keys = [key for each in types.values() for key in _keys(each.options)]
    for key in raw:
        if key not in _COMMON_KEYS and key not in type_keys:
            message = f"{place(source, path)}unknown key '{key}'. {known(key, [*_COMMON_KEYS, *type_keys])}"
            problems.append(source.problem("UNKNOWN_KEY", message, (*path, key), key=True))
    common = {k: v for k, v in raw.items() if k in _COMMON_KEYS}
    model = _validated(source, StageModel, common, path, problems)
    if model is None:
        stand_in = {"name": f"stage-{index + 1}", "type": "?"}
        model = _validated(source, StageModel, common, path, [], again=True, stand_in=stand_in)
    if model is None:
        return None
    draft = StageDraft(model.name, path, model, kind)
    if kind is not None:
        _read_options(source, kind, {k: v for k, v in raw.items() if k in type_keys}, draft, problems)
    return draft


def _kind(
    source: Source, types: Mapping[str, StageType], raw: dict[str, Any], path: NodePath, problems: list[Problem]
) -> StageType | None:
    name = raw.get("type")
    if not isinstance(name, str):
        return None  # the model reports it
    if name not in types:
        message = f"{place(source, path)}stage type '{name}' is not known. {known(name, types)}"
        problems.append(source.problem("UNKNOWN_STAGE_TYPE", message, (*path, "type")))
    return types.get(name)


def _read_options(
    source: Source, kind: StageType, raw: dict[str, Any], draft: StageDraft, problems: list[Problem]
) -> None:
    wrong: list[NodePath] = []
    try:
        draft.options = kind.options.model_validate(raw)
    except ValidationError as error:
        problems += model_problems(source, error, kind.options, draft.path)
        wrong = _places(error)
        draft.options = _validated(source, kind.options, raw, draft.path, [], again=True)
    at_odds = draft.options is None
    if at_odds:
        draft.options = _each_key(kind.options, raw)
    if draft.options is None:
        return
    try:
        draft.specs = list(kind.templates(draft.options))
        if at_odds:  # the type's keys contradict each other: which names its expressions have is not known
            draft.specs = [replace(spec, tasks=_without_expressions(spec.tasks)) for spec in draft.specs]
        draft.whole = at_odds or not any(_hides_names(place, draft.specs) for place in wrong)
    except Exception as error:  # foreign code: a plugin's stage type
        draft.whole = False
        if at_odds:
            return
        message = f"{place(source, draft.path)}stage type '{kind.name}' cannot read its options: {error}"
        problems.append(source.problem("STAGE_TYPE_FAILED", message, draft.path))


def _each_key(model: type[BaseModel], raw: dict[str, Any]) -> BaseModel | None:
    """The model of keys that fit, each by itself, but not together; None where one does not fit or is missing."""
    try:
        model.model_validate(raw)
    except ValidationError as error:
        if any(item["loc"] for item in error.errors(include_url=False)):
            return None
    values = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key in raw:
            hint: Any = Annotated[info.annotation, *info.metadata, None]
            try:
                values[key] = TypeAdapter(hint).validate_python(raw[key])
            except (ValidationError, PydanticUserError):  # its model knows more than its annotation says
                return None
    return model.model_construct(**values)


def _without_expressions(tasks: Sequence[TaskModel]) -> list[TaskModel]:
    return [task.model_copy(update={"inputs": None, "when": None}) for task in tasks]


def _places(error: ValidationError) -> list[NodePath]:
    """Where the node stands that each mistake makes unusable: a missing key that which should have it."""
    found = []
    for item in error.errors(include_url=False):
        found.append(item["loc"][:-1] if item["type"] == "missing" else item["loc"])
    return found


def _hides_names(loc: NodePath, specs: Sequence[TemplateSpec]) -> bool:
    """Whether a mistake at this place of a stage may leave tasks, or their names, unknown."""
    if not loc:
        return True
    for spec in specs:
        inside = loc[len(spec.path) + 1 :]
        if loc[: len(spec.path)] == tuple(spec.path) and inside and inside[0] not in _NAMING_KEYS:
            return False
    return any(loc[0] == spec.path[0] for spec in specs)


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _validated(
    source: Source,
    model: type[Any],
    raw: Any,
    path: NodePath,
    problems: list[Problem],
    *,
    again: bool = False,
    stand_in: Mapping[str, Any] | None = None,
) -> Any:
    """The model, or None with its problems.

    With `again` what is wrong is left out until the rest fits; `stand_in` has values for keys that are then not there.
    """
    for _ in range(4):
        try:
            return model.model_validate({**stand_in, **raw} if stand_in else raw)
        except ValidationError as error:
            problems += model_problems(source, error, model, path)
            if not again:
                return None
            raw = _pruned(raw, error)
    return None


def _pruned(raw: Any, error: ValidationError) -> Any:
    """A copy without the parts that are wrong; a task that is wrong as a whole becomes a placeholder."""
    copy = raw
    for loc in sorted(_places(error), key=lambda place: [str(part).zfill(8) for part in place], reverse=True):
        copy = _without(copy, loc)
    return copy


def _without(value: Any, loc: tuple[str | int, ...]) -> Any:
    """A copy without the node at `loc`, or the deepest one above it that exists: a loc may name more than is there."""
    if not loc or not _has(value, loc[0]):
        return value
    below = value[loc[0]]
    last = len(loc) == 1 or not _has(below, loc[1])
    if isinstance(value, dict):
        if last:
            return {k: v for k, v in value.items() if k != loc[0]}
        return value | {loc[0]: _without(below, loc[1:])}
    index = int(loc[0])
    kept = [_without(below, loc[1:])] if not last else []
    if last and (isinstance(below, dict) or any(isinstance(part, dict) for part in value)):
        kept = [_stand_in(below, index)]
    return [*value[:index], *kept, *value[index + 1 :]]


def _has(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _stand_in(raw: Any, index: int) -> dict[str, Any]:
    kept = {k: v for k, v in raw.items() if k in TaskModel.model_fields} if isinstance(raw, dict) else {}
    name = next((kept[k] for k in ("name", "action") if isinstance(kept.get(k), str)), f"task-{index + 1}")
    return kept | {"agent": PLACEHOLDER, "action": PLACEHOLDER, "name": name, "workflow": None}
