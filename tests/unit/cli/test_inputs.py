"""Inputs on the command line: how text becomes values."""

import io
import json
from pathlib import Path

import pytest

from noa.cli.inputs import parse_value, read_inputs
from noa.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("2.5", 2.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ('"5"', "5"),
        ("hello", "hello"),
        ("", ""),
        ("True", "True"),
        ("NaN", "NaN"),
        ("1e", "1e"),
        ("./data", "./data"),
        ("a=b", "a=b"),
    ],
)
def test_an_undeclared_input_is_json_where_it_reads_as_json(text: str, value: object) -> None:
    assert parse_value("x", text, {}) == value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "5", "5"),
        ("string", "true", "true"),
        ("integer", "5", 5),
        ("number", "5", 5),
        ("boolean", "false", False),
        ("array", "[]", []),
        ("object", "{}", {}),
        (["string", "null"], "null", None),
        (["string", "null"], "5", "5"),
        (["integer", "string"], "5", 5),
        (["integer", "string"], "five", "five"),
    ],
)
def test_a_declared_input_is_read_as_its_type(kind: object, text: str, value: object) -> None:
    assert parse_value("x", text, {"type": kind}) == value


@pytest.mark.parametrize(("kind", "words"), [("integer", "a whole number"), ("object", "a JSON object")])
def test_text_that_does_not_read_as_the_declared_type_is_refused_with_what_was_expected(kind: str, words: str) -> None:
    with pytest.raises(InputError, match=f"input 'n': expected {words}, got 'many'"):
        parse_value("n", "many", {"type": kind})


def test_single_inputs_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"a": 1, "b": 2}))
    assert read_inputs(["b=3", "c=x=y"], str(file)) == {"a": 1, "b": 3, "c": "x=y"}


def test_inputs_are_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": [1]}'))
    assert read_inputs([], "-") == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "expected a JSON object"),
        (b"{", r"inputs\.json:1:2: not JSON"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_a_file_of_inputs_that_cannot_be_used_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "inputs.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_inputs([], str(file))


@pytest.mark.parametrize("pair", ["path", "=5", " =5"])
def test_an_input_without_name_or_value_is_refused(pair: str) -> None:
    with pytest.raises(InputError, match="expected NAME=VALUE"):
        read_inputs([pair], None)
