"""Options of recovery strategies: expressions in them are compiled, agents that they name are checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from noa.definitions import ExpressionText, json_schema
from noa.errors import DefinitionError, Problem
from noa.model.events import Decision, Substitute
from noa.model.failure import Failure
from noa.model.plan import Dependency, Edge, Expression, Interpolation, Plan, StrategySpec
from noa.plugin import Attempted, RecoveryStrategy, Registry
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES

PlanOf = Callable[..., Plan]
Refused = Callable[..., list[Problem]]


class Options(BaseModel):
    """Options with no key but their own."""

    model_config = ConfigDict(extra="forbid")


class Candidate(Options):
    """Whom to ask instead."""

    noa_target: ClassVar[bool] = True

    agent: str | None = None
    action: str | None = None
    inputs: dict[str, Any] | None = None


class InsteadOptions(Options):
    """Options of `instead`: candidates, or a mapping."""

    to: list[Candidate] = Field(min_length=1)
    first: Candidate | None = None
    only_if: ExpressionText | None = None
    note: Any = None
    code: str = "X"
    count: int = 1
    short: Annotated[str, Field(max_length=3)] = ""
    texts: list[str] = []
    aliased: Any = Field(None, alias="as-is")

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, list) else value


class Instead(RecoveryStrategy):
    """Asks somebody else."""

    name = "instead"
    options: ClassVar[type[BaseModel]] = InsteadOptions

    def recover(self, failure: Failure, past: Attempted, options: Any) -> Decision | None:
        return Substitute(agent=options.to[0].agent)


def _loud(value: Any) -> Any:
    return value.strip()


class LoudOptions(Options):
    """Whose validator expects text."""

    text: Annotated[Any, AfterValidator(_loud)] = "a"


class Loud(Instead):
    """A stranger's strategy that knows nothing of expressions."""

    name = "loud"
    options = LoudOptions


@pytest.fixture(scope="module")
def chains_of(plan_with: Callable[..., PlanOf]) -> PlanOf:
    """Compiles with these strategies."""
    return plan_with(Instead, Loud)


@pytest.fixture(scope="module")
def found_in(chains_of: PlanOf) -> Callable[[str], list[Problem]]:
    """The problems of a text; it must have some."""

    def find(text: str) -> list[Problem]:
        with pytest.raises(DefinitionError) as caught:
            chains_of(text)
        return caught.value.problems

    return find


def chain(options: str, task: str = "agent: any, action: go") -> str:
    """A task with one entry in its chain, behind another task."""
    return f"""workflow:
  name: w
  inputs: {{text: {{}}}}
  stages:
    - {{name: before, type: parallel, tasks: [{{agent: any, action: a}}]}}
    - name: s
      type: parallel
      tasks:
        - {{agent: any, action: b}}
        - {{{task}, name: c, recovery: [{options}]}}
"""


def the_chain(plan: Plan) -> tuple[StrategySpec, ...]:
    """Of the task with one."""
    return plan.stages["s"].templates["main"].tasks[1].recovery or ()


def test_text_in_options_becomes_expressions(chains_of: PlanOf) -> None:
    plan = chains_of(
        chain(
            "{instead: {to: [{agent: any, inputs: {x: '${{ inputs.text }}', y: [1, 'a ${{ failure.code }}'], z: 2}}], "
            "only_if: failure.retryable, note: '${{ failure }}', as-is: {deep: '${{ run.id }}'}}}"
        )
    )
    (spec,) = the_chain(plan)
    options: dict[str, Any] = dict(spec.options)
    inputs = options["to"][0]["inputs"]
    assert inputs["x"] == Expression("inputs.text", inputs["x"].position, (), ("inputs",))
    assert isinstance(inputs["y"][1], Interpolation)
    assert (inputs["y"][0], inputs["z"]) == (1, 2)
    assert options["only_if"].text == "failure.retryable"
    assert options["note"].roots == ("failure",)
    assert options["as-is"]["deep"].text == "run.id"
    assert (options["code"], options["count"], options["first"]) == ("X", 1, None)
    assert InsteadOptions.model_validate(options).to[0].inputs == inputs


def test_options_without_expressions_are_plain_json(chains_of: PlanOf) -> None:
    (spec,) = the_chain(chains_of(chain("{instead: {to: [{agent: any}], code: '$${{ x }}'}}")))
    assert spec.options["to"] == [{"agent": "any", "action": None, "inputs": None}]


def test_what_a_chain_of_a_task_reads_is_a_dependency(chains_of: PlanOf) -> None:
    plan = chains_of(
        chain("{instead: [{inputs: {x: '${{ tasks.b.outputs.x }}', y: '${{ stages.before.a.outputs.y }}'}}]}")
    )
    c = plan.stages["s"].templates["main"].tasks[1]
    assert c.edges == (Edge(0, "data"),)
    assert c.depends_on == (Dependency("before", "a"),)


