"""`compensate`, `on_failure: rollback`, `cache`, and limits that stages and workflows give to their tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from noa.definitions import load_plan, parse_plan, pinned_texts, plan_dict, plan_text
from noa.errors import Problem
from noa.model.events import Decision, Rollback
from noa.model.failure import Failure
from noa.model.plan import CachePlan, Dependency, Edge, Expression, Plan, StrategySpec, TaskPlan, Timeouts
from noa.plugin import Attempted, RecoveryStrategy, Registry
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES, RetryOptions, RetryStrategy

PlanOf = Callable[..., Plan]
PlanWith = Callable[..., PlanOf]
Refused = Callable[..., list[Problem]]
TASK = "agent: any, action: go"
UNDO = "agent: any, action: undo"


class NoOptions(BaseModel):
    """Nothing can be said."""

    model_config = ConfigDict(extra="forbid")


class Back(RecoveryStrategy):
    """Rolls back."""

    name = "back"
    options: ClassVar[type[BaseModel]] = NoOptions
    rolls_back = True

    def recover(self, failure: Failure, past: Attempted, options: Any) -> Decision | None:
        return Rollback()


class AgainOptions(BaseModel):
    """What `retry` takes, as far as it matters here."""

    max_attempts: int = 3
    on: list[str] | None = None


class Again(Back):
    """Stands for the strategy that a compensation has without saying so."""

    name = "retry"
    options: ClassVar[type[BaseModel]] = AgainOptions
    rolls_back = False


class OtherAgain(Again):
    """Somebody else's `retry`, which takes none of its options."""

    options = NoOptions


def one(plan: Plan, name: str, stage: str = "s", template: str = "main") -> TaskPlan:
    """A task by its name."""
    return next(t for t in plan.stages[stage].templates[template].tasks if t.name == name)


def undo_of(plan: Plan, name: str, stage: str = "s", template: str = "main") -> TaskPlan:
    """What undoes a task."""
    undo = one(plan, name, stage, template).compensate
    assert undo is not None
    return undo


def stages(body: str, workflow: str = "on_failure: rollback") -> str:
    """A workflow with these stages (a YAML list)."""
    indented = "".join(f"    {line}\n" for line in body.strip().split("\n"))
    return f"workflow:\n  name: w\n  {workflow}\n  stages:\n{indented}"


def tasks(body: str, kind: str = "parallel", workflow: str = "on_failure: rollback") -> str:
    """A workflow with one stage with these tasks (a YAML list)."""
    indented = "\n".join(f"    {line}" for line in body.strip().split("\n"))
    return stages(f"- name: s\n  type: {kind}\n  tasks:\n{indented}", workflow)


def warnings_of(plan_of: PlanOf, text: str) -> list[Problem]:
    """What does not stop a run."""
    found: list[Problem] = []
    plan_of(text, warnings=found)
    return found


# --- compensate ---------------------------------------------------------------------------------------------------


def test_a_compensation_is_a_task_of_the_same_name(plan_of: PlanOf) -> None:
    plan = plan_of(
        tasks("""
- name: pay
  agent: any
  action: charge
  inputs: {amount: 3}
  compensate:
    agent: shop
    action: sell
    inputs: {receipt: "${{ outputs.receipt }}", key: "${{ secrets.KEY }}"}
    after: attempt
    timeout: {execution: 5s, total: 1m}
    recovery: [{again: {attempts: 9}}]
    resources: {cpu: 2}
- {agent: any, action: go}
""")
    )
    undo = undo_of(plan, "pay")
    assert (undo.name, undo.agent, undo.action, undo.workflow) == ("pay", "shop", "sell", None)
    assert undo.inputs["receipt"].text == "outputs.receipt"
    assert undo.inputs["receipt"].roots == ("outputs",)
    assert undo.secrets == ("KEY",)
    assert plan.secrets == ("KEY",)
    assert undo.timeouts == Timeouts(execution_ms=5_000, total_ms=60_000)
    assert [(s.name, s.options["attempts"]) for s in undo.recovery or ()] == [("again", 9)]
    assert undo.resources == {"cpu": 2}
    assert undo.position.line == 13
    assert one(plan, "pay").compensate_after == "attempt"
    assert (one(plan, "go").compensate, one(plan, "go").compensate_after) == (None, "success")
    assert plan.on_failure == "rollback"


