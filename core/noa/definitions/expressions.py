"""CEL expressions: compiled, checked, evaluated. The only module that imports the CEL library, and only when needed.

An expression that is nothing but an access (`inputs.path`) is evaluated here with CEL's meaning and never reaches the
library; most definitions have no other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from noa.definitions.references import INDEX, Segment, Use, chain_of, indexed_chain_of, uses_in_checked
from noa.errors import NoaError
from noa.model.payload import ARTIFACT_KEY, KEPT_VALUE, Artifact
from noa.model.plan import Expression, Interpolation, Template
from noa.model.secrets import MARK, ROOT

__all__ = ["BASE_NAMES", "Analysis", "Evaluator", "ExpressionError", "Mistake", "SyntaxMistakes", "analyse"]

BASE_NAMES = ("inputs", "stages", "tasks", "run", "secrets")
"""Names of mappings that are in every scope of a task."""

_MISTAKE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*?)(?=\n \||\nERROR: | \[[A-Z_]+\]$|$)", re.S)
_STATUS = re.compile(r"^[A-Z_]+: ")
_TRAILING = re.compile(r"\s*\[[A-Z_]+\]$")
_MAX_TEXT = 10_000


class ExpressionError(NoaError):
    """An expression failed while it was evaluated. `expression` is its text; nothing was changed."""

    code: ClassVar[str] = "EXPRESSION_ERROR"


@dataclass(frozen=True, slots=True)
class Mistake:
    """Why an expression does not compile. `offset` counts characters from its start; `name` is an undeclared name."""

    message: str
    offset: int = 0
    name: str = ""


class SyntaxMistakes(ValueError):
    """All reasons why an expression does not compile."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(m.message for m in mistakes))
        self.mistakes = list(mistakes)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of an expression before it runs. `gives` is its type's name, "dyn" where that is not known."""

    uses: tuple[Use, ...]
    gives: str = "dyn"


@lru_cache(maxsize=4096)
def analyse(text: str, names: tuple[str, ...]) -> Analysis:
    """Compile an expression in which these names may stand, and say what it reads.

    Raises:
        SyntaxMistakes: It does not parse, or uses a name or an operation that does not exist.
    """
    chain = chain_of(text)
    if chain is not None:
        root = str(chain[0])
        if root not in names and root not in BASE_NAMES:
            raise SyntaxMistakes([Mistake(f"undeclared reference to '{root}'", 0, root)])
        return Analysis((Use(root, chain[1:]),))
    if len(text) > _MAX_TEXT:
        raise SyntaxMistakes(
            [Mistake(f"the expression has {len(text):,} characters, at most {_MAX_TEXT:,} are allowed")]
        )
    program = _compile(text, _extra(names))
    return Analysis(tuple(uses_in_checked(program.serialize())), _type_name(program.return_type()))


