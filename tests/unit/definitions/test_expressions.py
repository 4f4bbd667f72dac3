"""Expressions: what they read, what they give, and how they fail."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa.definitions import Evaluator, ExpressionError
from noa.definitions.expressions import analyse
from noa.definitions.references import Use, chain_of
from noa.definitions.templates import Hole, UnclosedError, holes_of
from noa.errors import NoaError
from noa.model.plan import Expression, Interpolation

SCOPE: dict[str, Any] = {
    "inputs": {"n": 3, "f": 1.5, "t": True, "s": "hé", "l": [1, 2, {"a": None}], "nothing": None, "a b": 1, "zero": 0},
    "stages": {"my-stage": {"t": {"outputs": {"x": 1}, "status": "succeeded"}, "skipped": {"outputs": None}}},
    "tasks": {},
    "item": {"id": 7},
}


def evaluate(text: str, scope: dict[str, Any] | None = None) -> Any:
    """The value of one expression, compiled as the definition's compiler does it."""
    uses = analyse(text, ("item", "index", "previous")).uses
    roots = tuple(dict.fromkeys(u.root for u in uses))
    return Evaluator().evaluate(Expression(text, roots=roots), SCOPE if scope is None else scope)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.n", 3),
        ("inputs.n + 1", 4),
        ("double(inputs.n) * inputs.f", 4.5),
        ("inputs.l", [1, 2, {"a": None}]),
        ("inputs.l[2].a", None),
        ("inputs['a b']", 1),
        ('stages["my-stage"].t.outputs.x', 1),
        ("stages[\"my-stage\"].t.status == 'succeeded'", True),
        ("size(inputs.s)", 2),
        ("has(inputs.missing) ? 1 : 2", 2),
        ("inputs.l.exists(i, i == 2)", True),
        ("[1, 2].map(i, i * 2)", [2, 4]),
        ('["a", "b"].join("-")', "a-b"),
        ('"%s has %d".format([inputs.s, inputs.n])', "hé has 3"),
        ('"a,b".split(",")', ["a", "b"]),
        ("math.greatest(inputs.n, 5)", 5),
        ('{"a": inputs.n}', {"a": 3}),
        ("item.id", 7),
        ("null", None),
        ("inputs.n > 2 && inputs.t", True),
    ],
)
def test_gives_plain_json(text: str, value: Any) -> None:
    given = evaluate(text)
    assert given == value
    assert type(given) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inputs.missing", "inputs has no field 'missing'. It has: a b, f, l, n"),
        ("inputs.missing + 1", "inputs has no field 'missing'"),
        ("inputs.l[9]", "inputs.l has 3 values, there is none at [9]"),
        ("inputs.n.x", "inputs.n is a number (3), it has no fields"),
        ("inputs.nothing.x", "inputs.nothing is null"),
        (
            'stages["my-stage"].skipped.outputs.x',
            'stages["my-stage"].skipped.outputs is null: the task was skipped',
        ),
        ('stages["my-stage"].skipped.outputs.x + 1', "is null: the task was skipped"),
        ("1 / inputs.zero", "divide by zero"),
        ("inputs.n + inputs.f", "whole and fractional numbers do not mix: use double(x) or int(x)"),
        ("9223372036854775807 + inputs.n", "integer overflow"),
        ("b'abc'", "the result is bytes, which is not JSON"),
        ("timestamp('2026-01-01T00:00:00Z')", "a timestamp"),
        ("{1: 2}", "JSON has text keys only"),
        ("1.0 / 0.0", "is not a JSON number"),
        ("previous.x", "'previous' has no value here"),
        ("previous.x + 1", "'previous' has no value here"),
        (
            "inputs.big.map(i, inputs.big.map(j, inputs.big.map(k, i * j * k)))",
            "it takes too many steps",
        ),
    ],
)
def test_a_failure_says_what_is_missing(text: str, words: str) -> None:
    scope = {**SCOPE, "inputs": {**SCOPE["inputs"], "big": list(range(1000))}} if "big" in text else SCOPE
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, scope)
    assert words in str(caught.value)
    assert f"`{text}`" in str(caught.value)
    assert NoaError.from_dict(caught.value.to_dict()).code == "EXPRESSION_ERROR"


