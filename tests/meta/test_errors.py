"""Errors teach only if they can be looked up: every code is in docs/errors.md, and every error survives its travels."""

from __future__ import annotations

import ast
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from noa.errors import DefinitionError, InternalError, NoaError, Problem
from noa.model.failure import Failure

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/errors.md"

_CODE = re.compile(r"[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)*")
_OF_TWO_WORDS = re.compile(r"[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+")
_ENVIRONMENT = re.compile(r"(?:NOA|CARGO|XDG|GRPC|LC|OMP|ORT|OPENBLAS|MKL|PYTHON|SSL)_[A-Z0-9_]+|NO_COLOR")
_ANSWERS_OF_HEALTH = {"NOT_SERVING"}
_MAKES_A_FAILURE = re.compile(r"Failure|ActionFailed|_?problem|_?fatal|_?refuse|_?failure|_?failed|_?fail")
_NATIVE_TEST = re.compile(r"(?:^|/)(?:tests?|target|agentpb|agenttest)/|_tests?\.(?:go|rs)$|/build\.rs$")


def every_error() -> list[type[NoaError]]:
    """The whole tree, the root included."""
    found: list[type[NoaError]] = []
    pending: list[type[NoaError]] = [NoaError]
    while pending:
        kind = pending.pop(0)
        found.append(kind)
        pending.extend(k for k in kind.__subclasses__() if k.__module__.startswith("noa."))
    return found


def documented() -> set[str]:
    """Codes with a row of their own."""
    return set(re.findall(r"^\| `([A-Z0-9_]+)` \|", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE))


def given() -> dict[str, set[str]]:
    """Codes that the sources can give, with their files."""
    found: dict[str, set[str]] = {}
    for folder in ("core/noa", "plugins", "agents/model-server"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not re.search(r"/agent/v1/|/tests/|/noa/testing/", name):
                for code in codes_in(ast.parse(path.read_text(encoding="utf-8"))):
                    found.setdefault(code, set()).add(name)
    for pattern in ("agents/rust/*/src/**/*.rs", "agents/go/**/*.go"):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if not _NATIVE_TEST.search(name):
                for code in re.findall(rf'"({_OF_TWO_WORDS.pattern})"', path.read_text(encoding="utf-8")):
                    if _is_code(code):
                        found.setdefault(code, set()).add(name)
    return found


def codes_in(tree: ast.Module) -> Iterator[str]:
    """Codes in a Python file: what is called `code`, what makes a failure, and every text of two words in capitals."""
    listed = {id(text) for node in ast.walk(tree) if _is_list_of_names(node) for text in ast.walk(node)}
    for node in ast.walk(tree):
        for place in _places(node):
            if isinstance(place, ast.Constant) and isinstance(place.value, str) and _CODE.fullmatch(place.value):
                yield place.value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in listed:
            yield from filter(_is_code, [node.value])


def _is_code(text: str) -> bool:
    return bool(_OF_TWO_WORDS.fullmatch(text)) and not _ENVIRONMENT.fullmatch(text) and text not in _ANSWERS_OF_HEALTH


def _is_list_of_names(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "__all__"


def _places(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.AnnAssign | ast.Assign):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
        if node.value is not None and any(isinstance(t, ast.Name) and t.id == "code" for t in targets):
            yield from _branches(node.value)
    elif isinstance(node, ast.keyword) and node.arg == "code":
        yield from _branches(node.value)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if _MAKES_A_FAILURE.fullmatch(called):
            for argument in node.args:
                yield from _branches(argument)


def _branches(value: ast.expr) -> Iterator[ast.expr]:
    if isinstance(value, ast.IfExp):
        yield from _branches(value.body)
        yield from _branches(value.orelse)
    else:
        yield value


def test_every_code_that_the_sources_give_is_in_the_reference() -> None:
    missing = {code: sorted(files) for code, files in given().items() if code not in documented()}
    assert not missing, f"docs/errors.md has no row for: {json.dumps(missing, indent=2)}"


def test_the_reference_names_no_code_that_nothing_gives() -> None:
    contract = (ROOT / "agents/CONTRACT.md").read_text(encoding="utf-8")
    stale = [code for code in sorted(documented() - set(given())) if code not in contract]
    assert not stale, f"docs/errors.md has rows for codes that nothing gives: {stale}"


def test_every_error_class_is_in_the_reference_and_in_the_drawn_tree() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    tree = (ROOT / "core/noa/errors.py").read_text(encoding="utf-8").split('"""')[1]
    for kind in every_error():
        assert f"`{kind.__name__}`" in text, f"{kind.__name__} is not in docs/errors.md"
        if kind.__module__ == "noa.errors":
            assert re.search(rf"\b{kind.__name__}\b", tree), f"{kind.__name__} is not drawn in noa/errors.py"


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_of_its_own_and_says_what_it_means(kind: type[NoaError]) -> None:
    assert "code" in vars(kind) or kind.__module__ != "noa.errors"
    assert _CODE.fullmatch(kind.code)
    assert kind.__doc__


def test_no_two_errors_of_the_tree_have_the_same_code() -> None:
    codes = [kind.code for kind in every_error() if "code" in vars(kind)]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_pickle(kind: type[NoaError]) -> None:
    error = an_error(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.message, again.parts, str(again)) == (error.message, error.parts, str(error))


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_json(kind: type[NoaError]) -> None:
    error = an_error(kind)
    again = NoaError.from_dict(json.loads(json.dumps(error.to_dict())))
    assert again.code == kind.code
    assert again.message == error.message
    assert again.parts == error.parts
    if "code" in vars(kind):
        assert type(again) is kind


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_survives_the_journal_as_a_failure(kind: type[NoaError]) -> None:
    failure = Failure.of(an_error(kind), retryable=True)
    again = msgspec.json.decode(msgspec.json.encode(failure), type=Failure)
    assert again == failure
    assert again.code == kind.code


def test_parts_of_an_error_are_attributes() -> None:
    error = InternalError("x", agent="rust", silent_s=3.5)
    assert error.agent == "rust"
    assert error.silent_s == 3.5
    with pytest.raises(AttributeError):
        error.nothing  # noqa: B018 - asking for it is the test


def test_an_unknown_code_is_read_as_an_internal_error() -> None:
    again = NoaError.from_dict({"code": "FROM_THE_FUTURE", "message": "hello"})
    assert isinstance(again, InternalError)
    assert again.message == "hello"


def test_a_definition_error_keeps_every_problem_through_pickle_and_json() -> None:
    problems = [
        Problem("UNKNOWN_KEY", "no", file="a.yaml", line=3, column=5, source="  x: 1", path="workflow.x"),
        Problem("CYCLE", "round and round", file="a.yaml", severity="warning", hint="cut it"),
    ]
    error = DefinitionError.of(problems)
    for again in (
        pickle.loads(pickle.dumps(error)),
        NoaError.from_dict(json.loads(json.dumps(error.to_dict()))),
    ):
        assert isinstance(again, DefinitionError)
        assert again.problems == problems
        assert str(again) == "a.yaml:3:5: no\na.yaml:0:0: round and round"


def an_error(kind: type[NoaError]) -> NoaError:
    parts: dict[str, Any] = {"agent": "rust", "list": [1, 2.5, None], "nested": {"ä": True}}
    if issubclass(kind, DefinitionError):
        return kind.of([Problem("UNKNOWN_KEY", "no such key", file="a.yaml", line=3, column=5)])
    return kind("what, where, expected, got, what to do: ä", **parts)
