"""What a definition compiles to: edges, dependencies, defaults, options, recovery, agents, sub-workflows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noa.definitions import agent_declaration, load_plan, parse_plan, pinned_texts
from noa.definitions.agents import unknown_inputs
from noa.definitions.source import Source
from noa.errors import DefinitionError, Problem
from noa.model.plan import (
    Dependency,
    Edge,
    Expression,
    Interpolation,
    Plan,
    Reference,
    StrategySpec,
    TaskPlan,
    Timeouts,
)
from noa.plugin import ActionInfo, Registry

ROOT = Path(__file__).parents[3]
PlanOf = Callable[..., Plan]


def task(plan: Plan, stage: str, name: str, template: str = "main") -> TaskPlan:
    """A task of a plan by its names."""
    return next(t for t in plan.stages[stage].templates[template].tasks if t.name == name)


def test_the_unified_pipeline_compiles_as_it_stands(registry: Registry) -> None:
    path = ROOT / "definitions" / "unified-pipeline.yaml"
    warnings: list[Problem] = []
    plan = load_plan(path, registry=registry, warnings=warnings)
    assert (plan.name, plan.version, list(plan.stages)) == ("unified-pipeline", "1.0", ["init", "process", "finalize"])
    assert plan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plan.open_inputs
    assert plan.stages["process"].depends_on == ("init",)
    assert plan.stages["process"].dependents == ("finalize",)
    main = plan.stages["process"].templates["main"]
    assert [t.name for t in main.tasks] == ["inference", "post_processing"]
    assert main.tasks[1].edges == (Edge(0, "chain"),)
    assert main.dependents == ((1,), ())
    assert all(t.inputs is None for s in plan.stages.values() for b in s.templates.values() for t in b.tasks)
    assert warnings == []


def test_edges_come_from_needs_the_chain_and_data(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  stages:
    - name: p
      type: parallel
      tasks:
        - {name: a, agent: any, action: go}
        - {name: b, agent: any, action: go, needs: [a]}
        - {name: c, agent: any, action: go, inputs: {x: "${{ tasks.b.outputs.v }}", y: "${{ tasks.a.outputs.v }}"}}
        - {name: d, agent: any, action: go, when: stages.p.a.status == "succeeded", needs: [c]}
    - name: q
      type: sequential
      tasks:
        - {name: a, agent: any, action: go}
        - {name: b, agent: any, action: go, inputs: {x: "${{ tasks.a.outputs.v }}"}}
        - {name: c, agent: any, action: go, needs: [a]}
""")
    p = plan.stages["p"].templates["main"]
    assert [t.edges for t in p.tasks] == [
        (),
        (Edge(0, "needs"),),
        (Edge(0, "data"), Edge(1, "data")),
        (Edge(0, "data"), Edge(2, "needs")),
    ]
    assert p.dependents == ((1, 2, 3), (2,), (3,), ())
    q = plan.stages["q"].templates["main"]
    assert [t.edges for t in q.tasks] == [(), (Edge(0, "chain"),), (Edge(0, "needs"), Edge(1, "chain"))]