def test_without_inputs_it_has_none_and_with_nothing_else_it_is_tried_whatever_fails(plan_with: PlanWith) -> None:
    plan = plan_with(Again)(tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}\n- {{{TASK}, name: b}}"))
    undo = undo_of(plan, "go")
    assert undo.inputs is None
    assert undo.recovery == (StrategySpec("retry", {"max_attempts": 5, "on": ["*"]}),)
    assert one(plan, "b").recovery is None


def test_the_built_in_retry_takes_every_failure_of_a_compensation(plan_with: PlanWith) -> None:
    plan = plan_with(*BUILTIN_RECOVERY_STRATEGIES)(tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}"))
    (spec,) = undo_of(plan, "go").recovery or ()
    decide = RetryStrategy().recover
    options = RetryOptions.model_validate(dict(spec.options))
    failure = Failure("REFUSED", "no", retryable=False)
    assert decide(failure, Attempted(attempt=4, chosen=3, elapsed_ms=0, jitter=0), options) is not None
    assert decide(failure, Attempted(attempt=5, chosen=4, elapsed_ms=0, jitter=0), options) is None


def test_a_list_of_its_own_counts_even_an_empty_one(plan_with: PlanWith) -> None:
    plan = plan_with(Again)(tasks(f"- {{{TASK}, compensate: {{{UNDO}, recovery: []}}}}"))
    assert undo_of(plan, "go").recovery == ()


@pytest.mark.parametrize("strategies", [(), (OtherAgain,)])
def test_where_nothing_retries_it_is_tried_once_and_no_other_chain_counts(strategies: Any, plan_with: PlanWith) -> None:
    text = tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}", workflow="recovery: [again]")
    assert undo_of(plan_with(*strategies)(text), "go").recovery == ()


def test_it_has_the_defaults_of_tasks_but_no_inherited_total(plan_of: PlanOf) -> None:
    plan = plan_of(
        tasks(
            f"- {{{TASK}, compensate: {{{UNDO}}}}}",
            workflow="defaults: {timeout: {total: 1h, queue: 1m}, resources: {cpu: 1}}\n  timeout: {execution: 10s}",
        )
    )
    assert one(plan, "go").timeouts == Timeouts(10_000, None, 60_000, 3_600_000)
    assert undo_of(plan, "go").timeouts == Timeouts(10_000, None, 60_000)
    assert undo_of(plan, "go").resources == {"cpu": 1}


def test_it_may_undo_a_sub_workflow(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "child.yaml").write_text(tasks(f"- {{{TASK}}}", workflow="version: '1'"))
    (tmp_path / "root.yaml").write_text(
        tasks("- {workflow: child.yaml, compensate: {agent: any, action: undo, inputs: {x: '${{ outputs.y }}'}}}")
    )
    plan = load_plan(tmp_path / "root.yaml", registry=registry)
    undo = undo_of(plan, "child")
    assert (undo.agent, undo.workflow, one(plan, "child").workflow) == ("any", None, "child.yaml")
    texts = pinned_texts(plan)
    assert parse_plan(texts[""], "root.yaml", registry=registry, texts=texts).stages == plan.stages


