"""Inputs of a run against their declarations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from noa.definitions import check_inputs
from noa.errors import InputError
from noa.model.plan import Plan

TEXT = """
workflow:
  name: w
  inputs:
    path: {type: string, description: folder to read}
    max_files: {type: integer, minimum: 1, default: 1000}
    tags: {type: array, items: {type: string}, default: []}
  stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]
"""


@pytest.fixture(scope="module")
def plan(plan_of: Callable[..., Plan]) -> Plan:
    return plan_of(TEXT)


def test_defaults_are_filled_in(plan: Plan) -> None:
    assert check_inputs(plan, {"path": "/x"}) == {"path": "/x", "max_files": 1000, "tags": []}
    assert check_inputs(plan, {"path": "/x", "max_files": 3})["max_files"] == 3


def test_everything_wrong_is_named_at_once(plan: Plan) -> None:
    with pytest.raises(InputError) as caught:
        check_inputs(plan, {"max_file": 3, "max_files": "many", "tags": ["a", 1]})
    assert caught.value.reasons == [
        "input 'max_file' is not known. Known: max_files, path, tags. Did you mean 'max_files'?",
        "input 'path' is missing (type string; folder to read)",
        "input 'max_files': 'many' is not of type 'integer'",
        "input 'tags': [1]: 1 is not of type 'string'",
    ]


def test_a_workflow_without_declarations_takes_any_input(plan_of: Callable[..., Plan]) -> None:
    open_plan = plan_of("workflow: {name: w, stages: [{name: s, type: parallel, tasks: [{agent: any, action: go}]}]}")
    assert open_plan.open_inputs
    assert check_inputs(open_plan, {"anything": [1]}) == {"anything": [1]}


def test_a_default_of_null_makes_an_input_optional(plan_of: Callable[..., Plan]) -> None:
    made = plan_of(TEXT.replace("{type: string, description: folder to read}", "{default: null}"))
    assert check_inputs(made, {})["path"] is None