def test_a_condition_must_be_true_or_false() -> None:
    evaluator = Evaluator()
    assert evaluator.evaluate_bool(Expression("inputs.t", roots=("inputs",)), SCOPE) is True
    with pytest.raises(ExpressionError, match=r"expected true or false, got a number \(3\)"):
        evaluator.evaluate_bool(Expression("inputs.n", roots=("inputs",)), SCOPE)


def test_a_template_without_expressions_is_returned_as_it_is() -> None:
    template = {"a": [1, {"b": "text"}], "c": None}
    assert Evaluator().evaluate(template, {}) is template


def test_only_what_changes_is_copied() -> None:
    same = {"deep": [1, 2]}
    template = {"same": same, "x": Expression("inputs.n", roots=("inputs",))}
    given = Evaluator().evaluate(template, SCOPE)
    assert given == {"same": same, "x": 3}
    assert given["same"] is same
    assert isinstance(template["x"], Expression)


def test_interpolation_renders_json_and_keeps_text() -> None:
    parts = tuple(Expression(f"inputs.{n}", roots=("inputs",)) for n in ("s", "n", "f", "t", "nothing", "l"))
    mixed = Interpolation((parts[0], " ", parts[1], " ", parts[2], " ", parts[3], " ", parts[4], " ", parts[5]))
    assert Evaluator().evaluate(mixed, SCOPE) == 'hé 3 1.5 true null [1,2,{"a":null}]'


@pytest.mark.parametrize(
    ("text", "uses"),
    [
        ("stages.a.b.outputs.x", [("stages", ("a", "b", "outputs", "x"), False)]),
        ('stages["a-b"].c.outputs[0]', [("stages", ("a-b", "c", "outputs", 0), False)]),
        ("1 + tasks.t.outputs.x", [("tasks", ("t", "outputs", "x"), False)]),
        (
            "tasks.t.outputs[inputs.k].z + 1",
            [("tasks", ("t", "outputs"), True), ("inputs", ("k",), False)],
        ),
        ("inputs.l.exists(tasks, tasks == 1)", [("inputs", ("l",), False)]),
        ("inputs.l.map(i, tasks[i].outputs)", [("inputs", ("l",), False), ("tasks", (), True)]),
        ("has(tasks.t.outputs.x)", [("tasks", ("t", "outputs", "x"), False)]),
        (
            '{"a": stages.a.b.status}["a"] == "failed" ? [inputs.x] : []',
            [("stages", ("a", "b", "status"), False), ("inputs", ("x",), False)],
        ),
        ("size(stages) > 0", [("stages", (), False)]),
    ],
)
def test_every_access_is_found(text: str, uses: list[tuple[str, tuple[str, ...], bool]]) -> None:
    found = analyse(text, ()).uses
    assert [(u.root, u.path, u.dynamic) for u in found] == uses


def test_accesses_have_their_place() -> None:
    text = "'é' + string(tasks.a.outputs.x)"
    (use,) = analyse(text, ()).uses
    assert text[use.offset :].startswith("tasks")


_KEYS = st.sampled_from(["a", "b", "c_1", "in", "true", "x-y", "zz"])


