"""Secrets: marks until an agent is asked, masks wherever they turn up again."""

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noa.definitions import Evaluator, ExpressionError
from noa.errors import SecretError
from noa.model.plan import Expression, Interpolation
from noa.model.secrets import SecretMarks, embedded_names, expand, fill, secret_names
from noa.orchestration import SecretVault

KEY = Expression("secrets.KEY", roots=("secrets",))
QUOTED = Expression('secrets["KEY"]', roots=("secrets",))
USER = Expression("inputs.user", roots=("inputs",))
TEXT = Interpolation(("https://", USER, ":", KEY, "@host"))
VALUE = 'q"uo\nted secret/ä'


def evaluated(template: Any, user: Any = "ann") -> Any:
    return Evaluator().evaluate(template, {"inputs": {"user": user}, "secrets": SecretMarks()})


def test_a_secret_is_its_mark_until_it_is_filled_in() -> None:
    template = {"a": KEY, "b": [1, {"c": TEXT}], "d": USER, "e": QUOTED}
    value = evaluated(template)
    assert value == {
        "a": "${{ secrets.KEY }}",
        "b": [1, {"c": "https://ann:${{ secrets.KEY }}@host"}],
        "d": "ann",
        "e": "${{ secrets.KEY }}",
    }
    filled = fill(template, value, {"KEY": VALUE}.__getitem__)
    assert filled == {"a": VALUE, "b": [1, {"c": f"https://ann:{VALUE}@host"}], "d": "ann", "e": VALUE}
    assert secret_names(template) == ("KEY",)


def test_a_mark_in_data_is_no_secret() -> None:
    template = {"secret": KEY, "name": USER}
    value = evaluated(template, user="${{ secrets.KEY }}")
    assert fill(template, value, {"KEY": VALUE}.__getitem__) == {"secret": VALUE, "name": "${{ secrets.KEY }}"}
    with pytest.raises(ExpressionError, match="must not stand in text with a secret"):
        evaluated(TEXT, user="${{ secrets.KEY }}")


def test_inputs_that_someone_changed_are_taken_as_they_are() -> None:
    def value_of(name: str) -> str:
        raise AssertionError(f"{name} is not asked for")

    assert fill({"a": KEY, "b": [KEY]}, {"a": "mine", "b": "none", "c": 1}, value_of) == {
        "a": "mine",
        "b": "none",
        "c": 1,
    }


def test_secrets_in_plain_text_of_a_definition() -> None:
    assert embedded_names("a ${{ secrets.A }} ${{secrets.B}} ${{ secrets.A }} ${{ inputs.c }}") == ("A", "B")
    assert expand("a ${{ secrets.A }}-${{secrets.A}}", {"A": "x"}.__getitem__) == "a x-x"


def test_the_environment_goes_before_files_and_a_file_is_read_anew(tmp_path: Path) -> None:
    environment = {"NOA_SECRET_A": "from the environment"}
    vault = SecretVault(tmp_path, environment)
    (tmp_path / "A").write_text("from the file")
    (tmp_path / "B").write_bytes(b"first value\r\n")
    assert (vault.value("A"), vault.value("B")) == ("from the environment", "first value")
    (tmp_path / "B").write_text("second value\n")
    assert vault.value("B") == "second value"
    assert vault.mask("first value, second value") == "***, ***"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "neither the environment variable NOA_SECRET_KEY nor the file"),
        (b"abc", "has 3 characters, at least 4 are needed"),
        (b"\xff\xfe\xfd\xfc", "is not UTF-8 text"),
        (b"x" * 70_000, "has 70,000 bytes, at most 65,536 are taken"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "KEY").write_bytes(content)
    with pytest.raises(SecretError, match=expected):
        SecretVault(tmp_path, {}).value("KEY")
    with pytest.raises(SecretError, match="set the environment variable NOA_SECRET_KEY"):
        SecretVault(None, {}).value("KEY")