def test_it_reads_its_own_task_without_waiting_for_it(plan_of: PlanOf) -> None:
    plan = plan_of(
        stages("""
- name: s
  type: sequential
  tasks:
    - {agent: any, action: a}
    - agent: any
      action: b
      compensate:
        agent: any
        action: undo
        inputs:
          bare: "${{ outputs.id }}"
          task: "${{ tasks.b.outputs.id }}"
          stage: "${{ stages.s.b.status }}"
          whole: "${{ outputs }}"
          before: "${{ tasks.a.outputs.id }}"
- name: each
  type: loop
  for_each: [1, 2]
  tasks:
    - agent: any
      action: c
      compensate: {agent: any, action: undo, inputs: {i: "${{ item }}", o: "${{ stages.each.c.outputs.x }}"}}
""")
    )
    assert one(plan, "b").edges == (Edge(0, "chain"),)
    assert one(plan, "c", "each", "main").edges == ()
    assert undo_of(plan, "b").inputs["whole"].roots == ("outputs",)
    assert undo_of(plan, "c", "each").inputs["i"].roots == ("item",)


def test_other_tasks_that_it_reads_are_dependencies(plan_of: PlanOf) -> None:
    plan = plan_of(
        stages("""
- {name: first, type: parallel, tasks: [{agent: any, action: a}]}
- {name: each, type: loop, for_each: [1], tasks: [{agent: any, action: l}]}
- name: s
  type: parallel
  tasks:
    - {agent: any, action: b}
    - agent: any
      action: c
      compensate:
        agent: any
        action: undo
        inputs:
          a: "${{ stages.first.a.outputs.id }}"
          b: "${{ tasks.b.outputs.id }}"
          l: "${{ stages.each.l.outputs }}"
        recovery: [{again: {attempts: 2}}]
""")
    )
    c = one(plan, "c")
    assert c.edges == (Edge(0, "data"),)
    assert c.depends_on == (Dependency("first", "a"), Dependency("each"))


def test_a_task_that_comes_later_cannot_be_read(refused: Refused) -> None:
    found = refused(
        stages("""
- name: s
  type: sequential
  tasks:
    - agent: any
      action: a
      compensate: {agent: any, action: undo, inputs: {x: "${{ §tasks.b.outputs.id }}", y: "${{ §stages.t.c.status }}"}}
    - {agent: any, action: b}
- {name: t, type: parallel, depends_on: [s], tasks: [{agent: any, action: c}]}
"""),
        ("LATER_REFERENCE", "stage 's': task 'a': 'compensate' reads 's/b', which comes after this task"),
        ("LATER_REFERENCE", "'compensate' reads 't/c'"),
    )
    assert found[0].hint == "It may read what the task itself could read, and the task's own outputs."


def test_two_compensations_cannot_read_each_others_tasks(refused: Refused) -> None:
    refused(
        tasks("""
- {agent: any, action: a, compensate: {agent: any, action: undo, inputs: {x: "${{ §tasks.b.outputs.id }}"}}}
- {agent: any, action: b, compensate: {agent: any, action: undo, inputs: {x: "${{ §tasks.a.outputs.id }}"}}}
"""),
        ("LATER_REFERENCE", "'compensate' reads 's/b'"),
        ("LATER_REFERENCE", "'compensate' reads 's/a'"),
    )


def test_a_cycle_beside_a_late_reference_is_told_as_well(refused: Refused) -> None:
    refused(
        tasks(f"""
- {{{TASK}, name: a, needs: [§b]}}
- {{{TASK}, name: b, needs: [a]}}
- {{{TASK}, name: c, needs: [d], compensate: {{{UNDO}, inputs: {{x: "${{{{ §tasks.e.outputs }}}}"}}}}}}
- {{{TASK}, name: d}}
- {{{TASK}, name: e, needs: [c]}}
"""),
        ("CYCLE", "cycle: s/a → s/b → s/a"),
        ("LATER_REFERENCE", "task 'c': 'compensate' reads 's/e'"),
    )


