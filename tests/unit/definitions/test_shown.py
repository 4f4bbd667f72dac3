"""What people see: problems, the graph in three forms, the JSON Schema, quantities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from noa.definitions import critical_path, explain, json_schema, load_plan, plan_dict, plan_mermaid, plan_text
from noa.definitions.problems import nearest
from noa.definitions.quantities import parse_duration_ms, parse_quantity
from noa.errors import Problem
from noa.model.plan import Plan
from noa.plugin import Registry

ROOT = Path(__file__).parents[3]
GRAPH = """
workflow:
  name: w
  version: "2"
  stages:
    - name: first
      type: parallel
      tasks: [{name: a, agent: any, action: go}, {name: b, agent: any, action: go, needs: [a]}]
    - name: pick
      type: conditional
      depends_on: [first]
      branches: [{when: inputs.x, tasks: [{name: c, agent: any, action: go}]}]
      else: [{name: d, agent: any, action: go}, {name: e, agent: any, action: go}]
    - name: side
      type: parallel
      tasks: [{name: f, agent: any, action: go, resources: {cpu: 2}, inputs: {x: "${{ stages.first.b.outputs.x }}"}}]
"""


def test_a_problem_is_shown_with_its_line_a_caret_and_a_hint() -> None:
    problem = Problem(
        "X", "unknown key 'naem'", file="a.yaml", line=3, column=5, source="  \tnaem: x", hint="Did you mean 'name'?"
    )
    assert explain([problem, problem]) == "\n".join(
        ["a.yaml:3:5: unknown key 'naem'", "      \tnaem: x", "      \t ^", "    Did you mean 'name'?"] * 2
    )


def test_a_long_line_is_cut_around_its_column() -> None:
    source = "x" * 5_000 + "HERE" + "y" * 5_000
    lines = explain([Problem("X", "m", file="f", line=1, column=5_001, source=source)]).split("\n")
    assert len(lines[1]) < 200
    assert lines[1][lines[2].index("^") :].startswith("HERE")


def test_a_problem_without_a_place_shows_its_path() -> None:
    assert explain([Problem("X", "m", file="<dict>", path="workflow.name")]) == "<dict>: m (at workflow.name)"
    assert explain([Problem("X", "m", severity="warning")]) == "definition: warning: m"


def test_the_nearest_name_is_near() -> None:
    assert nearest("retyr", ["degrade", "retry", "rollback"]) == "retry"
    assert nearest("zzz", ["degrade", "retry"]) is None
    assert nearest("t500l", [f"t{i}" for i in range(20_000)]) is not None


def test_the_critical_path_is_the_longest_chain(plan_of: Callable[..., Plan]) -> None:
    assert critical_path(plan_of(GRAPH)) == ["first/a", "first/b", "pick/d", "pick/e"]


def test_the_graph_as_text_says_what_waits_for_what(plan_of: Callable[..., Plan]) -> None:
    assert plan_text(plan_of(GRAPH)) == (
        "w 2\n3 stages, 6 tasks\n\n"
        "first  parallel\n  a  any · go\n  b  any · go  after a (needs)\n"
        "pick  conditional  after first\n  branch0  when inputs.x\n    c  any · go\n"
        "  else\n    d  any · go\n    e  any · go  after d (chain)\n"
        "side  parallel\n  f  any · go  after first/b (data), cpu 2 (resource)\n\n"
        "critical path (4 tasks): first/a → first/b → pick/d → pick/e"
    )


def test_the_graph_as_text_shows_memory_in_binary_units_and_the_heads_of_loops_and_branches(
    plan_of: Callable[..., Plan],
) -> None:
    lines = plan_text(
        plan_of("""
workflow:
  name: w
  stages:
    - name: one
      type: conditional
      branches: [{when: inputs.x > 1, tasks: [{agent: any, action: go, resources: {memory: 64Mi, cpu: 0.5}}]}]
    - name: each
      type: loop
      for_each: "${{ inputs.names }}"
      tasks: [{agent: any, action: go, resources: {memory: 1.5GiB}}]
    - name: listed
      type: loop
      for_each: [1, 2]
      tasks: [{agent: any, action: go, resources: {memory: 100}}]
    - {name: while, type: loop, while: index < 3, max_iterations: 5, tasks: [{agent: any, action: go}]}
    - {name: until, type: loop, until: index > 3, max_iterations: 5, tasks: [{agent: any, action: go}]}