def test_an_item_of_a_loop_is_in_scope_of_its_tasks_chains(chains_of: PlanOf) -> None:
    plan = chains_of("""
workflow:
  name: w
  stages:
    - name: s
      type: loop
      for_each: [1]
      tasks: [{agent: any, action: a}, {agent: any, action: c, recovery: [{instead: [{inputs: {x: "${{ item }}"}}]}]}]
""")
    assert the_chain(plan)[0].options["to"][0]["inputs"]["x"].roots == ("item",)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (
            "{instead: [{inputs: {x: '${{ §failure.cod }}'}}]}",
            "UNKNOWN_NAME",
            "field of failure 'cod' is not known. Known: code, details, message, retryable.",
        ),
        (
            "{instead: [{inputs: {x: '${{ §secrets.KEY }}'}}]}",
            "SECRET_MISUSED",
            "secrets are in scope of a task's 'inputs' only",
        ),
        (
            "{instead: [{inputs: {x: '${{ §item }}'}}]}",
            "UNKNOWN_NAME",
            "In scope: failure, inputs, run, stages, tasks.",
        ),
        ("{instead: [{inputs: {x: '${{ inputs.text +§ }}'}}]}", "EXPRESSION_SYNTAX", "it ends too early"),
        ("{instead: {to: [{agent: any}], only_if: §1 + 1}}", "NOT_BOOLEAN", "gives a number"),
        (
            "{instead: {to: [{agent: any}], code: §'${{ inputs.text }}'}}",
            "WRONG_TYPE",
            "option 'code' of 'instead' cannot hold an expression",
        ),
        (
            "{instead: {to: [{agent: any}], count: §'${{ inputs.text }}'}}",
            "WRONG_TYPE",
            "option 'count' of 'instead' cannot hold an expression",
        ),
        (
            "{instead: {to: [{agent: any}], short: §'${{ inputs.text }}'}}",
            "WRONG_TYPE",
            "option 'short' of 'instead' cannot hold an expression",
        ),
        (
            "{instead: {to: [{agent: any}], texts: [a, §'${{ inputs.text }}']}}",
            "WRONG_TYPE",
            "option 'texts[1]' of 'instead' cannot hold an expression",
        ),
        (
            "{instead: [{agent: §'${{ inputs.text }}'}]}",
            "WRONG_TYPE",
            "option 'agent' of 'instead' cannot hold an expression",
        ),
        ("{instead: [{inputs: §'${{ inputs.text }}'}]}", "WRONG_TYPE", "'inputs': expected a mapping, got text"),
        ("{loud: §{text: '${{ inputs.text }}'}}", "WRONG_TYPE", "these options of 'loud' cannot hold an expression"),
        ("{instead: [{agent: §shpo}]}", "UNKNOWN_AGENT", "task 'c': agent 'shpo' is not known"),
        ("{instead: {to: [{agent: any}], first: {agent: §shpo}}}", "UNKNOWN_AGENT", "agent 'shpo' is not known"),
        (
            "{instead: [{agent: any}, {agent: shop, action: §sel}]}",
            "UNKNOWN_ACTION",
            "agent 'shop' has no action 'sel'",
        ),
        ("{instead: [§{agent: shop}]}", "UNKNOWN_ACTION", "agent 'shop' has no action 'go'"),
    ],
)
def test_is_refused_at_its_place(options: str, code: str, words: str, found_in: Callable[[str], list[Problem]]) -> None:
    marked = chain(options)
    line, column = next((n, text.index("§") + 1) for n, text in enumerate(marked.split("\n"), 1) if "§" in text)
    (problem,) = found_in(marked.replace("§", ""))
    assert (problem.code, problem.line, problem.column) == (code, line, column)
    assert words in problem.message


def test_what_an_alternative_does_not_name_is_that_of_the_task(
    chains_of: PlanOf, found_in: Callable[[str], list[Problem]]
) -> None:
    chains_of(chain("{instead: [{action: sell}]}", "agent: shop, action: buy"))
    (problem,) = found_in(chain("{instead: [{action: sel}]}", "agent: shop, action: buy"))
    assert problem.message.endswith("agent 'shop' has no action 'sel'. Known: buy, count, sell, sleep. "
                                    "Did you mean 'sell'?")  # fmt: skip
    (problem,) = found_in(chain("{instead: [{action: sell}]}", "agent: nobody, action: buy"))
    assert (problem.code, problem.path) == ("UNKNOWN_AGENT", "workflow.stages[1].tasks[1].agent")


def test_inputs_of_an_alternative_that_are_not_announced_are_a_warning(chains_of: PlanOf) -> None:
    warnings: list[Problem] = []
    chains_of(chain("{instead: [{agent: shop, action: sleep, inputs: {days: 1}}]}"), warnings=warnings)
    assert [(w.code, w.line) for w in warnings] == [("UNKNOWN_TASK_INPUT", 10)]


SHARED = """workflow:
  name: w
  inputs: {text: {}}
  %s
  stages:
    - {name: before, type: parallel, tasks: [{agent: any, action: a}]}
    - name: s
      type: loop
      for_each: [1]
      %s
      tasks: [{agent: any, action: go}]
"""
READS = (
    "recovery: [{instead: [{agent: shop, inputs: {a: '${{ inputs.text }}', b: '${{ run.id }} ${{ failure.code }}'}}]}]"
)