REFUSED: dict[str, tuple[Any, ...]] = {
    "an agent that nobody knows": (
        f"- {{{TASK}, compensate: {{agent: §shpo, action: sell}}}}",
        ("UNKNOWN_AGENT", "agent 'shpo' is not known. Known: "),
    ),
    "an action that the agent has not": (
        f"- {{{TASK}, compensate: {{agent: shop, action: §sel}}}}",
        ("UNKNOWN_ACTION", "agent 'shop' has no action 'sel'. Known: buy, count, sell, sleep. Did you mean 'sell'?"),
    ),
    "no action": (f"- {{{TASK}, compensate: §{{agent: shop}}}}", ("MISSING_KEY", "missing key 'action'")),
    "a sub-workflow": (
        f"- {{{TASK}, compensate: {{{UNDO}, §workflow: x.yaml}}}}",
        ("UNKNOWN_KEY", "unknown key 'workflow'. Known: action, after, agent, inputs, recovery, resources, timeout."),
    ),
    "another moment": (
        f"- {{{TASK}, compensate: {{{UNDO}, after: §failure}}}}",
        ("WRONG_VALUE", "'after': expected one of success, attempt, got text (\"failure\")"),
    ),
    "a name that is not in scope": (
        f"- {{{TASK}, compensate: {{{UNDO}, inputs: {{x: '${{{{ §output.x }}}}'}}}}}}",
        ("UNKNOWN_NAME", "name 'output' is not in scope here. In scope: inputs, outputs, run, secrets, stages, tasks."),
    ),
    "a task that nobody knows": (
        f"- {{{TASK}, compensate: {{{UNDO}, inputs: {{x: '${{{{ §tasks.og.outputs }}}}'}}}}}}",
        ("UNKNOWN_REFERENCE", "task 'og' is not in this stage. Known: go."),
    ),
    "outputs where there are none yet": (
        f"- {{{TASK}, inputs: {{x: '${{{{ §outputs.x }}}}'}}}}",
        ("UNKNOWN_NAME", "name 'outputs' is not in scope here"),
    ),
    "no inputs where those of the task hold secrets": (
        f"- {{{TASK}, inputs: {{x: '${{{{ secrets.KEY }}}}'}}, compensate: §{{{UNDO}}}}}",
        ("SECRET_MISUSED", "'compensate' needs 'inputs' of its own: those of its task hold secrets"),
    ),
    "a demand that nothing can grant": (
        f"- {{{TASK}, compensate: {{{UNDO}, resources: {{cpu: §99, tapes: §1}}}}}}",
        ("IMPOSSIBLE_DEMAND", "demands 99 of 'cpu', which has 4: it could never start"),
        ("UNKNOWN_POOL", "resource pool 'tapes' is not known"),
    ),
    "a strategy that nobody knows": (
        f"- {{{TASK}, compensate: {{{UNDO}, recovery: [§agian]}}}}",
        ("UNKNOWN_RECOVERY", "recovery strategy 'agian' is not known"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_compensation_is_refused_at_its_place(name: str, refused: Refused) -> None:
    text, *expected = REFUSED[name]
    refused(tasks(text), *expected, host_resources={"cpu": 4.0})


def test_an_input_that_its_action_does_not_announce_is_a_warning(plan_of: PlanOf) -> None:
    text = tasks(f"- {{{TASK}, compensate: {{agent: shop, action: sleep, inputs: {{days: 1}}}}}}")
    found = warnings_of(plan_of, text)
    assert [(w.code, w.severity) for w in found] == [("UNKNOWN_TASK_INPUT", "warning")]
    assert "action 'sleep' of agent 'shop' announces no input 'days'" in found[0].message


def test_the_graph_says_what_undoes_a_task(plan_of: PlanOf) -> None:
    plan = plan_of(tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}\n- {{{TASK}, name: b, cache: 1d}}"))
    assert "go  any · go  undone by any · undo" in plan_text(plan)
    first, second = plan_dict(plan)["stages"][0]["blocks"][0]["tasks"]
    assert first["compensate"] == {"agent": "any", "action": "undo"}
    assert second["compensate"] is None


# --- rollback -----------------------------------------------------------------------------------------------------


def test_a_rollback_that_undoes_nothing_is_a_warning(plan_of: PlanOf) -> None:
    found = warnings_of(plan_of, tasks(f"- {{{TASK}}}"))
    assert [(w.code, w.severity, w.line, w.column) for w in found] == [("NOTHING_TO_UNDO", "warning", 3, 15)]
    assert found[0].message == "a rollback would undo nothing: no task has 'compensate'"


def test_compensations_that_are_never_used_are_a_warning(plan_of: PlanOf) -> None:
    text = tasks(
        f"- {{{TASK}}}\n"
        f"- {{{TASK}, name: a, compensate: {{{UNDO}}}}}\n"
        f"- {{{TASK}, name: b, compensate: {{{UNDO}}}}}\n"
        f"- {{{TASK}, name: c, compensate: {{{UNDO}}}}}",
        workflow="recovery: [again]",
    )
    found = warnings_of(plan_of, text)
    assert [(w.code, w.severity, w.line) for w in found] == [("NEVER_ROLLED_BACK", "warning", 9)]
    assert found[0].message == (
        "stage 's': task 'a': 'compensate' is not used, nor what 2 more tasks have: this workflow never rolls back "
        "by itself"
    )


@pytest.mark.parametrize(
    "text",
    [
        tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}"),
        tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}", workflow="recovery: [again, back]"),
        tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}", workflow="defaults: {recovery: [back]}"),
        tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}\n- {{{TASK}, name: b, recovery: [back]}}", workflow="version: ''"),
        stages(f"- {{name: s, type: parallel, recovery: [back], tasks: [{{{TASK}, compensate: {{{UNDO}}}}}]}}", ""),
    ],
)
def test_whatever_may_roll_back_makes_use_of_compensations(text: str, plan_with: PlanWith) -> None:
    assert warnings_of(plan_with(Back), text) == []