def test_references_to_other_stages_are_dependencies(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  outputs: {total: "${{ stages.use.go.outputs.total }}", text: "got ${{ stages.use.go.status }}"}
  stages:
    - name: use
      type: parallel
      tasks:
        - agent: any
          action: go
          inputs:
            one: ${{ stages["data-in"].read.outputs.rows[0].id }}
            all: ${{ stages.each.read.outputs }}
    - {name: data-in, type: parallel, tasks: [{name: read, agent: any, action: go}]}
    - {name: each, type: loop, for_each: [1, 2], tasks: [{name: read, agent: any, action: go}]}
    - name: late
      type: parallel
      when: stages.use.go.outputs.total > 3
      depends_on: [each]
      tasks: [{agent: any, action: go}]
    - name: last
      type: parallel
      when: stages.use.go.outputs.total > 3
      depends_on: [late]
      tasks: [{agent: any, action: go}]
    - {name: next, type: loop, for_each: "${{ stages.use.go.outputs.list }}", tasks: [{agent: any, action: go}]}
""")
    go = task(plan, "use", "go")
    assert go.depends_on == (Dependency("data-in", "read"), Dependency("each"))
    assert go.inputs["one"].references == (Reference("data-in", "read", "outputs", ("rows",)),)
    assert plan.stages["use"].depends_on == ()
    assert plan.stages["late"].depends_on == ("each", "use")
    assert plan.stages["next"].depends_on == ("use",)
    assert plan.stages["use"].dependents == ("late", "last", "next")
    assert isinstance(plan.outputs["total"], Expression)
    assert isinstance(plan.outputs["text"], Interpolation)


def test_a_stage_that_is_an_ancestor_is_not_added_again(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  stages:
    - {name: a, type: parallel, tasks: [{agent: any, action: go}]}
    - {name: b, type: parallel, depends_on: [a], tasks: [{agent: any, action: go}]}
    - {name: c, type: parallel, depends_on: [b], when: stages.a.go.outputs.ok, tasks: [{agent: any, action: go}]}
""")
    assert plan.stages["c"].depends_on == ("b",)


def test_defaults_fill_what_a_task_does_not_say(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  timeout: 2h
  max_parallel: 8
  resources: {licences: 2}
  recovery: [again]
  defaults:
    timeout: {execution: 30s, total: 1.5m}
    recovery: [{again: {attempts: 5}}]
    resources: {cpu: 0.5, memory: 512Mi}
    optional: true
    priority: 3
    idempotent: true
  stages:
    - name: s
      type: parallel
      timeout: 500ms
      recovery: []
      tasks:
        - {name: a, agent: any, action: go}
        - name: b
          agent: any
          action: go
          timeout: 10
          recovery: [again]
          resources: {cpu: 1, licences: 1}
          optional: false
          priority: 0
          idempotent: false
""")
    a, b = task(plan, "s", "a"), task(plan, "s", "b")
    assert a.timeouts == Timeouts(execution_ms=30_000, total_ms=90_000)
    assert b.timeouts == Timeouts(execution_ms=10_000, total_ms=90_000)
    assert [r.options["attempts"] for r in (a.recovery or ())] == [5]
    assert [r.options for r in (b.recovery or ())] == [{"attempts": 3, "on": None}]
    assert a.resources == {"cpu": 0.5, "memory": 512 * 1024 * 1024}
    assert b.resources == {"cpu": 1, "memory": 512 * 1024 * 1024, "licences": 1}
    assert (a.optional, a.priority, a.idempotent) == (True, 3, True)
    assert (b.optional, b.priority, b.idempotent) == (False, 0, False)
    stage = plan.stages["s"]
    assert (stage.recovery, stage.timeout_ms) == ((), 500)
    assert (plan.timeout_ms, plan.max_parallel, plan.resources) == (7_200_000, 8, {"licences": 2})
    assert plan.recovery is not None
    assert isinstance(plan.recovery[0], StrategySpec)


def test_options_of_a_stage_type_are_json_with_expressions(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  stages:
    - name: each
      type: loop
      for_each: [1, "${{ inputs.x }}"]
      max_parallel: 4
      tasks: [{agent: any, action: go, inputs: {i: "${{ item }}", n: "${{ index }}"}}]
    - name: poll
      type: loop
      until: previous.go.done
      max_iterations: 5
      tasks: [{agent: any, action: go, inputs: {last: "${{ previous }}"}}]
    - name: choose
      type: conditional
      branches:
        - {when: inputs.a, tasks: [{agent: any, action: go}, {agent: any, action: stop}]}
        - {when: true, tasks: [{agent: any, action: go}]}
      else: [{agent: any, action: rest}]
""")
    each, poll, choose = (plan.stages[n] for n in ("each", "poll", "choose"))
    assert each.options["for_each"][0] == 1
    assert each.options["for_each"][1].text == "inputs.x"
    assert (each.options["max_parallel"], each.max_parallel, each.single) == (4, 4, False)
    assert poll.options["until"].roots == ("previous",)
    assert (poll.options["while"], poll.options["for_each"]) == (None, None)
    assert [b["when"].text for b in choose.options["branches"]] == ["inputs.a", "true"]
    assert "else" not in choose.options
    assert list(choose.templates) == ["branch0", "branch1", "else"]
    assert choose.templates["branch0"].tasks[1].edges == (Edge(0, "chain"),)


