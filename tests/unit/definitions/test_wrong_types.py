"""A wrong type for every key is refused at the value; nothing that JSON can hold makes the reader raise more."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noa.definitions import load_plan, parse_plan
from noa.errors import DefinitionError, Problem
from noa.plugin import Registry

NUMBERS = [3, True, {"a": 1}]
TEXTS = ["x", True, {"a": 1}]

# Key -> values that do not fit it, by where the key stands.
WORKFLOW: dict[str, list[Any]] = {
    "name": [3, True, None, [], {}],
    "version": [1.0, True, [], {}],
    "description": [3, []],
    "inputs": [3, "x", []],
    "outputs": [3, "x", []],
    "agents": [3, "x", []],
    "resources": [3, "x", []],
    "defaults": [3, "x", []],
    "recovery": [3, "again", {"again": {}}],
    "on_failure": [3, "explode", None, []],
    "timeout": ["soon", True, [], 0, -1],
    "max_parallel": ["4", 1.5, True, [], 0, -1],
    "mode": [3, []],
    "stages": [3, "x", {}, []],
}
STAGE: dict[str, list[Any]] = {
    "name": [3, True, None, [], {}],
    "type": [3, None, [], "unknown"],
    "description": [3, []],
    "depends_on": [3, "x", {}],
    "when": [3, [], {}, ""],
    "run_on": [3, "never", None, []],
    "fail_fast": ["yes", 1, None, []],
    "max_parallel": ["4", 1.5, True, [], 0],
    "recovery": [3, "again", {}],
    "timeout": ["soon", True, [], -1],
    "tasks": [3, "x", {}, []],
}
TASK: dict[str, list[Any]] = {
    "name": [3, True, [], {}, "", "a/b"],
    "agent": [3, True, [], {}, ""],
    "action": [3, True, [], {}, ""],
    "inputs": [3, "plain text", [], True],
    "needs": [3, "x", {}, None],
    "when": [3, [], {}, ""],
    "resources": [3, "x", [], None],
    "timeout": ["soon", True, [], 0],
    "recovery": [3, "again", {}],
    "optional": ["yes", 1, None, []],
    "priority": ["high", 1.5, True, None, []],
    "idempotent": ["yes", 1, []],
    "compensate": [3, "undo", True, [], {}],
    "cache": ["soon", [], 0, -1],
}
CASES = [
    (base, key, value)
    for base, keys in (
        (("workflow",), WORKFLOW),
        (("workflow", "stages", 0), STAGE),
        (("workflow", "stages", 0, "tasks", 0), TASK),
    )
    for key, values in keys.items()
    for value in values
]


def valid() -> dict[str, Any]:
    """A definition without mistakes."""
    task = {"name": "t", "agent": "any", "action": "go"}
    return {"workflow": {"name": "w", "stages": [{"name": "s", "type": "parallel", "tasks": [task]}]}}


def place_of(text: str, base: tuple[str | int, ...], key: str) -> tuple[int, int]:
    """Where the value of a key stands in indented JSON with sorted keys left as they are."""
    lines = text.split("\n")
    depth = len(base) + 1
    number = max(n for n, line in enumerate(lines, 1) if line.startswith(" " * depth + f'"{key}": '))
    return number, depth + len(f'"{key}": ') + 1


@pytest.mark.parametrize(
    ("base", "key", "value"), CASES, ids=lambda v: json.dumps(v) if not isinstance(v, tuple) else v[-1]
)
def test_a_wrong_type_is_refused_at_the_value(
    base: tuple[str | int, ...], key: str, value: Any, registry: Registry
) -> None:
    definition = valid()
    holder: Any = definition
    for part in base:
        holder = holder[part]
    holder.pop(key, None)
    holder[key] = value
    text = json.dumps(definition, indent=1)
    with pytest.raises(DefinitionError) as caught:
        parse_plan(text, "t.json", registry=registry)
    first = caught.value.problems[0]
    assert (first.line, first.column) == place_of(text, base, key), first
    assert first.path.endswith(f"].{key}" if base[-1] != "workflow" else f"workflow.{key}")


def test_all_mistakes_are_reported_at_once(problems_of: Callable[..., list[Problem]]) -> None:
    found = problems_of("""
workflow:
  name: w
  verison: "1"
  timeout: soon
  stages:
    - name: a
      type: paralel
      tasks: []
    - name: b
      type: sequential
      depends_on: [zz]
      tasks:
        - agent: nobody
          action: go
        - agent: any
          actoin: stop
        - agent: shop
          action: by
          when: inputs.x +
          recovery: [agian]
""")
    assert [(p.code, p.line) for p in found] == [
        ("UNKNOWN_KEY", 4),
        ("WRONG_VALUE", 5),
        ("UNKNOWN_STAGE_TYPE", 8),
        ("UNKNOWN_STAGE", 12),
        ("UNKNOWN_AGENT", 14),
        ("UNKNOWN_KEY", 17),
        ("UNKNOWN_ACTION", 19),
        ("EXPRESSION_SYNTAX", 20),
        ("UNKNOWN_RECOVERY", 21),
    ]


KEYS = [*WORKFLOW, *STAGE, *TASK, "for_each", "until", "while", "branches", "else"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["${{ inputs.x }}", "${{", "loop", "conditional", "any", "go", "t", "s", "tasks.t.outputs"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def problems_or_none(load: Callable[[], object]) -> list[Problem] | None:
    """The problems that loading raises, None where it gives a plan."""
    try:
        load()
    except DefinitionError as error:
        return error.problems
    return None


@QUICK
@given(data=st.data())
def test_any_json_anywhere_gives_a_plan_or_problems(data: st.DataObject, registry: Registry) -> None:
    definition = copy.deepcopy(valid())
    base, keys = data.draw(
        st.sampled_from(
            [
                (("workflow",), [*WORKFLOW]),
                (("workflow", "stages", 0), [*STAGE, "for_each", "until", "branches"]),
                (("workflow", "stages", 0, "tasks", 0), [*TASK, "workflow"]),
            ]
        )
    )
    holder: Any = definition
    for part in base:
        holder = holder[part]
    holder[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    from_dict = problems_or_none(lambda: load_plan(definition, registry=registry))
    from_text = problems_or_none(lambda: parse_plan(json.dumps(definition), "t.json", registry=registry))
    assert (from_dict is None) == (from_text is None)
    assert from_text is None or (from_text and all(p.line and p.column for p in from_text))


@QUICK
@given(text=st.text(alphabet="ab:- \n\t[]{}'\"|>&*!%#,?${1é\u2028\x00", max_size=80))
def test_any_text_gives_a_plan_or_problems(text: str, registry: Registry) -> None:
    for name in ("t.yaml", "t.json"):
        with pytest.raises(DefinitionError):
            parse_plan(text, name, registry=registry)