@given(keys=st.lists(_KEYS, max_size=4), brackets=st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_bare_access_means_the_same_as_in_the_library(keys: list[str], brackets: list[bool]) -> None:
    plain = [k.isidentifier() and k not in ("in", "true") and not b for k, b in zip(keys, brackets, strict=False)]
    text = "inputs" + "".join(f".{k}" if p else f'["{k}"]' for k, p in zip(keys, plain, strict=True))
    data: Any = {"a": {"a": 1, "x-y": {"in": [1]}}, "in": {"b": {"zz": None}}, "c_1": "text", "b": [1]}
    assert chain_of(text) is not None
    through_cel = f"[{text}][0]"

    def result(expression: str) -> Any:
        try:
            return ("value", evaluate(expression, {"inputs": data}))
        except ExpressionError:
            return ("error", None)

    assert result(text) == result(through_cel)
    assert Use("inputs", tuple(keys)) == Use(*next((u.root, u.path) for u in analyse(text, ()).uses))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", ["plain"]),
        ("", [""]),
        ("${{ a }}", [Hole("a", 4)]),
        ("x ${{a}} y", ["x ", Hole("a", 5), " y"]),
        ("${{ a }}${{ b }}", [Hole("a", 4), Hole("b", 12)]),
        ("$${{ a }}", ["${{ a }}"]),
        ("${{ '}}' }}", [Hole("'}}'", 4)]),
        ("${{ \"a\\\"}}\" }}", [Hole("\"a\\\"}}\"", 4)]),
        ("${{ r'\\' }}", [Hole("r'\\'", 4)]),
        ("${{ '''a'}}''' }}", [Hole("'''a'}}'''", 4)]),
        ('${{ {"a": {"b": 1}} }}', [Hole('{"a": {"b": 1}}', 4)]),
        ('${{ {"a": {"b": 1}}}}', [Hole('{"a": {"b": 1}}', 4)]),
        ("a } b }} c", ["a } b }} c"]),
    ],
)  # fmt: skip
def test_the_scanner_respects_quotes_and_braces(text: str, parts: list[str | Hole]) -> None:
    assert holes_of(text) == parts


@pytest.mark.parametrize("text", ["${{", "${{ a", "${{ a }", "${{ 'a }}", "x ${{ {} }"])
def test_the_scanner_says_where_an_open_expression_begins(text: str) -> None:
    with pytest.raises(UnclosedError) as caught:
        holes_of(text)
    assert caught.value.offset == text.index("${{")


@given(st.text(alphabet="ab'\"{}$ r\\", max_size=30))
def test_the_scanner_ends_and_loses_no_text(text: str) -> None:
    offset = None
    parts: list[str | Hole] = []
    try:
        parts = holes_of(text)
    except UnclosedError as error:
        offset = error.offset
    if offset is not None:
        assert text.startswith("${{", offset)
        return
    assert all(isinstance(p, str) or text.startswith(p.text, p.offset) for p in parts)
    if "${{" not in text:
        assert parts == [text]


def test_importing_the_package_loads_no_slow_library() -> None:
    code = (
        "import sys, noa.definitions\n"
        "slow = [m for m in ('cel_expr_python', 'jsonschema', 'networkx', 'grpc', 'sqlite3') if m in sys.modules]\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.l[index]", 2),
        ("stages['l'].t.outputs[index].v[index]", "y"),
        ("inputs.names[index]", None),
        ("inputs['a[index]']", 5),
    ],
)
def test_a_list_is_read_at_the_index_of_the_iteration(text: str, value: Any) -> None:
    scope = {
        "inputs": {"l": [1, 2, 3], "names": [1, None], "a[index]": 5},
        "stages": {"l": {"t": {"outputs": [{}, {"v": ["x", "y"]}]}}},
        "index": 1,
    }
    assert evaluate(text, scope) == value


@pytest.mark.parametrize("scope", [{"inputs": {"l": [1]}, "index": 1}, {"inputs": {"l": {"1": 2}}, "index": 1}])
def test_an_index_that_is_not_there_is_an_error(scope: dict[str, Any]) -> None:
    with pytest.raises(ExpressionError):
        evaluate("inputs.l[index]", scope)


def test_reading_along_a_list_does_not_cost_the_list() -> None:
    """100 reads of a list of a million: each must not convert it."""
    scope = {"inputs": {"l": list(range(1_000_000))}, "index": 7}
    began = time.perf_counter()
    for _ in range(100):
        assert evaluate("inputs.l[index]", scope) == 7
    assert time.perf_counter() - began < 1.0
