"""Every agent that is shipped passes every case of the conformance program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import pytest

from noa.errors import UsageError
from noa.testing.conformance import Target
from noa.testing.pytest_plugin import ConformanceCase

pytest_plugins = ["noa.testing.pytest_plugin"]

SHIPPED = {
    "rust": ["noa-rust-agent"],
    "rust-worker": ["noa-rust-worker"],
    "go": ["noa-go-agent"],
    "go-worker": ["noa-go-worker"],
    "python": [sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"],
    "model-server": [sys.executable, "-m", "noa_model_server"],
    "onnx": [sys.executable, "-m", "noa_model_server", "onnx"],
}
# An agent serves at once or loads first, and announces a capacity or none; all else applies to every one of them.
MAY_NOT_APPLY = {"health.loading", "execute.capacity", "execute.overloaded-again"}


def is_there(command: Sequence[str]) -> bool:
    """Whether an agent is built or installed."""
    if command[0] == sys.executable:
        return find_spec(command[2]) is not None
    try:
        Target(command=command).resolved()
    except UsageError:
        return False
    return True


conformance_command = {name: command for name, command in SHIPPED.items() if is_there(command)}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_agent_is_built_and_installed(name: str) -> None:
    if name not in conformance_command:
        pytest.skip(f"{' '.join(SHIPPED[name])} is not built or not installed")


def test_shipped_agent_keeps_the_contract(conformance_case: ConformanceCase) -> None:
    try:
        conformance_case()
    except pytest.skip.Exception as skipped:
        if conformance_case.case.id in MAY_NOT_APPLY:
            raise
        pytest.fail(f"skipped: {skipped.msg}")
