"""Expressions of a definition: compiled, and every name in them checked against what is in scope where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from noa.definitions.expressions import (
    BASE_NAMES,
    Analysis,
    Evaluator,
    ExpressionError,
    Mistake,
    SyntaxMistakes,
    analyse,
)
from noa.definitions.models import ExpressionText
from noa.definitions.problems import known, nearest, place
from noa.definitions.references import Use, chain_of
from noa.definitions.source import NodePath, Source
from noa.definitions.templates import Hole, UnclosedError, holes_of
from noa.errors import Problem
from noa.model.plan import Expression, Interpolation, Position, Reference, Template
from noa.model.secrets import ROOT as SECRETS

__all__ = [
    "CHAIN_NAMES",
    "FAILURE",
    "FAILURE_FIELDS",
    "INPUT_NAMES",
    "OUTPUTS",
    "RUN_FIELDS",
    "STAGE_NAMES",
    "TASK_NAMES",
    "ExpressionCompiler",
    "Place",
    "StageNames",
]

RUN_FIELDS = ("id", "workflow")
"""What `run` has."""

FAILURE = "failure"
"""In scope of a chain's options: why the attempt failed."""

FAILURE_FIELDS = ("code", "message", "retryable", "details")
"""What `failure` has."""

OUTPUTS = "outputs"
"""In scope of a compensation: what its task gave."""

CHAIN_NAMES = ("inputs", "run", FAILURE)
"""In scope of a chain that counts for several tasks."""

STAGE_NAMES = ("inputs", "stages", "run")
"""In scope of a stage's own keys and of a workflow's outputs."""

TASK_NAMES = (*STAGE_NAMES, "tasks")
"""In scope of a task."""

INPUT_NAMES = (*TASK_NAMES, SECRETS)
"""In scope of a task's inputs."""

_ATTRIBUTES = ("outputs", "status")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HYPHENATED = re.compile(r"\.([A-Za-z_]\w*(?:-\w+)+)")
_HINTS = {
    "item": "It exists in the tasks of a loop with 'for_each'.",
    "index": "It exists in the tasks of a loop.",
    "previous": "It exists in loops whose iterations run one after the other.",
    "failure": "It exists in the options of a 'recovery' list.",
    "outputs": "It exists in 'compensate'; elsewhere use tasks.<task>.outputs.",
    "tasks": "It exists in tasks; elsewhere use stages.<stage>.<task>.",
}
_ARTICLE = {"int": "a number", "uint": "a number", "double": "a number", "string": "text", "null": "null"}


@dataclass(slots=True)
class StageNames:
    """What can be named of a stage: its tasks; `whole` is false where some of them are not known."""

    tasks: frozenset[str]
    whole: bool = True


@dataclass(slots=True)
class Place:
    """Where an expression stands.

    Attributes:
        names: In scope.
        stage: Of which stage, or None for the workflow's outputs.
        tasks: Of the same block by name; None outside of tasks.
        whole: Whether all tasks of the block are known; nobody is blamed for naming others where they are not.
        hint: Why other names are not in scope; empty where that needs no words.
    """

    names: tuple[str, ...]
    stage: str | None = None
    tasks: Mapping[str, int] | None = None
    whole: bool = True
    hint: str = ""

    def and_names(self, *names: str) -> Place:
        """The same place with more names in scope."""
        return replace(self, names=(*self.names, *names))


