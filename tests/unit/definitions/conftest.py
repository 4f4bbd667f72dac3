"""A registry with the built-in stage types, a few agents, and helpers that compare problems with marks in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from noa.definitions import parse_plan
from noa.errors import DefinitionError, Problem
from noa.model.events import Decision
from noa.model.failure import Failure
from noa.model.plan import Plan
from noa.plugin import (
    ActionInfo,
    AgentConnection,
    AgentContext,
    AgentDeclaration,
    AgentHealth,
    AgentKind,
    Attempted,
    RecoveryStrategy,
    Registry,
    hookimpl,
)
from noa.stages import BUILTIN_STAGE_TYPES

MARK = "§"


class KnownKind(AgentKind):
    """Agents whose manifest stands in the declaration's options."""

    name = "known"

    def check(self, declaration: AgentDeclaration) -> str | None:
        wrong: str | None = declaration.options.get("wrong")
        return wrong

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        raise NotImplementedError

    def describe(self, declaration: AgentDeclaration) -> AgentHealth | None:
        actions = declaration.options.get("actions")
        return AgentHealth("serving", declaration.name, actions=tuple(actions)) if actions else None


class CommandKind(KnownKind):
    """Stands for sidecars: a command is found where it begins with a slash."""

    name = "sidecar"

    def check(self, declaration: AgentDeclaration) -> str | None:
        command = declaration.command[0]
        return None if command.startswith("/") else f"command '{command}' is not found in PATH"


class RemoteKind(KnownKind):
    """Stands for agents at addresses."""

    name = "remote"


class AgainOptions(BaseModel):
    """Options of `again`."""

    model_config = ConfigDict(extra="forbid")

    attempts: int = Field(3, ge=1)
    on: list[str] | None = None


class Again(RecoveryStrategy):
    """A strategy with options."""

    name = "again"
    options = AgainOptions

    def recover(self, failure: Failure, past: Attempted, options: Any) -> Decision | None:
        return None


def fields(*names: str) -> dict[str, Any]:
    """A JSON Schema of an object with these fields."""
    return {"type": "object", "properties": {name: {} for name in names}}


AGENTS = (
    AgentDeclaration("any", "known"),
    AgentDeclaration(
        "shop",
        "known",
        options={
            "actions": [
                ActionInfo("buy", output_schema=fields("total", "receipt")),
                ActionInfo("sell", output_schema=fields("total")),
                ActionInfo("count", input_schema=fields("total"), output_schema=fields("sum")),
                ActionInfo("sleep", input_schema=fields("hours")),
            ]
        },
    ),
    AgentDeclaration("broken", "known", options={"wrong": "its program is gone"}),
    AgentDeclaration("odd", "telepathy"),
    *(AgentDeclaration(n, "known") for n in ("python", "rust", "go", "ai_model", "worker", "storage", "notification")),
)


class TestPlugin:
    """What the tests' registry knows."""

    @hookimpl
    def noa_stage_types(self) -> Sequence[Any]:
        return BUILTIN_STAGE_TYPES

    @hookimpl
    def noa_agent_kinds(self) -> Sequence[Any]:
        return [KnownKind, CommandKind, RemoteKind]

    @hookimpl
    def noa_recovery_strategies(self) -> Sequence[Any]:
        return [Again]

    @hookimpl
    def noa_agents(self) -> Sequence[AgentDeclaration]:
        return AGENTS


class Strategies:
    """A plugin with these strategies."""

    def __init__(self, strategies: Sequence[Any]) -> None:
        self.strategies = strategies

    @hookimpl
    def noa_recovery_strategies(self) -> Sequence[Any]:
        return self.strategies


@pytest.fixture(scope="session")
def registry() -> Registry:
    made = Registry()
    made.register(TestPlugin(), "tests")
    return made


@pytest.fixture(scope="session")
def plan_of(registry: Registry) -> Callable[..., Plan]:
    """Compile the text of a definition named t.yaml."""

    def compile_text(text: str, **options: Any) -> Plan:
        return parse_plan(text, "t.yaml", registry=registry, **options)

    return compile_text


@pytest.fixture(scope="session")
def plan_with() -> Callable[..., Callable[..., Plan]]:
    """Make a `plan_of` that knows the recovery strategies that it is given beside those of all tests."""

    def compiler(*strategies: Any) -> Callable[..., Plan]:
        made = Registry()
        made.register(TestPlugin(), "tests")
        made.register(Strategies(strategies), "more")
        return lambda text, **options: parse_plan(text, "t.yaml", registry=made, **options)

    return compiler


@pytest.fixture(scope="session")
def problems_of(plan_of: Callable[..., Plan]) -> Callable[..., list[Problem]]:
    """The problems of a text; it must have some."""

    def find(text: str, **options: Any) -> list[Problem]:
        with pytest.raises(DefinitionError) as caught:
            plan_of(text, **options)
        return caught.value.problems

    return find


@pytest.fixture(scope="session")
def refused(problems_of: Callable[..., list[Problem]]) -> Callable[..., list[Problem]]:
    """Check that the problems of a text stand exactly at its marks, with these codes and words in order.

    `expected` holds pairs of a code and a piece of the message; each mark in the text is the place of one of them.
    """

    def check(marked: str, *expected: tuple[str, str], **options: Any) -> list[Problem]:
        places, text = unmarked(marked)
        found = problems_of(text, **options)
        assert [(p.code, (p.line, p.column)) for p in found] == [
            (code, place) for (code, _), place in zip(expected, places, strict=True)
        ], "\n".join(f"{p.code} {p}" for p in found)
        for problem, (_, words) in zip(found, expected, strict=True):
            assert words in problem.message
            assert problem.file == "t.yaml"
            assert problem.source == text.split("\n")[problem.line - 1]
        return found

    return check


def unmarked(marked: str) -> tuple[list[tuple[int, int]], str]:
    """Line and column of each mark, and the text without them."""
    places = []
    for number, line in enumerate(marked.split("\n"), 1):
        for index, found in enumerate(re.finditer(MARK, line)):
            places.append((number, found.start() + 1 - index))
    return places, marked.replace(MARK, "")