def test_a_bare_expression_may_stand_in_marks(plan_of: PlanOf) -> None:
    text = "workflow: {name: w, stages: [{name: s, type: parallel, when: '%s', tasks: [{agent: any, action: go}]}]}"
    for written in ("inputs.a > 3", "${{ inputs.a > 3 }}", "  inputs.a > 3  "):
        when = plan_of(text % written).stages["s"].when
        assert when is not None
        assert when.text == "inputs.a > 3"
        assert when.position.column == text.index("%s") + 1 + written.index("inputs")


def test_agents_of_the_definition_become_declarations(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  agents:
    here: {command: [/bin/true, -x], capacity: 2, replicas: 3, env: {A: b}, start_timeout: 5s, resources: {memory: 1Gi}}
    there: {address: ["a:1", "b:2"]}
  stages:
    - {name: s, type: parallel, tasks: [{agent: here, action: go}, {agent: there, action: do}]}
""")
    here, there = agent_declaration(plan.agents["here"]), agent_declaration(plan.agents["there"])
    assert (here.kind, here.command, here.capacity) == ("sidecar", ("/bin/true", "-x"), 2)
    assert (here.min_replicas, here.max_replicas, here.start_timeout_s) == (3, 3, 5.0)
    assert (here.env, here.resources) == ({"A": "b"}, {"memory": 2**30})
    assert (there.kind, there.addresses) == ("remote", ("a:1", "b:2"))


def test_a_field_that_two_tasks_give_is_warned_about(plan_of: PlanOf) -> None:
    warnings: list[Problem] = []
    plan_of(
        """
workflow:
  name: w
  stages:
    - {name: a, type: parallel, tasks: [{agent: shop, action: buy}, {agent: shop, action: sell}]}
    - name: b
      type: parallel
      depends_on: [a]
      tasks:
        - {agent: shop, action: count}
        - {agent: shop, action: sleep}
        - {name: named, agent: shop, action: count, inputs: {total: "${{ stages.a.buy.outputs.total }}"}}
""",
        warnings=warnings,
    )
    assert [(w.code, w.severity, w.line, w.column) for w in warnings] == [("AMBIGUOUS_FIELD", "warning", 10, 11)]
    assert "stages.a.buy.outputs.total and stages.a.sell.outputs.total" in warnings[0].message


def test_a_hyphen_in_a_name_gets_a_hint(problems_of: Callable[..., list[Problem]]) -> None:
    for written in ("stages.my-stage.go.outputs", "stages.my-stage.go.outputs + 1", "tasks.my-stage"):
        (problem, *_) = problems_of(f"""
workflow:
  name: w
  stages:
    - {{name: my-stage, type: parallel, tasks: [{{agent: any, action: go}}]}}
    - {{name: b, type: parallel, tasks: [{{agent: any, action: go, inputs: {{x: "${{{{ {written} }}}}"}}}}]}}
""")
        assert problem.hint == "CEL takes '-' for minus; write [\"my-stage\"] instead of .my-stage."


def test_a_cycle_is_explained_edge_by_edge(problems_of: Callable[..., list[Problem]]) -> None:
    (problem,) = problems_of("""
workflow:
  name: w
  stages:
    - {name: a, type: parallel, depends_on: [c], tasks: [{agent: any, action: go}]}
    - {name: b, type: parallel, depends_on: [a], tasks: [{agent: any, action: go}]}
    - {name: c, type: parallel, depends_on: [b], tasks: [{agent: any, action: go}]}
""")
    assert problem.message == "cycle: a → c → b → a"
    assert problem.hint == "a waits for c (line 5); c waits for b (line 7); b waits for a (line 6)."


class TestSubWorkflows:
    """Tasks that run another definition."""

    CHILD = """
workflow:
  name: child
  inputs: {x: {type: integer}, y: {default: 1}}
  outputs: {z: 1}
  stages: [{name: s, type: parallel, tasks: [{workflow: deeper/leaf.yaml}]}]
"""
    LEAF = "workflow: {name: leaf, stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]}\n"

    def write(self, folder: Path, inputs: str = "{x: 1}") -> Path:
        (folder / "sub" / "deeper").mkdir(parents=True)
        (folder / "sub" / "child.yaml").write_text(self.CHILD)
        (folder / "sub" / "deeper" / "leaf.yaml").write_text(self.LEAF)
        root = folder / "root.yaml"
        root.write_text(
            "workflow:\n  name: root\n  stages:\n    - name: s\n      type: parallel\n      tasks:\n"
            f"        - {{name: one, workflow: sub/child.yaml, inputs: {inputs}}}\n"
            "        - {workflow: ./sub/../sub/child.yaml, inputs: {x: 2}}\n"
        )
        return root

    def test_are_found_beside_the_file_that_names_them(self, tmp_path: Path, registry: Registry) -> None:
        plan = load_plan(self.write(tmp_path), registry=registry)
        assert [t.workflow for t in plan.stages["s"].templates["main"].tasks] == ["sub/child.yaml"] * 2
        assert task(plan, "s", "child").agent == ""
        child = plan.children["sub/child.yaml"]
        assert child.children["deeper/leaf.yaml"].name == "leaf"
        assert child.source_name == str(tmp_path / "sub" / "child.yaml")

    def test_pinned_texts_make_the_same_plan_without_the_disk(self, tmp_path: Path, registry: Registry) -> None:
        plan = load_plan(self.write(tmp_path), registry=registry)
        texts = pinned_texts(plan)
        assert list(texts) == ["", "sub/child.yaml", "sub/deeper/leaf.yaml"]
        again = parse_plan(texts[""], plan.source_name, registry=registry, texts=texts)
        assert pinned_texts(again) == texts
        assert again.stages == plan.stages
        child = plan.children["sub/child.yaml"]
        own = pinned_texts(child)
        assert list(own) == ["", "deeper/leaf.yaml"]
        assert parse_plan(own[""], child.source_name, registry=registry, texts=own).stages == child.stages

    def test_a_missing_file_is_a_problem_at_the_task(self, tmp_path: Path, registry: Registry) -> None:
        root = self.write(tmp_path)
        (tmp_path / "sub" / "deeper" / "leaf.yaml").unlink()
        with pytest.raises(DefinitionError) as caught:
            load_plan(root, registry=registry)
        (problem,) = caught.value.problems
        assert (problem.code, problem.line) == ("UNKNOWN_WORKFLOW", 6)
        assert problem.file.endswith("child.yaml")

    def test_mistakes_in_a_child_are_shown_in_its_file(self, tmp_path: Path, registry: Registry) -> None:
        root = self.write(tmp_path)
        (tmp_path / "sub" / "deeper" / "leaf.yaml").write_text(self.LEAF.replace("any", "nobody"))
        with pytest.raises(DefinitionError) as caught:
            load_plan(root, registry=registry)
        (problem,) = caught.value.problems
        assert (Path(problem.file).name, problem.code) == ("leaf.yaml", "UNKNOWN_AGENT")

    def test_mistakes_in_a_child_are_shown_where_warnings_are_wanted_too(
        self, tmp_path: Path, registry: Registry
    ) -> None:
        (tmp_path / "child.yaml").write_text("workflow: {name: c, stages: [{name: s, type: nothing, tasks: []}]}")
        parent = "workflow: {name: p, stages: [{name: s, type: sequential, tasks: [{workflow: child.yaml}]}]}"
        (tmp_path / "parent.yaml").write_text(parent)
        with pytest.raises(DefinitionError) as refused:
            load_plan(tmp_path / "parent.yaml", registry=registry, warnings=[])
        assert all(problem.file.endswith("child.yaml") for problem in refused.value.problems)

    def test_inputs_must_fit_the_child(self, tmp_path: Path, registry: Registry) -> None:
        with pytest.raises(DefinitionError) as caught:
            load_plan(self.write(tmp_path, "{y: 2, q: 3}"), registry=registry)
        assert [p.code for p in caught.value.problems] == ["MISSING_INPUT", "UNKNOWN_INPUT"]

    @pytest.mark.parametrize("target", ["root.yaml", "other.yaml"])
    def test_recursion_is_refused_and_its_ring_shown(self, tmp_path: Path, registry: Registry, target: str) -> None:
        text = "workflow: {name: w, stages: [{name: s, type: parallel, tasks: [{workflow: %s}]}]}\n"
        (tmp_path / "root.yaml").write_text(text % target)
        (tmp_path / "other.yaml").write_text(text % "root.yaml")
        with pytest.raises(DefinitionError, match=r"would run itself: root\.yaml → .*root\.yaml") as caught:
            load_plan(tmp_path / "root.yaml", registry=registry)
        assert [p.code for p in caught.value.problems] == ["RECURSION"]

    def test_a_text_that_is_not_pinned_is_named(self, registry: Registry) -> None:
        text = "workflow: {name: w, stages: [{name: s, type: parallel, tasks: [{workflow: x.yaml}]}]}\n"
        with pytest.raises(DefinitionError, match="not among the texts"):
            parse_plan(text, "t.yaml", registry=registry, texts={"": text})
        with pytest.raises(DefinitionError, match="has no folder"):
            parse_plan(text, "t.yaml", registry=registry)


def test_the_text_of_a_dict_gives_the_same_plan(registry: Registry) -> None:
    definition = {"workflow": {"name": "w", "stages": [{"name": "s", "type": "sequential",
                                                      "tasks": [{"agent": "any", "action": "go"}]}]}}  # fmt: skip
    plan = load_plan(definition, registry=registry)
    again = parse_plan(pinned_texts(plan)[""], plan.source_name, registry=registry)
    assert (again.sha256, again.name, list(again.stages)) == (plan.sha256, plan.name, list(plan.stages))


def wide(count: int, kind: str) -> str:
    """A definition with one stage of many tasks, each with an expression."""
    line = "        - {name: t%d, agent: any, action: go, inputs: {x: '${{ inputs.a%d }}'}}\n"
    body = "".join(line % (i, i) for i in range(count))
    return f"workflow:\n  name: w\n  stages:\n    - name: s\n      type: {kind}\n      tasks:\n{body}"


def deep(count: int) -> str:
    """A definition with a chain of many stages."""
    line = "    - {name: s%d, type: parallel, depends_on: [%s], tasks: [{agent: any, action: go}]}\n"
    body = "".join(line % (i, f"s{i - 1}" if i else "") for i in range(count))
    return f"workflow:\n  name: w\n  stages:\n{body}"


@pytest.mark.parametrize("make", [lambda n: wide(n, "parallel"), lambda n: wide(n, "sequential"), deep],
                         ids=["parallel", "sequential", "stages"])  # fmt: skip
def test_time_grows_with_the_size_and_not_faster(make: Callable[[int], str], plan_of: PlanOf) -> None:
    def seconds(count: int) -> float:
        text = make(count)
        begin = time.process_time()
        plan_of(text)
        return time.process_time() - begin

    seconds(100)
    small, large = min(seconds(500) for _ in range(3)), seconds(8_000)
    assert large / small < 16 * 3


def test_many_mistakes_do_not_take_long(problems_of: Callable[..., list[Problem]]) -> None:
    begin = time.process_time()
    found = problems_of(wide(3_000, "parallel").replace("agent: any", "agent: nobody"))
    assert len(found) == 3_000
    assert time.process_time() - begin < 10


def test_an_input_that_is_declared_wrongly_is_not_unknown_as_well(problems_of: Callable[..., list[Problem]]) -> None:
    found = problems_of("""
workflow:
  name: w
  inputs: {a: 3, b: {type: string}}
  stages: [{name: s, type: parallel, tasks: [{agent: any, action: go, inputs: {x: "${{ inputs.a }}"}}]}]
""")
    assert [p.code for p in found] == ["WRONG_TYPE"]


def test_names_of_a_stage_with_mistakes_are_not_unknown_as_well(problems_of: Callable[..., list[Problem]]) -> None:
    found = problems_of("""
workflow:
  name: w
  stages:
    - {name: a, type: parallel, tasks: [{name: t, agent: any, actoin: go}, {name: u, agent: nobody, action: go}]}
    - {name: b, type: paralel, tasks: [{name: t, agent: any, action: go}]}
    - name: c
      type: parallel
      depends_on: [a, b]
      tasks: [{agent: any, action: go, inputs: {x: "${{ stages.a.t.outputs }}", y: "${{ stages.b.t.outputs }}"}}]
""")
    assert [(p.code, p.line) for p in found] == [("UNKNOWN_KEY", 5), ("UNKNOWN_AGENT", 5), ("UNKNOWN_STAGE_TYPE", 6)]


@pytest.mark.parametrize(
    "wrong",
    ["timeout: soon", "needs: [3]", "naem: x", "name: 3", "resources: {cpu: lots}", "recovery: again",
     "optional: maybe", "timeout: {execution: soon}", "inputs: text", "when: []"],
)  # fmt: skip
def test_a_wrong_key_of_one_task_does_not_hide_mistakes_of_the_others(
    wrong: str, problems_of: Callable[..., list[Problem]]
) -> None:
    found = problems_of(f"""
workflow:
  name: w
  stages:
    - name: s
      type: parallel
      tasks:
        - {{agent: nobody, action: one}}
        - {{agent: any, action: two, {wrong}}}
        - hello
        - {{agent: nobody, action: three, needs: [four]}}
""")
    assert [(p.code, p.line) for p in found if p.line != 9] == [
        ("UNKNOWN_AGENT", 8),
        ("WRONG_TYPE", 10),
        ("UNKNOWN_AGENT", 11),
    ]
    assert [p.line for p in found].count(9) == 1


def test_an_input_that_the_action_does_not_announce_is_a_warning(registry: Registry) -> None:
    warnings: list[Problem] = []
    parse_plan(
        """
workflow:
  name: w
  stages:
    - name: s
      type: parallel
      tasks:
        - agent: shop
          action: count
          inputs:
            toal: 1
            total: 2
        - {agent: shop, action: buy, inputs: {anything: 1}}
        - {agent: any, action: go, inputs: {anything: 1}}
        - {agent: shop, action: count, name: whole, inputs: "${{ inputs }}"}
""",
        "t.yaml",
        registry=registry,
        warnings=warnings,
    )
    assert [(w.code, w.severity, w.line, w.column) for w in warnings] == [("UNKNOWN_TASK_INPUT", "warning", 11, 13)]
    assert warnings[0].message == (
        "stage 's': task 'count': action 'count' of agent 'shop' announces no input 'toal'. "
        "Known: total. Did you mean 'total'?"
    )


@pytest.mark.parametrize(
    ("schema", "warned"),
    [
        ({"properties": {"a": {}}}, True),
        ({"properties": {"a": {}}, "additionalProperties": False}, True),
        ({"properties": {"a": {}}, "additionalProperties": True}, False),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, False),
        ({"properties": {"a": {}}, "patternProperties": {"^x": {}}}, False),
        ({"properties": {"a": {}}, "allOf": [{"properties": {"x": {}}}]}, False),
        ({"properties": {}, "type": "object"}, False),
        ({"type": "object"}, False),
        ({}, False),
    ],
)
def test_inputs_are_compared_only_where_the_schema_says_what_is_taken(schema: dict[str, Any], warned: bool) -> None:
    source = Source("t.yaml", "", {})
    found = unknown_inputs(source, "x", {"x": 1}, ActionInfo("go", input_schema=schema), ())
    assert [p.code for p in found] == (["UNKNOWN_TASK_INPUT"] if warned else [])