""")
    ).split("\n")
    for line in (
        "  branch0  when inputs.x > 1",
        "    go  any · go  after memory 64 MiB (resource), cpu 0.5 (resource)",
        "each  loop  for_each inputs.names",
        "  go  any · go  after memory 1.5 GiB (resource)",
        "listed  loop  for_each 2 items",
        "  go  any · go  after memory 100 B (resource)",
        "while  loop  while index < 3",
        "until  loop  until index > 3",
    ):
        assert line in lines


def test_the_graph_as_mermaid_has_every_edge_with_its_kind(plan_of: Callable[..., Plan]) -> None:
    text = plan_mermaid(plan_of(GRAPH))
    for line in ("flowchart TD", "  s0b0t0 -->|needs| s0b0t1", "  s0 ==> s1", "  s0b0t1 -.->|data| s2b0t0",
                 "  s1b1t0 -->|chain| s1b1t1", '    subgraph s1b1["else"]'):  # fmt: skip
        assert line in text.split("\n")
    assert text.count("subgraph") == sum(line.strip() == "end" for line in text.split("\n"))


def test_the_graph_as_json_uses_names(plan_of: Callable[..., Plan]) -> None:
    data = json.loads(json.dumps(plan_dict(plan_of(GRAPH))))
    assert data["stages"][2]["blocks"][0]["tasks"][0]["after"] == [{"stage": "first", "task": "b", "kind": "data"}]
    assert data["critical_path"][-1] == "pick/e"


@pytest.fixture(scope="module")
def schema(registry: Registry) -> dict[str, Any]:
    return json_schema(registry)


UNDO = {"agent": "a", "action": "c", "after": "attempt", "inputs": "${{ outputs }}", "recovery": ["again"]}
GOOD: list[dict[str, Any]] = [
    {"name": "s", "type": "loop", "until": "true", "max_iterations": 2, "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "recovery": ["again", {"again": {}}]}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "timeout": "3s"}]},
    {"name": "s", "type": "conditional", "branches": [{"when": True, "tasks": [{"workflow": "x.yaml"}]}], "timeout": 3},
    {"name": "s", "type": "parallel", "timeout": {"total": "1h", "queue": 3}, "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "cache": True}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "cache": "1d"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "cache": {"key": [1], "ttl": "1d"}}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "compensate": UNDO}]},
]  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"name": "s", "type": "paralel", "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel", "for_each": [], "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "need": []}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "recovery": ["retyr"]}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "timeout": "soon"}]},
    {"name": "s", "type": "parallel", "timeout": {"totl": 1}, "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "cache": "soon"}]},
    {"name": "s", "type": "parallel", "tasks": [{"agent": "a", "action": "b", "compensate": {"agent": "a"}}]},
    {"name": "s/t", "type": "parallel", "tasks": [{"agent": "a", "action": "b"}]},
    {"name": "s", "type": "parallel"},
]


def test_the_schema_is_a_schema_and_takes_the_unified_pipeline(schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    text = (ROOT / "definitions" / "unified-pipeline.yaml").read_text()
    jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize("stage", GOOD)
def test_the_schema_takes_what_the_loader_takes(
    stage: dict[str, Any], schema: dict[str, Any], registry: Registry
) -> None:
    jsonschema.validate({"workflow": {"name": "w", "stages": [stage]}}, schema)


@pytest.mark.parametrize("stage", BAD)
def test_the_schema_refuses_what_the_loader_refuses(stage: dict[str, Any], schema: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"workflow": {"name": "w", "stages": [stage]}}, schema)


def test_every_key_of_the_schema_has_a_description(schema: dict[str, Any]) -> None:
    missing = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part.get("properties", {}).items()
        if "description" not in value and "const" not in value and name.split(".")[0] != "Recovery"
    ]
    assert missing == []


def test_a_plan_of_a_file_names_the_file(registry: Registry) -> None:
    path = ROOT / "definitions" / "unified-pipeline.yaml"
    assert load_plan(str(path), registry=registry).source_name == str(path)


@pytest.mark.parametrize(
    ("value", "ms"),
    [("500ms", 500), ("30s", 30_000), ("1.5m", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), (3, 3_000)],
)  # fmt: skip
def test_durations(value: Any, ms: int) -> None:
    assert parse_duration_ms(value) == ms


@pytest.mark.parametrize("value", ["", "soon", "-3s", "3", "1e9h", 0, -1, True, None, float("inf"), "99999999d", []])
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration_ms(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [(2, 2), (0.5, 0.5), ("512Mi", 2**29), ("2GiB", 2**31), ("1500MB", 1.5e9), ("100", 100), ("1k", None)],
)  # fmt: skip
def test_quantities(value: Any, number: float | None) -> None:
    if number is None:
        with pytest.raises(ValueError, match="expected a number"):
            parse_quantity(value)
    else:
        assert parse_quantity(value) == number