def test_compensations_of_a_sub_workflow_are_for_the_rollback_of_its_parent(tmp_path: Path, registry: Registry) -> None:
    child = tasks(f"- {{{TASK}, compensate: {{{UNDO}}}}}", workflow="version: '1'")
    (tmp_path / "child.yaml").write_text(child)
    (tmp_path / "root.yaml").write_text(tasks("- {workflow: child.yaml}"))
    found: list[Problem] = []
    load_plan(tmp_path / "root.yaml", registry=registry, warnings=found)
    assert found == []
    load_plan(tmp_path / "child.yaml", registry=registry, warnings=found)
    assert [w.code for w in found] == ["NEVER_ROLLED_BACK"]


# --- cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "plan"),
    [
        ("true", CachePlan()),
        ("{}", CachePlan()),
        ("false", None),
        ("null", None),
        ("1d", CachePlan(ttl_ms=86_400_000)),
        ("90", CachePlan(ttl_ms=90_000)),
        ("{ttl: 1h}", CachePlan(ttl_ms=3_600_000)),
        ("{key: [a, 1]}", CachePlan(key=["a", 1])),
    ],
)
def test_a_cache_is_written_in_short_and_in_full(written: str, plan: CachePlan | None, plan_of: PlanOf) -> None:
    assert one(plan_of(tasks(f"- {{{TASK}, cache: {written}}}", workflow="version: ''")), "go").cache == plan


def test_what_a_cache_key_reads_is_a_dependency(plan_of: PlanOf) -> None:
    text = tasks(
        f'- {{{TASK}}}\n- {{{TASK}, name: b, cache: {{key: {{x: "${{{{ tasks.go.outputs.sha }}}}"}}, ttl: 1d}}}}',
        workflow="version: ''",
    )
    b = one(plan_of(text), "b")
    assert b.cache is not None
    assert isinstance(b.cache.key["x"], Expression)
    assert b.edges == (Edge(0, "data"),)