class Evaluator:
    """Evaluates templates. Stateless apart from a bounded cache of compiled expressions, which all share."""

    def evaluate(self, template: Template, scope: Mapping[str, Any]) -> Any:
        """The JSON value of a template; the template itself where it holds no expression.

        Args:
            template: JSON with Expression and Interpolation leaves.
            scope: Names that its expressions use, with JSON values.

        Raises:
            ExpressionError: An expression failed.
        """
        kind = type(template)
        if kind is Expression:
            return _evaluate(template, scope)
        if kind is Interpolation:
            if ROOT in scope:
                return _with_secrets(template, scope)
            return "".join(p if isinstance(p, str) else _text(p, scope) for p in template.parts)
        if kind is dict:
            return self._mapping(template, scope)
        if kind is list:
            return self._list(template, scope)
        return template

    def evaluate_bool(self, expression: Expression, scope: Mapping[str, Any]) -> bool:
        """The truth of a condition.

        Raises:
            ExpressionError: It failed, or gives something else than true or false.
        """
        value = _evaluate(expression, scope)
        if value is not True and value is not False:
            raise _error(expression, f"expected true or false, got {_kind(value)}")
        return value

    def _mapping(self, template: dict[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] | None = None
        for key, part in template.items():
            value = self.evaluate(part, scope)
            if value is not part:
                if changed is None:
                    changed = dict(template)
                changed[key] = value
        return template if changed is None else changed

    def _list(self, template: list[Any], scope: Mapping[str, Any]) -> list[Any]:
        changed: list[Any] | None = None
        for index, part in enumerate(template):
            value = self.evaluate(part, scope)
            if value is not part:
                if changed is None:
                    changed = list(template)
                changed[index] = value
        return template if changed is None else changed


def _with_secrets(template: Interpolation, scope: Mapping[str, Any]) -> str:
    """Text in which a secret's mark may stand: none may come from elsewhere, since the value is put in its place."""
    text = ""
    for part in template.parts:
        if isinstance(part, str):
            text += part
            continue
        shown = _text(part, scope)
        if MARK in shown and part.roots != (ROOT,):
            raise _error(part, f"its value holds '{MARK}', which must not stand in text with a secret")
        text += shown
    return text


def _evaluate(expression: Expression, scope: Mapping[str, Any]) -> Any:
    chain = chain_of(expression.text)
    if chain is None:
        # `list[index]` is how a loop reads along a list; the library would convert the whole list for each item.
        path = indexed_chain_of(expression.text)
        found = _follow(path, scope) if path is not None else _NOTHING
        return _evaluate_cel(expression, scope) if found is _NOTHING else found
    value: Any = scope if isinstance(scope, dict) else dict(scope)
    for depth, part in enumerate(chain):
        try:
            if isinstance(value, dict) if type(part) is str else isinstance(value, list):
                value = value[part]
                continue
        except (KeyError, IndexError):
            pass
        raise _error(expression, _broken(chain, depth, value))
    return value


_NOTHING: Any = object()


def _follow(path: tuple[Segment, ...], scope: Mapping[str, Any]) -> Any:
    """The value at a path with INDEX in it; _NOTHING where the library must say what is wrong."""
    value: Any = scope
    for part in path:
        key = scope.get("index") if part == INDEX else part
        try:
            if not (isinstance(value, Mapping) if type(key) is str else type(key) is int and isinstance(value, list)):
                return _NOTHING
            value = value[key]
        except (KeyError, IndexError):
            return _NOTHING
    return value


def _evaluate_cel(expression: Expression, scope: Mapping[str, Any]) -> Any:
    program = _compiled(expression)
    try:
        value = program.eval(data=scope if isinstance(scope, dict) else dict(scope))
    except RuntimeError as error:
        raise _error(expression, _reason(str(error))) from None
    if _type_name(value.type()) == "error":
        raise _error(expression, _explained(expression, str(value.plain_value()), scope))
    try:
        return _json(value.plain_value(), expression)
    except RecursionError:
        raise _error(expression, "the result is nested too deep") from None


def _compiled(expression: Expression) -> Any:
    try:
        return _compile(expression.text, _extra(expression.roots))
    except SyntaxMistakes as error:
        raise _error(expression, str(error)) from None


def _json(value: Any, expression: Expression) -> Any:
    """A value of the library as plain JSON."""
    if value is None or value is True or value is False or type(value) in (int, str):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise _error(expression, f"the result {value} is not a JSON number")
        return value
    if type(value) is list:
        return [_json(part, expression) for part in value]
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                raise _error(expression, f"the result has the key {key!r}, JSON has text keys only; use string()")
        return {key: _json(part, expression) for key, part in value.items()}
    raise _error(expression, f"the result is {_kind(value)}, which is not JSON; use string()")


def _text(part: Expression, scope: Mapping[str, Any]) -> str:
    value = _evaluate(part, scope)
    if type(value) is dict and ARTIFACT_KEY in value:
        artifact = Artifact.from_json(value)
        if artifact is not None and artifact.content_type == KEPT_VALUE:
            raise _error(
                part,
                f"its value of {artifact.size_bytes:,} bytes is kept outside of the journal and cannot stand in text: "
                "pass it on alone",
            )
    return _shown(value)


def _shown(value: Any) -> str:
    """A value inside text: text as it is, anything else as JSON."""
    return value if type(value) is str else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _kind(value: Any) -> str:
    names = {"NoneType": "null", "bool": "true or false", "int": "a number", "float": "a number", "str": "text",
             "list": "a list", "dict": "a mapping", "bytearray": "bytes", "datetime": "a timestamp",
             "timedelta": "a duration", "Type": "a type"}  # fmt: skip
    name = names.get(type(value).__name__, type(value).__name__)
    return (
        f"{name} ({_clipped(value)})" if isinstance(value, (int, float, str)) and not isinstance(value, bool) else name
    )


def _clipped(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _error(expression: Expression, reason: str) -> ExpressionError:
    at = expression.position
    where = f" (line {at.line}, column {at.column})" if at.line else ""
    text = expression.text if len(expression.text) <= 200 else expression.text[:197] + "…"
    return ExpressionError(
        f"expression `{text}`{where}: {reason}", expression=expression.text, line=at.line, column=at.column
    )


def _broken(chain: Sequence[Any], depth: int, value: Any) -> str:
    """Why the part at `depth` of an access cannot be had from `value`."""
    part = chain[depth]
    if depth == 0:
        return f"'{part}' has no value here"
    parent = _dotted(chain[:depth])
    if value is None:
        task = chain[depth - 1] == "outputs" and chain[0] in ("stages", "tasks")
        return f"{parent} is null" + (": the task was skipped or gave nothing" if task else "")
    if isinstance(part, int) and isinstance(value, list):
        return f"{parent} has {len(value)} values, there is none at [{part}]"
    if isinstance(value, Mapping):
        known = ", ".join(sorted(map(str, value))[:12]) or "nothing"
        return f"{parent} has no field '{part}'. It has: {known}"
    return f"{parent} is {_kind(value)}, it has no {'fields' if isinstance(part, str) else 'values by index'}"


def _dotted(chain: Sequence[Any]) -> str:
    text = str(chain[0])
    for part in chain[1:]:
        plain = isinstance(part, str) and part.isidentifier()
        text += f".{part}" if plain else f"[{part}]" if isinstance(part, int) else f'["{part}"]'
    return text


def _explained(expression: Expression, message: str, scope: Mapping[str, Any]) -> str:
    """A run-time error of the library in words; for a failed access, which part of it is missing."""
    if "Key not found" in message or "Applying SELECT" in message or "index" in message.lower():
        for use in analyse(expression.text, tuple(expression.roots)).uses:
            value: Any = scope
            chain = (use.root, *use.path)
            for depth, part in enumerate(chain):
                try:
                    value = value[part]
                except (KeyError, IndexError, TypeError):
                    return _broken(chain, depth, value)
    return _reason(message)


def _reason(message: str) -> str:
    text = _TRAILING.sub("", _STATUS.sub("", message))
    if "budget" in text:
        return "it takes too many steps; expressions are for small decisions, do the work in a task"
    if "No value with name" in text:
        return re.sub(r"No value with name \"(.*?)\" found in Activation", r"'\1' has no value here", text)
    text = text.replace("int64", "int").replace("No matching overloads found :", "there is no operation")
    if "(int, double)" in text or "(double, int)" in text:
        text += "; whole and fractional numbers do not mix: use double(x) or int(x)"
    return text


# --- the library ------------------------------------------------------------------------------------------------


def _extra(names: Sequence[str]) -> frozenset[str]:
    return frozenset(names).difference(BASE_NAMES)


def _type_name(kind: Any) -> str:
    return str(kind.name()).lower()


@lru_cache(maxsize=64)
def _environment(extra: frozenset[str]) -> Any:
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_math, ext_strings

    mapping = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    variables = dict.fromkeys(BASE_NAMES, mapping) | dict.fromkeys(sorted(extra), cel.Type.DYN)
    return cel.NewEnv(variables=variables, extensions=[ext_strings.ExtStrings(), ext_math.ExtMath()])


@lru_cache(maxsize=4096)
def _compile(text: str, extra: frozenset[str]) -> Any:
    try:
        return _environment(extra).compile(text)
    except RuntimeError as error:
        raise SyntaxMistakes(_mistakes(text, str(error))) from None
    except UnicodeEncodeError:
        raise SyntaxMistakes([Mistake("the expression holds half of a surrogate pair")]) from None


def _mistakes(text: str, message: str) -> list[Mistake]:
    if "recursion" in message:
        return [Mistake("nested deeper than 32 levels; a long chain of '+' or '.' counts too: use [a, b].join() or "
                        "'%s %s'.format([a, b]), or several tasks")]  # fmt: skip
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    for line, column, raw in _MISTAKE.findall(message):
        row = min(max(int(line), 1), len(starts) - 1)
        reason = raw.strip()
        name = re.match(r"undeclared reference to '([^']*)'", reason)
        found.append(Mistake(_simple(reason), starts[row - 1] + max(int(column) - 1, 0), name[1] if name else ""))
    return found or [Mistake(_reason(message))]


def _simple(reason: str) -> str:
    reason = reason.removeprefix("Syntax error: ").replace(" (in container '')", "")
    ended = re.match(r"(?:mismatched|extraneous) input '(.*?)' expecting", reason, re.S)
    if ended:
        return "it ends too early" if ended[1] == "<EOF>" else f"'{ended[1]}' is not expected here"
    alternative = re.match(r"no viable alternative at input '(.*?)'", reason, re.S)
    return f"'{alternative[1]}' is not expected here" if alternative else reason