@dataclass(slots=True)
class ExpressionCompiler:
    """Compiles the expressions of one document. Mistakes are added to `problems`.

    Attributes:
        inputs: Schemas of the declared inputs by name; None where any input is taken.
        stages: What can be named of each stage.
        extra: Names that some scope of the document binds; one that is not in scope where it stands is told apart from
            one that nobody knows.
    """

    source: Source
    problems: list[Problem]
    inputs: Mapping[str, Mapping[str, Any]] | None
    stages: Mapping[str, StageNames] = field(default_factory=dict)
    extra: frozenset[str] = frozenset({"item", "index", "previous"})

    def condition(self, text: ExpressionText, path: NodePath, where: Place) -> Expression | None:
        """A bare expression that must give true or false."""
        return self.bare(text, path, where, boolean=True)

    def bare(self, text: str, path: NodePath, where: Place, *, boolean: bool = False) -> Expression | None:
        """A bare expression; one in `${{ }}` is taken as well."""
        inner, offset = text.strip(), len(text) - len(text.lstrip())
        if inner.startswith("${{"):
            holes = self._holes(text.rstrip(), path)
            if holes is None:
                return None
            found = [h for h in holes if isinstance(h, Hole) or h.strip()]
            if len(found) != 1 or not isinstance(found[0], Hole):
                self._add("EXPRESSION_SYNTAX", path, "expected one bare CEL expression, without text around it", "")
                return None
            inner, offset = found[0].text, found[0].offset
        return self._compile(inner, text, offset, path, where, boolean=boolean)

    def template(self, value: Any, path: NodePath, where: Place) -> Template:
        """JSON with its `${{ }}` compiled; the value itself where it has none."""
        if type(value) is str:
            return self._text(value, path, where) if "${{" in value else value
        if type(value) is dict:
            made = {key: self.template(part, (*path, key), where) for key, part in value.items()}
            return value if all(made[key] is value[key] for key in value) else made
        if type(value) is list:
            parts = [self.template(part, (*path, index), where) for index, part in enumerate(value)]
            return value if all(new is old for new, old in zip(parts, value, strict=True)) else parts
        return value

    def _text(self, value: str, path: NodePath, where: Place) -> Template:
        holes = self._holes(value.rstrip("\n"), path)
        if holes is None:
            return value
        parts: list[str | Expression] = []
        for hole in holes:
            if isinstance(hole, str):
                parts.append(hole)
            elif (made := self._compile(hole.text, value, hole.offset, path, where)) is not None:
                parts.append(made)
        if len(parts) == 1:
            return parts[0]
        return Interpolation(tuple(parts))

    def _holes(self, text: str, path: NodePath) -> list[str | Hole] | None:
        try:
            return holes_of(text)
        except UnclosedError as error:
            at = self.source.text_position(path, text, error.offset)
            self._add("EXPRESSION_SYNTAX", path, "'${{' has no '}}'", "Write $${{ for the characters themselves.", at)
            return None

    def _compile(
        self, inner: str, text: str, offset: int, path: NodePath, where: Place, *, boolean: bool = False
    ) -> Expression | None:
        if not inner:
            self._add(
                "EXPRESSION_SYNTAX", path, "the expression is empty", "", self.source.text_position(path, text, offset)
            )
            return None
        try:
            analysis = analyse(inner, tuple(sorted(self.extra.union(where.names))))
        except SyntaxMistakes as error:
            self._syntax(error.mistakes, inner, text, offset, path, where)
            return None
        before = len(self.problems)
        references: dict[Reference, None] = {}
        for use in analysis.uses:
            at = self.source.text_position(path, text, offset + use.offset)
            reference = self._use(use, at, inner, path, where)
            if reference is not None:
                references[reference] = None
        roots = tuple(dict.fromkeys(use.root for use in analysis.uses))
        made = Expression(inner, self.source.text_position(path, text, offset), tuple(references), roots)
        if len(self.problems) == before:
            self._result(analysis, made, path, boolean)
        return made

    def _result(self, analysis: Analysis, made: Expression, path: NodePath, boolean: bool) -> None:
        """A condition must be boolean, and what reads nothing must not fail."""
        gives = analysis.gives
        if gives == "dyn" and len(analysis.uses) == 1 and boolean:
            gives = self._declared(analysis.uses[0], made.text)
        if boolean and gives not in ("bool", "dyn"):
            what = _ARTICLE.get(gives, f"a {gives.split('<')[0]}")
            self._add("NOT_BOOLEAN", path, f"expected an expression that is true or false, `{made.text}` gives {what}",
                      "Compare it with something.", made.position)  # fmt: skip
        if not made.roots:
            try:
                Evaluator().evaluate(made, {})
            except ExpressionError as error:
                self._add("EXPRESSION_ERROR", path, error.message.replace(f" (line {made.position.line}, column "
                          f"{made.position.column})", ""), "", made.position)  # fmt: skip

    def _declared(self, use: Use, text: str) -> str:
        """The type of an expression that is only this access, where the declaration of an input tells it."""
        if "." not in text or "(" in text or "?" in text or "[" in text:
            return "dyn"
        if use.root in ("stages", "tasks") and use.path[-1:] == ("status",):
            return "string"
        if use.root == "inputs" and len(use.path) == 1 and self.inputs:
            declared = self.inputs.get(str(use.path[0]), {}).get("type")
            names = {"string": "string", "integer": "int", "number": "double", "array": "list", "object": "map"}
            return names.get(declared, "dyn") if isinstance(declared, str) else "dyn"
        return "dyn"

    def _syntax(
        self, mistakes: Sequence[Mistake], inner: str, text: str, offset: int, path: NodePath, where: Place
    ) -> None:
        seen: set[str] = set()
        for mistake in mistakes:
            if mistake.message in seen:
                continue
            seen.add(mistake.message)
            at = self.source.text_position(path, text, offset + mistake.offset)
            name = mistake.name.split(".")[0]
            if mistake.name and not _is_call(inner, mistake):
                self._unknown_name(name, at, inner, path, where)
            elif mistake.name:
                self._add("UNKNOWN_FUNCTION", path, f"function '{mistake.name}' is not known in `{inner}`", "", at)
            else:
                self._add("EXPRESSION_SYNTAX", path, f"expression `{_clip(inner)}`: {mistake.message}",
                          self._hyphen_hint(inner), at)  # fmt: skip

    def _unknown_name(self, name: str, at: Position, inner: str, path: NodePath, where: Place) -> None:
        if name == SECRETS:
            message = "secrets are in scope of a task's 'inputs' only: what is decided elsewhere is recorded"
            self._add("SECRET_MISUSED", path, message, "Pass it on to the task that needs it.", at)
            return
        hint = self._hyphen_hint(inner)
        message = f"name '{name}' is not in scope here. In scope: {', '.join(sorted(where.names))}."
        near = nearest(name, where.names)
        if where.hint and not hint:
            hint = where.hint
        elif name in _HINTS and not hint:
            hint = _HINTS[name]
        elif near and near != name:
            message += f" Did you mean '{near}'?"
        elif not hint and self._is_input(name):
            hint = f"Write inputs.{name}."
        self._add("UNKNOWN_NAME", path, message, hint, at)

    def _is_input(self, name: str) -> bool:
        return self.inputs is not None and name in self.inputs

    def _use(self, use: Use, at: Position, inner: str, path: NodePath, where: Place) -> Reference | None:
        """Check one access; the reference that it is, where it reads a task."""
        if use.root not in where.names:
            self._unknown_name(use.root, at, inner, path, where)
        elif use.root == "inputs":
            self._field(use, self.inputs, "input", at, path)
        elif use.root == "run":
            self._field(use, RUN_FIELDS, "field of run", at, path)
        elif use.root == FAILURE:
            self._field(use, FAILURE_FIELDS, "field of failure", at, path)
        elif use.root == SECRETS:
            self._secret(use, at, inner, path)
        elif use.root == "tasks":
            return self._task_use(use, at, inner, path, where)
        elif use.root == "stages":
            return self._stage_use(use, at, inner, path)
        return None

    def _field(self, use: Use, names: Iterable[str] | None, what: str, at: Position, path: NodePath) -> None:
        if names is None or not use.path or str(use.path[0]) in names:
            return
        name = str(use.path[0])
        self._add("UNKNOWN_INPUT" if what == "input" else "UNKNOWN_NAME", path,
                  f"{what} '{name}' is not known. {known(name, names)}", "", at)  # fmt: skip

    def _secret(self, use: Use, at: Position, inner: str, path: NodePath) -> None:
        """A secret is passed on as it is; nothing can be computed from it, because the result would be recorded."""
        name = str(use.path[0]) if use.path else ""
        if use.dynamic or len(use.path) != 1 or chain_of(inner) != (SECRETS, name):
            message = "a secret can only be passed on as it is: ${{ secrets.NAME }}, alone or inside other text"
            hint = "Nothing can be computed from a secret: the result would be recorded."
            self._add("SECRET_MISUSED", path, message, hint, at)
        elif not _SECRET_NAME.fullmatch(name):
            self._add("SECRET_MISUSED", path, f"'{name}' cannot name a secret: letters, digits and '_' are expected",
                      "It is looked up as the environment variable NOA_SECRET_<NAME>, or as a file.", at)  # fmt: skip

    def _task_use(self, use: Use, at: Position, inner: str, path: NodePath, where: Place) -> Reference | None:
        if not self._literal(use, 1, "tasks.<task>.outputs", at, path):
            return None
        task = str(use.path[0])
        if where.tasks is not None and task not in where.tasks:
            if where.whole:
                self._add("UNKNOWN_REFERENCE", path, f"task '{task}' is not in this stage. {known(task, where.tasks)}",
                          self._hyphen_hint(inner), at)  # fmt: skip
            return None
        return self._reference(None, task, use.path[1:], use, at, path)

    def _stage_use(self, use: Use, at: Position, inner: str, path: NodePath) -> Reference | None:
        if not self._literal(use, 2, "stages.<stage>.<task>.outputs", at, path):
            return None
        stage, task = str(use.path[0]), str(use.path[1]) if len(use.path) > 1 else ""
        hint = self._hyphen_hint(inner)
        names = self.stages.get(stage)
        if names is None:
            self._add("UNKNOWN_REFERENCE", path, f"stage '{stage}' is not known. {known(stage, self.stages)}", hint, at)
            return None
        if task not in names.tasks:
            if names.whole:
                message = f"stage '{stage}' has no task '{task}'. {known(task, names.tasks)}"
                self._add("UNKNOWN_REFERENCE", path, message, hint, at)
            return None
        return self._reference(stage, task, use.path[2:], use, at, path)

    def _literal(self, use: Use, depth: int, form: str, at: Position, path: NodePath) -> bool:
        """Whether an access names at least so many parts literally; otherwise a problem."""
        if len(use.path) >= depth:
            return True
        if use.dynamic:
            message = f"'{use.root}' must be followed by names that are known beforehand, as in {form}"
            self._add("DYNAMIC_REFERENCE", path, message, "A computed name would hide what the task waits for.", at)
        elif use.root == "stages" and use.path and str(use.path[0]) not in self.stages:
            stage = str(use.path[0])
            self._add("UNKNOWN_REFERENCE", path, f"stage '{stage}' is not known. {known(stage, self.stages)}", "", at)
        else:
            self._add("INCOMPLETE_REFERENCE", path, f"'{use.root}' cannot be read as a whole, expected {form}", "", at)
        return False

    def _reference(
        self, stage: str | None, task: str, rest: Sequence[str | int], use: Use, at: Position, path: NodePath
    ) -> Reference | None:
        if not rest or rest[0] not in _ATTRIBUTES:
            named = "" if not rest else f", got '{rest[0]}'"
            near = nearest(str(rest[0]), _ATTRIBUTES) if rest else None
            self._add("INCOMPLETE_REFERENCE", path, f"after task '{task}' expected .outputs or .status{named}",
                      f"Did you mean '{near}'?" if near else "", at)  # fmt: skip
            return None
        fields: list[str] = []
        for part in rest[1:]:
            if not isinstance(part, str):
                break
            fields.append(part)
        return Reference(stage, task, str(rest[0]), tuple(fields))

    def _hyphen_hint(self, inner: str) -> str:
        """Where someone wrote `stages.my-stage.x`, how to write it."""
        names = {*self.stages, *(t for s in self.stages.values() for t in s.tasks)} if "-" in inner else set()
        for found in _HYPHENATED.findall(inner):
            name = found
            while name:
                if name in names:
                    return f"CEL takes '-' for minus; write [\"{name}\"] instead of .{name}."
                name = name.rpartition("-")[0] if "-" in name else ""
        return ""

    def _add(self, code: str, path: NodePath, message: str, hint: str, at: Position | None = None) -> None:
        text = place(self.source, path) + message
        self.problems.append(self.source.problem(code, text, path, at=at, hint=hint))


def _is_call(text: str, mistake: Mistake) -> bool:
    """CEL points at the bracket of a call that is not known."""
    return text[mistake.offset : mistake.offset + 1] == "(" and mistake.name not in BASE_NAMES


def _clip(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "…"
