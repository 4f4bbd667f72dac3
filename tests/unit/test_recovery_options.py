"""Options of the built-in strategies: kept as JSON and read again, taken with expressions, refused with words."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.unit.test_recovery_chain import PROPERTY, RETRY, STRATEGIES, failed, past

import noa.builtins
import noa.recovery
from noa.definitions import json_schema, load_plan
from noa.errors import DefinitionError
from noa.model.events import ANSWERS, Complete, Fail, Hold, Rollback, Skip, Substitute, decode_event, encode_event
from noa.model.events import RecoveryChosen as Chosen
from noa.model.ids import TaskPath
from noa.model.plan import Expression, Interpolation
from noa.plugin import AgentDeclaration, Registry, hookimpl
from noa.recovery import BUILTIN_RECOVERY_STRATEGIES, Alternative
from noa.recovery.ask import Answer
from noa.sdk import Agent, action

CODES = st.lists(st.sampled_from(["LOST", "BROKEN", "HTTP_503"]), min_size=1)
FILTER = {"on": CODES | st.just(["*"]), "not_on": CODES}
DURATION = st.one_of(
    st.integers(1, 10**6),
    st.floats(0.001, 10**6),
    st.sampled_from(["1ms", "250ms", "30s", "1.5m", "2 min", "2h", "1d", "3650d"]),
)
TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MAPPING = st.dictionaries(TEXT, JSON, max_size=3) | st.just("${{ inputs.all }}")
ALTERNATIVE = st.fixed_dictionaries(
    {"agent": st.sampled_from(["a", "b"])}, optional={"action": st.just("go"), "inputs": MAPPING, "retry": RETRY}
)
UNATTENDED = st.sampled_from(["retry", "skip", "rollback"])

OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "retry": RETRY.flatmap(lambda own: st.fixed_dictionaries({k: st.just(v) for k, v in own.items()}, optional=FILTER)),
    "fallback": st.lists(ALTERNATIVE, min_size=1, max_size=3)
    | st.fixed_dictionaries({"to": st.lists(ALTERNATIVE, min_size=1, max_size=3)}, optional=FILTER),
    "degrade": st.fixed_dictionaries({"outputs": MAPPING}, optional=FILTER | {"last_good": st.booleans()})
    | st.fixed_dictionaries({"last_good": st.just(True)}, optional=FILTER | {"outputs": MAPPING}),
    "skip": st.fixed_dictionaries({}, optional=FILTER),
    "fail": st.fixed_dictionaries({}, optional=FILTER | {"code": st.just("NO_STOCK"), "message": TEXT}),
    "rollback": st.fixed_dictionaries({}, optional=FILTER),
    "ask": st.fixed_dictionaries({}, optional=FILTER | {"question": TEXT, "timeout": DURATION})
    | st.fixed_dictionaries(
        {"timeout": DURATION, "on_timeout": UNATTENDED, "choices": st.just(["skip", "retry", "rollback"])}
    ),
    "circuit_breaker": st.fixed_dictionaries(
        {},
        optional=FILTER
        | {
            "failures": st.integers(1, 1_000),
            "window": DURATION,
            "rate": st.floats(0.01, 1),
            "open_for": DURATION,
            "half_open": st.integers(1, 10),
        },
    ),
    "hedge": st.fixed_dictionaries(
        {},
        optional={
            "percentile": st.floats(0.01, 100),
            "min_samples": st.integers(1, 200),
            "delay": DURATION,
            "max_hedges": st.integers(1, 100),
        },
    ),
}
ENTRIES = st.one_of([st.tuples(st.just(name), options) for name, options in OPTIONS.items()])


class Stock(Agent):
    name = "stock"

    @action(idempotent=True)
    def reserve(self) -> dict[str, int]:
        return {"left": 0}


class StockPlugin:
    @hookimpl
    def noa_agents(self) -> list[AgentDeclaration]:
        return [AgentDeclaration(name=name, factory=Stock) for name in ("stock", "other")]


@pytest.fixture(scope="module")
def registry() -> Registry:
    made = Registry()
    made.register(noa.builtins, "builtins")
    made.register(StockPlugin(), "stock")
    return made


def definition(*recovery: Any) -> dict[str, Any]:
    task = {"agent": "stock", "action": "reserve", "recovery": list(recovery)}
    return {"workflow": {"name": "w", "stages": [{"name": "s", "type": "parallel", "tasks": [task]}]}}


def valid(name: str, options: Any) -> Any:
    return STRATEGIES[name].options.model_validate(options)


@PROPERTY
@given(ENTRIES)
def test_options_that_are_kept_as_json_are_read_again_as_the_same(entry: tuple[str, Any]) -> None:
    name, options = entry
    model = valid(name, options)
    kept = json.loads(json.dumps(model.model_dump(mode="json", by_alias=True)))
    assert valid(name, kept) == model
    assert valid(name, kept).model_dump(mode="json", by_alias=True) == kept


@PROPERTY
@given(ENTRIES, st.integers(0, 3), st.floats(0, 1))
def test_every_answer_can_be_recorded(entry: tuple[str, Any], chosen: int, jitter: float) -> None:
    name, options = entry
    decision = STRATEGIES[name].recover(failed("LOST"), past(chosen=chosen, jitter=jitter), valid(name, options))
    if decision is not None and not _has_expression(decision):
        event = Chosen(at_ms=1, task=TaskPath("s/t"), attempt=1, strategy=f"0:{name}", decision=decision)
        assert decode_event(encode_event(event)) == event


def _has_expression(decision: Any) -> bool:
    return any(isinstance(getattr(decision, key, None), str) for key in ("outputs", "inputs"))


@PROPERTY
@given(ENTRIES)
def test_a_failure_that_is_not_taken_is_left_to_the_next_strategy(entry: tuple[str, Any]) -> None:
    name, options = entry
    model = valid(name, options)
    if "on" in type(model).model_fields:
        only = model.model_copy(update={"on": ["LOST"], "not_on": []})
        never = model.model_copy(update={"on": None, "not_on": ["LOST"]})
        assert STRATEGIES[name].recover(failed("BROKEN"), past(), only) is None
        assert STRATEGIES[name].recover(failed("LOST"), past(), never) is None


EVERY_MODEL = [Alternative, *(strategy.options for strategy in BUILTIN_RECOVERY_STRATEGIES)]


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_every_option_is_described_and_no_other_is_taken(model: type[BaseModel]) -> None:
    assert [name for name, info in model.model_fields.items() if not info.description] == []
    assert model.model_config["extra"] == "forbid"


PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"


@pytest.mark.parametrize("name", STRATEGIES)
def test_page_has_every_option_in_the_tables_of_its_strategy(name: str) -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {name}\n")
    rows = [line.split("|")[1] for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    models = [STRATEGIES[name].options, *([Alternative] if name == "fallback" else [])]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {field for model in models for field in model.model_fields}


def test_schema_takes_both_forms_of_fallback_and_knows_every_option(registry: Registry) -> None:
    schema = json_schema(registry)
    check = jsonschema.Draft202012Validator(schema)
    good = [
        "retry",
        {"retry": {"backoff": "decorrelated", "max_elapsed": "5m", "on": ["LOST"]}},
        {"fallback": [{"agent": "other", "retry": {"max_attempts": 2}}]},
        {"fallback": {"to": [{"inputs": {"n": 1}}], "not_on": ["LOST"]}},
        {"degrade": {"outputs": "${{ inputs.known }}"}},
        {"ask": {"choices": ["retry", "skip"], "timeout": "1h", "on_timeout": "skip"}},
        {"circuit_breaker": {"window": 60, "rate": 0.5}},
        {"hedge": {"delay": "2s"}},
    ]
    assert list(check.iter_errors(definition(*good))) == []
    load_plan(definition(*good), registry=registry)
    for bad in ({"fallback": [{"agnet": "x"}]}, {"fallback": {"too": []}}, {"retry": {"backoff": "expo"}}):
        assert list(check.iter_errors(definition(bad))), bad


TEXT_EXPRESSION = Interpolation(("it failed with ", Expression("failure.code", roots=("failure",))))
MAPPING_EXPRESSION = Expression("inputs.all", roots=("inputs",))
LEAF = {"score": Expression("failure.details.score", roots=("failure",))}


@pytest.mark.parametrize(
    ("name", "options", "decision"),
    [
        ("fallback", {"to": [{"inputs": LEAF}]}, Substitute(inputs=LEAF)),
        ("fallback", {"to": [{"inputs": MAPPING_EXPRESSION}]}, Substitute(inputs=MAPPING_EXPRESSION)),
        ("degrade", {"outputs": LEAF}, Complete(LEAF, degraded=True)),
        ("degrade", {"outputs": MAPPING_EXPRESSION}, Complete(MAPPING_EXPRESSION, degraded=True)),
        ("fail", {"message": TEXT_EXPRESSION, "code": "NO_STOCK"}, Fail("NO_STOCK", TEXT_EXPRESSION)),
        ("ask", {"question": TEXT_EXPRESSION}, Hold(TEXT_EXPRESSION, list(ANSWERS))),
    ],
)
def test_compiled_expressions_reach_the_decision_unchanged(name: str, options: Any, decision: Any) -> None:
    assert STRATEGIES[name].recover(failed(), past(), valid(name, options)) == decision


def test_short_answers() -> None:
    def answer(name: str, options: Any = None) -> Any:
        return STRATEGIES[name].recover(failed(), past(), valid(name, options or {}))

    assert (answer("skip"), answer("rollback"), answer("fail")) == (Skip(), Rollback(), Fail())
    assert answer("ask") == Hold(choices=list(ANSWERS))
    assert answer("ask", {"choices": ["skip", "retry"], "timeout": "90s", "on_timeout": "skip"}) == Hold(
        choices=["skip", "retry"], timeout_ms=90_000, on_timeout="skip"
    )


def test_choices_are_the_answers_that_an_engine_takes() -> None:
    assert get_args(Answer) == ANSWERS == tuple(valid("ask", {}).choices)


def test_every_strategy_is_among_those_whose_options_are_tried() -> None:
    assert set(OPTIONS) == set(STRATEGIES)


def test_only_what_may_recall_says_so() -> None:
    assert STRATEGIES["degrade"].recalls(valid("degrade", {"last_good": True}))
    assert not STRATEGIES["degrade"].recalls(valid("degrade", {"outputs": {}}))


WRONG: list[tuple[Any, str]] = [
    ({"retry": {"backof": "linear"}}, "unknown key 'backof'. Known: backoff,"),
    ({"retry": {"backof": "linear"}}, "Did you mean 'backoff'?"),
    (
        {"retry": {"backoff": "expo"}},
        "'backoff': expected one of constant, linear, exponential, decorrelated, got",
    ),
    ({"retry": {"max_attempts": "3"}}, "'max_attempts': expected a whole number, got text (\"3\")"),
    ({"retry": {"max_elapsed": "soon"}}, "'max_elapsed': expected a duration such as '500ms', '30s'"),
    ({"retry": {"on": ["agent-lost"]}}, "'on': expected a failure code such as 'AGENT_LOST', got 'agent-lost'"),
    ({"retry": {"on": []}}, "'on': expected at least one, got none"),
    ("fallback", "expected alternatives such as [{agent: other}], got nothing"),
    ({"fallback": "other"}, "'fallback': expected alternatives such as [{agent: other}], got text (\"other\")"),
    ({"fallback": []}, "'fallback': expected at least one, got none"),
    ({"fallback": [{}]}, "an alternative needs at least one of 'agent', 'action' and 'inputs'"),
    ({"fallback": [{"agnet": "other"}]}, "unknown key 'agnet'. Known: action, agent, inputs, retry."),
    ({"fallback": [{"agent": "other", "retry": {"tries": 1}}]}, "unknown key 'tries'. Known: backoff, delay_s,"),
    ({"fallback": {"too": [{"agent": "other"}]}}, "unknown key 'too'. Known: not_on, on, to. Did you mean 'to'?"),
    ({"fallback": [{"inputs": 3}]}, "'inputs': expected a mapping, or one expression ${{ … }} that gives one, got a"),
    ("degrade", "give 'outputs', such as {score: 0}, or 'last_good: true'"),
    ({"degrade": {"outputs": 3}}, "'outputs': expected a mapping, or one expression ${{ … }} that gives one, got a"),
    ({"skip": {"of": ["LOST"]}}, "unknown key 'of'. Known: not_on, on."),
    ({"fail": {"code": "no stock"}}, "'code': expected a failure code such as 'AGENT_LOST', got 'no stock'"),
    ({"fail": {"code": "*"}}, "'code': expected a failure code such as 'AGENT_LOST', got '*'"),
    ({"skip": {"not_on": ["*"]}}, "'not_on': expected a failure code such as 'AGENT_LOST', got '*'"),
    ({"fail": {"message": 3}}, "'message': expected text, got a number (3)"),
    ({"ask": {"choices": ["shrug"]}}, "'choices': expected one of retry, skip, override, fail, rollback, got text"),
    ({"ask": {"choices": ["skip", "skip"]}}, "'choices': 'skip' stands there more than once"),
    ({"ask": {"on_timeout": "skip"}}, "'on_timeout' needs a 'timeout', such as '24h'"),
    ({"ask": {"timeout": "1h", "on_timeout": "override"}}, "'on_timeout': expected one of retry, skip, fail, rollback"),
    (
        {"ask": {"timeout": "1h", "choices": ["retry", "skip"]}},
        "'on_timeout' must be one of the 'choices' (retry, skip), got none, which means 'fail'",
    ),
    (
        {"ask": {"timeout": "1h", "choices": ["retry"], "on_timeout": "skip"}},
        "'on_timeout' must be one of the 'choices' (retry), got 'skip'",
    ),
    (
        {"ask": {"timeout": "1h", "choices": ["override"]}},
        "'choices' need one that counts on 'timeout'",
    ),
    ({"circuit_breaker": {"rate": 1.5}}, "'rate': expected a value less than or equal to 1, got a number (1.5)"),
    ({"circuit_breaker": {"open": "30s"}}, "unknown key 'open'."),
    ({"hedge": {"on": ["LOST"]}}, "unknown key 'on'. Known: delay, max_hedges, min_samples, percentile."),
]


@pytest.mark.parametrize(("entry", "words"), WRONG, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_wrong_options_are_told_with_their_stage_and_task(registry: Registry, entry: Any, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_plan(definition(entry), registry=registry)
    messages = [problem.message for problem in caught.value.problems]
    assert any(words in message for message in messages), messages
    assert all(message.startswith("stage 's': task 'reserve': ") for message in messages)


@pytest.mark.parametrize("path", sorted(Path(noa.recovery.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_strategies_use_no_clock_no_chance_and_no_network(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    pure = {"__future__", "collections", "dataclasses", "math", "noa", "pydantic", "pydantic_core", "re", "typing"}
    assert {name.partition(".")[0] for name in names} <= pure