def test_a_cache_is_refused_where_it_cannot_be(refused: Refused, tmp_path: Path) -> None:
    refused(
        tasks(f"- {{{TASK}, cache: {{key: '${{{{ §secrets.KEY }}}}'}}}}"),
        ("SECRET_MISUSED", "secrets are in scope of a task's 'inputs' only"),
    )
    refused(
        tasks(f"- {{{TASK}, cache: §3 days}}"),
        ("WRONG_VALUE", "'cache': expected a duration such as '500ms'"),
    )
    refused(
        tasks(f"- {{{TASK}, cache: §[1]}}"), ("WRONG_TYPE", "'cache': expected true, a duration, or a mapping such as")
    )
    (tmp_path / "c.yaml").write_text(tasks(f"- {{{TASK}}}", workflow="version: ''"))
    refused(
        tasks("- {workflow: c.yaml, §cache: true}"),
        ("WRONG_VALUE", "the outputs of a sub-workflow are not kept: 'cache' stands in the tasks that do the work"),
        base=tmp_path,
    )


# --- limits -------------------------------------------------------------------------------------------------------


def test_the_nearest_limit_counts(plan_of: PlanOf) -> None:
    plan = plan_of("""
workflow:
  name: w
  timeout: {total: 10h, execution: 1h, heartbeat: 1m, queue: 2h}
  stages:
    - name: a
      type: parallel
      timeout: {total: 5h, execution: 30m, heartbeat: 30s}
      tasks:
        - {agent: any, action: near, timeout: {execution: 5m, total: 50m}}
        - {agent: any, action: far}
    - {name: b, type: parallel, timeout: 4h, tasks: [{agent: any, action: go}]}
    - {name: c, type: parallel, tasks: [{agent: any, action: go}]}
""")
    minute = 60_000
    assert plan.timeout_ms == 600 * minute
    assert [stage.timeout_ms for stage in plan.stages.values()] == [300 * minute, 240 * minute, None]
    assert one(plan, "near", "a").timeouts == Timeouts(5 * minute, minute // 2, 120 * minute, 50 * minute)
    assert one(plan, "far", "a").timeouts == Timeouts(30 * minute, minute // 2, 120 * minute)
    assert one(plan, "go", "b").timeouts == Timeouts(60 * minute, minute, 120 * minute)
    assert one(plan, "go", "c").timeouts == Timeouts(60 * minute, minute, 120 * minute)


def test_defaults_are_nearer_than_the_stage_and_a_bare_duration_is_the_whole(plan_of: PlanOf) -> None:
    plan = plan_of(
        stages(
            f"- {{name: s, type: parallel, timeout: {{execution: 9s, queue: 8s}}, tasks: [{{{TASK}}}]}}",
            "defaults: {timeout: 3s}\n  timeout: 1h",
        )
    )
    assert plan.timeout_ms == 3_600_000
    assert one(plan, "go").timeouts == Timeouts(execution_ms=3_000, queue_ms=8_000)


def test_a_sub_workflow_inherits_only_the_total(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "c.yaml").write_text(tasks(f"- {{{TASK}}}", workflow="version: ''"))
    (tmp_path / "r.yaml").write_text(
        tasks(
            "- {workflow: c.yaml}",
            workflow="timeout: {execution: 1s, queue: 1s}\n  defaults: {timeout: {total: 9s, heartbeat: 1s}}",
        )
    )
    plan = load_plan(tmp_path / "r.yaml", registry=registry)
    assert one(plan, "c").timeouts == Timeouts(total_ms=9_000)
    assert one(plan.children["c.yaml"], "go").timeouts == Timeouts()


def test_a_limit_that_a_stage_does_not_have_is_refused(refused: Refused) -> None:
    refused(
        stages(f"- {{name: s, type: parallel, timeout: {{§totl: 1s, queue: §soon}}, tasks: [{{{TASK}}}]}}"),
        ("UNKNOWN_KEY", "unknown key 'totl'. Known: execution, heartbeat, queue, total. Did you mean 'total'?"),
        ("WRONG_VALUE", "'queue': expected a duration"),
    )