@pytest.mark.parametrize("where", [(READS, ""), (f"defaults: {{{READS}}}", ""), ("", READS)])
def test_a_chain_for_several_tasks_reads_inputs_run_and_failure(where: tuple[str, str], chains_of: PlanOf) -> None:
    plan = chains_of(SHARED % where)
    task = plan.stages["s"].templates["main"].tasks[0]
    found = task.recovery or plan.stages["s"].recovery or plan.recovery or ()
    assert found[0].options["to"][0]["inputs"]["a"].text == "inputs.text"
    assert task.depends_on == ()


@pytest.mark.parametrize("name", ["tasks.go.outputs", "stages.before.a.outputs", "item", "outputs"])
@pytest.mark.parametrize("place", ["defaults: {%s}|", "%s|", "|%s"])
def test_a_chain_for_several_tasks_reads_nothing_else(
    name: str, place: str, found_in: Callable[[str], list[Problem]]
) -> None:
    above, inside = place.split("|")
    text = f"recovery: [{{instead: [{{inputs: {{a: '${{{{ {name} }}}}'}}}}]}}]"
    (problem,) = found_in(SHARED % (above.replace("%s", text), inside.replace("%s", text)))
    assert problem.code == "UNKNOWN_NAME"
    assert "is not in scope here. In scope: failure, inputs, run." in problem.message
    assert problem.hint == (
        "A chain of the defaults, a stage or the workflow counts for several tasks: it can read inputs, run and "
        "failure. Give the task a 'recovery' of its own."
    )


def test_a_chain_of_the_defaults_is_checked_also_where_no_task_uses_it(refused: Refused) -> None:
    refused(
        "workflow:\n  name: w\n  defaults: {recovery: [§agian]}\n  stages:\n"
        "    - {name: s, type: parallel, tasks: [{agent: any, action: go, recovery: []}]}\n",
        ("UNKNOWN_RECOVERY", "recovery strategy 'agian' is not known. Known: again. Did you mean 'again'?"),
    )


def test_a_chain_of_a_compensation_sees_the_outputs_of_its_task(chains_of: PlanOf) -> None:
    undo = "compensate: {agent: any, action: undo, recovery: [{instead: [{inputs: {x: '${{ outputs.id }}'}}]}]}"
    plan = chains_of(chain("again", f"agent: any, action: go, {undo}"))
    compensate = plan.stages["s"].templates["main"].tasks[1].compensate
    assert compensate is not None
    assert (compensate.recovery or ())[0].options["to"][0]["inputs"]["x"].roots == ("outputs",)


def test_failure_is_in_scope_of_chains_only(refused: Refused) -> None:
    (problem,) = refused(
        "workflow:\n  name: w\n  stages:\n    - name: s\n      type: parallel\n"
        "      tasks: [{agent: any, action: go, inputs: {x: '${{ §failure.code }}'}}]\n",
        ("UNKNOWN_NAME", "name 'failure' is not in scope here"),
    )
    assert problem.hint == "It exists in the options of a 'recovery' list."


def test_the_built_in_strategies_take_their_expressions(plan_with: Callable[..., PlanOf]) -> None:
    strategies = {strategy.name: strategy for strategy in BUILTIN_RECOVERY_STRATEGIES}
    compiled = plan_with(*strategies.values())
    text = """
workflow:
  name: w
  inputs: {city: {}}
  on_failure: rollback
  recovery: [{fail: {message: "no ${{ inputs.city }}: ${{ failure.message }}"}}]
  stages:
    - name: s
      type: parallel
      tasks:
        - agent: python
          action: data_preprocessing
          compensate: {agent: python, action: data_preprocessing}
          recovery:
            - retry: {max_attempts: 2}
            - fallback:
                - {agent: rust, inputs: {why: "${{ failure.code }}"}}
                - {inputs: "${{ inputs.city }}"}
            - degrade: {outputs: {city: "${{ inputs.city }}"}}
            - ask: {question: "Go on without ${{ inputs.city }}?"}
"""
    plan = compiled(text)
    task = plan.stages["s"].templates["main"].tasks[0]
    for spec in (*(task.recovery or ()), *(plan.recovery or ())):
        strategies[spec.name].options.model_validate(dict(spec.options))
    with pytest.raises(DefinitionError, match=r"agent 'rsut' is not known.*Did you mean 'rust'\?"):
        compiled(text.replace("rust", "rsut"))


def test_the_schema_has_the_keys_of_the_language(registry: Registry) -> None:
    definitions = json_schema(registry)["$defs"]
    assert set(definitions["CompensateModel"]["properties"]) == {
        "agent", "action", "inputs", "after", "timeout", "recovery", "resources",
    }  # fmt: skip
    assert set(definitions["CacheModel"]["properties"]) == {"key", "ttl"}
    assert set(definitions["SharedTimeoutsModel"]["properties"]) == {"total", "execution", "heartbeat", "queue"}
