"""YAML 1.2 core and JSON text: what is read, where it stands, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noa.definitions import load_plan
from noa.definitions.json_source import parse_json
from noa.definitions.source import MAX_SIZE_BYTES, Source
from noa.definitions.yaml_source import parse_yaml
from noa.errors import DefinitionError, Problem, UsageError
from noa.plugin import Registry


def problem_of(text: str, name: str = "t.yaml") -> Problem:
    """The only problem of a text that cannot be read."""
    with pytest.raises(DefinitionError) as caught:
        (parse_json if name.endswith("json") else parse_yaml)(text, name)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("on", "on"), ("off", "off"), ("y", "y"), ("No", "No"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-3", -3), ("0o17", 15), ("0x1F", 31), ("017", 17), ("1_000", "1_000"), ("1:30", "1:30"),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("2026-01-02", "2026-01-02"), ("1.2.3", "1.2.3"),
        ("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("!!float 3", 3.0), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2_core(text: str, value: Any) -> None:
    read = parse_yaml(f"a: {text}\n", "t").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_aliases_share_a_value_and_keep_their_own_place() -> None:
    source = parse_yaml("a: &x {b: 1}\nc: *x\n", "t")
    assert source.data == {"a": {"b": 1}, "c": {"b": 1}}
    assert (source.position(("c",)).line, source.position(("c",)).column) == (2, 4)
    assert source.position(("c", "b")).line == 1


def test_an_alias_bomb_is_refused_quickly() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    problem = problem_of(text)
    assert problem.code == "TOO_MANY_NODES"
    assert "1,000,000" in problem.message


def test_a_hundred_thousand_brackets_do_not_end_the_interpreter() -> None:
    assert problem_of("[" * 100_000).code == "TOO_DEEP"
    assert problem_of("[" * 100_000, "t.json").code == "TOO_DEEP"


def test_a_duplicate_key_names_both_lines_and_the_first_counts() -> None:
    source = parse_yaml("a: 1\nb: 2\na: 3\n", "t")
    assert source.data == {"a": 1, "b": 2}
    assert [(p.code, p.line, p.column) for p in source.problems] == [("DUPLICATE_KEY", 3, 1)]
    assert "first in line 1" in source.problems[0].message


def test_columns_count_characters() -> None:
    source = parse_yaml("é: {ü: 'x'}\n", "t")
    assert source.position(("é", "ü")).column == 8


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_the_same_with_every_newline(newline: str) -> None:
    source = parse_yaml(newline.join(["a:", "  b: 1", "c: 2", ""]), "t")
    assert source.position(("c",), key=True).line == 3
    assert source.line(3) == "c: 2"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1, "a": 2}', None),
        ('{"a" 1}', (1, 6)),
        ('{"a": 1,}', (1, 9)),
        ("{a: 1}", (1, 2)),
        ('{"a": tru}', (1, 7)),
        ('{"a": "x\ny"}', (1, 9)),
        ("[1, 2\n", (2, 1)),
        ("{} {}", (1, 4)),
        ('{"a": NaN}', (1, 7)),
        ('{"a": "\\ud800"}', (1, 15)),
        ("", (1, 1)),
    ],
)
def test_bad_json_is_refused_at_its_place(text: str, place: tuple[int, int] | None) -> None:
    if "ud800" in text:
        source = parse_json(text, "t")
        assert [(p.code, (p.line, p.column)) for p in source.problems] == [("NOT_JSON", place)]
        return
    if place is None:
        assert [(p.code, p.line, p.column) for p in parse_json(text, "t").problems] == [("DUPLICATE_KEY", 1, 10)]
        return
    problem = problem_of(text, "t.json")
    assert (problem.line, problem.column) == place


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(value=_VALUES, indent=st.sampled_from([None, 1, 4]), ascii_only=st.booleans())
def test_json_is_read_as_the_standard_library_reads_it(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert parse_json(text, "t").data == value


@given(
    value=st.dictionaries(
        st.text("abc", min_size=1), st.lists(st.text("xyz", min_size=1) | st.integers(0, 99)), min_size=1
    )
)
def test_every_node_of_json_stands_where_it_is_written(value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2)
    source = parse_json(text, "t")
    for key, items in value.items():
        for index, item in enumerate(items):
            at = source.position((key, index))
            assert source.line(at.line)[at.column - 1 :].rstrip(",") == json.dumps(item)


class TestFiles:
    """What stands on the disk."""

    def load(self, path: Path, data: bytes, registry: Registry) -> Problem:
        path.write_bytes(data)
        with pytest.raises(DefinitionError) as caught:
            load_plan(path, registry=registry)
        return caught.value.problems[0]

    def test_a_missing_file_is_a_usage_error_that_names_it(self, tmp_path: Path, registry: Registry) -> None:
        with pytest.raises(UsageError, match=r"definition .*nothing\.yaml does not exist"):
            load_plan(tmp_path / "nothing.yaml", registry=registry)

    def test_a_folder_is_a_usage_error(self, tmp_path: Path, registry: Registry) -> None:
        with pytest.raises(UsageError, match="is a folder"):
            load_plan(tmp_path, registry=registry)

    def test_a_path_with_a_null_character_is_a_usage_error(self, registry: Registry) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            load_plan("a\x00b", registry=registry)

    def test_a_file_that_is_too_large_is_refused(self, tmp_path: Path, registry: Registry) -> None:
        problem = self.load(tmp_path / "big.yaml", b"#" * (MAX_SIZE_BYTES + 1), registry)
        assert (problem.code, problem.line) == ("TOO_LARGE", 1)
        assert "10 MiB" in problem.message

    def test_bytes_that_are_not_utf_8_are_refused_at_their_place(self, tmp_path: Path, registry: Registry) -> None:
        problem = self.load(tmp_path / "x.yaml", "a: é\nb: ".encode() + b"\xff\n", registry)
        assert (problem.code, problem.line, problem.column) == ("NOT_UTF8", 2, 4)

    def test_utf_16_is_named(self, tmp_path: Path, registry: Registry) -> None:
        problem = self.load(tmp_path / "x.yaml", "a: 1".encode("utf-16"), registry)
        assert "UTF-16" in problem.message

    def test_a_byte_order_mark_is_ignored(self, tmp_path: Path, registry: Registry) -> None:
        path = tmp_path / "x.yaml"
        path.write_text(
            "\ufeffworkflow: {name: w, stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]}\n"
        )
        assert load_plan(path, registry=registry).name == "w"

    def test_a_dict_that_is_not_json_is_a_usage_error(self, registry: Registry) -> None:
        for bad in ({"workflow": {1, 2}}, {"workflow": float("nan")}, {"workflow": "\ud800"}):
            with pytest.raises(UsageError, match="is not JSON"):
                load_plan(bad, registry=registry)

    def test_a_dict_that_is_too_deep_is_refused(self, registry: Registry) -> None:
        nested: Any = {}
        for _ in range(100):
            nested = {"workflow": nested}
        with pytest.raises(DefinitionError, match="nested deeper than 64 levels"):
            load_plan(nested, registry=registry)

    @pytest.mark.parametrize("number", [1 << 63, -(1 << 63) - 1, 10**1000])
    def test_a_number_of_a_dict_that_its_text_could_not_have_is_refused(self, number: int, registry: Registry) -> None:
        task = {"agent": "any", "action": "go", "inputs": {"x": [number]}}
        definition = {"workflow": {"name": "w", "stages": [{"name": "s", "type": "parallel", "tasks": [task]}]}}
        with pytest.raises(DefinitionError, match="does not fit into 64 bits"):
            load_plan(definition, registry=registry)

    def test_a_dict_whose_text_is_too_large_is_refused(self, registry: Registry) -> None:
        with pytest.raises(DefinitionError, match="larger than 10 MiB"):
            load_plan({"workflow": {"name": "w", "description": "x" * (11 << 20), "stages": []}}, registry=registry)

    def test_a_problem_of_a_dict_says_where_in_words(self, registry: Registry) -> None:
        with pytest.raises(DefinitionError) as caught:
            load_plan({"workflow": {"name": "w", "stages": [{"name": "s"}]}}, registry=registry)
        assert [p.path for p in caught.value.problems] == ["workflow.stages[0]"]


def test_a_place_inside_a_scalar_is_found_where_that_is_sure() -> None:
    text = "a: 'x ${{ y }}'\nb: |\n  one\n  two ${{ z }}\nc: >\n  folded ${{ q }}\n"
    source: Source = parse_yaml(text, "t")
    value = source.data
    at = source.text_position(("a",), value["a"], 6)
    assert source.line(at.line)[at.column - 1] == "y"
    at = source.text_position(("b",), value["b"], value["b"].index("z"))
    assert source.line(at.line)[at.column - 1] == "z"
    at = source.text_position(("c",), value["c"], value["c"].index("q"))
    assert at.line == 5
