"""A pytest plugin that makes each case of the conformance program a test. A whole test file:

    pytest_plugins = ["noa.testing.pytest_plugin"]
    conformance_command = "./my-agent --flag"

    def test_agent_keeps_the_contract(conformance_case): conformance_case()

`conformance_command` is a line, a list of words or a `noa.testing.conformance.Target`; or a dict of these by name, each
of which then has its own tests. `conformance_only` may name cases by patterns such as ["cancel.*"]. A case that does
not apply is a skipped test. The agent is launched once and used again, as by `noa agent check`.

PYTEST_DONT_REWRITE: nothing is asserted here, and a test may import `ConformanceCase` without a warning.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from noa.errors import NoaError
from noa.testing.conformance import Case, Checker, Target, line_of, select_cases

__all__ = ["ConformanceCase", "conformance_case", "pytest_generate_tests"]

_COMMAND = "conformance_command"


@dataclass(frozen=True, slots=True)
class ConformanceCase:
    """A case on an agent; call it to run it.

    Attributes:
        case: The case.
        run: Runs it; skips or fails the test.
    """

    case: Case
    run: Callable[[Case], None]

    def __call__(self) -> None:
        """Run the case: returns where the agent passes, skips where it does not apply, fails the test else."""
        __tracebackhide__ = True
        self.run(self.case)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that takes `conformance_case` all cases on all agents of its module."""
    if "conformance_case" not in metafunc.fixturenames:
        return
    try:
        targets = _targets(getattr(metafunc.module, _COMMAND, None))
        cases = select_cases(getattr(metafunc.module, "conformance_only", ()))
    except NoaError as error:
        raise pytest.UsageError(f"{metafunc.module.__name__}: {error.message}") from error
    metafunc.parametrize("_conformance_target", targets.values(), ids=list(targets), indirect=True, scope="module")
    metafunc.parametrize("_conformance_case", cases, ids=[case.id for case in cases])


@pytest.fixture(scope="module")
def _conformance_target(request: pytest.FixtureRequest) -> Iterator[Callable[[Case], None]]:
    """Runs cases on one agent, whose processes live as long as the cases of the module need them."""
    with asyncio.Runner() as runner:
        checker = Checker(request.param)
        try:
            yield lambda case: _judge(runner, checker, case)
        finally:
            runner.run(checker.close())


@pytest.fixture
def conformance_case(_conformance_target: Callable[[Case], None], _conformance_case: Case) -> ConformanceCase:
    """A case of the conformance program on the module's `conformance_command`."""
    return ConformanceCase(_conformance_case, _conformance_target)


def _judge(runner: asyncio.Runner, checker: Checker, case: Case) -> None:
    __tracebackhide__ = True
    result = runner.run(checker.run(case))
    if result.status == "skipped":
        pytest.skip(result.message)
    if result.status == "failed":
        pytest.fail(line_of(result), pytrace=False)


def _targets(given: Any) -> dict[str, Target]:
    if given is None:
        raise pytest.UsageError(
            f'a test takes conformance_case, but its module has no {_COMMAND}: write {_COMMAND} = "./my-agent"'
        )
    if isinstance(given, Mapping):
        return {name: _target(one) for name, one in given.items()}
    return {"agent": _target(given)}


def _target(given: Any) -> Target:
    return given if isinstance(given, Target) else Target(command=given)