def test_a_variable_that_is_no_text_is_refused_as_a_file_is() -> None:
    undecodable = os.fsdecode(b"secret \xff\xfe")
    with pytest.raises(SecretError, match="NOA_SECRET_KEY is not UTF-8 text"):
        SecretVault(None, {"NOA_SECRET_KEY": undecodable}).value("KEY")
    assert SecretVault(None, {"NOA_SECRET_KEY": "two\nlines"}).value("KEY") == "two\nlines"


def test_all_secrets_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as error:
        SecretVault(tmp_path, {"NOA_SECRET_B": "is there"}).require(["A", "B", "C"])
    assert "'A'" in error.value.message
    assert "'B'" not in error.value.message
    assert "'C'" in error.value.message


def test_a_secret_is_masked_however_it_is_written() -> None:
    vault = SecretVault(None, {"NOA_SECRET_KEY": VALUE})
    untouched: dict[str, Any] = {"a": [VALUE]}
    assert vault.mask_json(untouched) is untouched, "nothing was handed out yet"
    vault.value("KEY")
    for written in (VALUE, 'q\\"uo\\nted secret/ä', 'q\\"uo\\nted secret/\\u00e4', "q%22uo%0Ated%20secret%2F%C3%A4",
                    base64.b64encode(VALUE.encode()).decode()):  # fmt: skip
        assert vault.mask(f"<{written}>") == "<***>", written
    assert vault.mask("log: ted secret/ä") == "log: ***", "a line of it"
    assert vault.mask_json({VALUE: [1, None, {"a": f"x{VALUE}"}]}) == {"***": [1, None, {"a": "x***"}]}


def test_a_secret_that_was_cut_short_is_masked() -> None:
    vault = SecretVault(None, {"NOA_SECRET_KEY": "hunter2-correct-horse"})
    assert vault.mask("got 'hunter2-cor...") == "got 'hunter2-cor...", "nothing was handed out yet"
    vault.value("KEY")
    assert vault.mask("got 'hunter2-cor...'") == "got '***...'"
    assert vault.mask("input_value='hunter2-c…t-horse', at… the hunt...") == "input_value='***…***', at… the ***..."
    assert vault.mask("the hun... was long") == "the hun... was long", "three characters say nothing"
    assert vault.mask("a..." * 10_000) == "a..." * 10_000


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 21, 22, 100])
def test_a_secret_across_pieces_is_masked(size: int) -> None:
    vault = SecretVault(None, {"NOA_SECRET_KEY": "hunter2-correct-horse", "NOA_SECRET_TWICE": "abab"})
    assert vault.mask_piece("hun") == ("hun", "")
    vault.value("KEY")
    vault.value("TWICE")
    text = "h hunter hunter2-correct-horse abab ababa hunter2-correct-horshunter2-correct-horse.hu"
    made, rest = "", ""
    for start in range(0, len(text), size):
        masked, rest = vault.mask_piece(rest + text[start : start + size])
        made += masked
    assert made + vault.mask(rest) == "h hunter *** *** ***a hunter2-correct-hors***.hu"


def test_what_is_not_json_yet_is_masked_as_it_will_be_written() -> None:
    @dataclass
    class Answer:
        key: str

    vault = SecretVault(None, {"NOA_SECRET_KEY": VALUE})
    vault.value("KEY")
    given = {"a": Answer(VALUE), "b": {VALUE}, "c": 1.5, "d": None}
    assert vault.mask_json(given) == {"a": {"key": "***"}, "b": ["***"], "c": 1.5, "d": None}


def test_a_secret_that_looks_like_a_mark_is_no_mark() -> None:
    values = {"A": "${{ secrets.B }}", "B": "second"}
    template = Interpolation((Expression("secrets.A", roots=("secrets",)), Expression("secrets.B", roots=("secrets",))))
    assert fill(template, evaluated(template), values.__getitem__) == "${{ secrets.B }}second"
