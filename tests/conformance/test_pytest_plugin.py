"""`noa.testing.pytest_plugin`: three lines make each case a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

THREE_LINES = """pytest_plugins = ["noa.testing.pytest_plugin"]
conformance_command = {command!r}
def test_agent_keeps_the_contract(conformance_case): conformance_case()
"""
ECHO = [sys.executable, "-m", "noa.sdk", "noa.sdk.echo:EchoAgent"]


def run(folder: Path, command: object, only: list[str]) -> subprocess.CompletedProcess[str]:
    file = folder / "test_my_agent.py"
    file.write_text(THREE_LINES.format(command=command) + f"conformance_only = {only!r}\n")
    words = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", "--rootdir", str(folder), str(file)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=100, cwd=folder)


def test_each_case_is_a_test_and_what_does_not_apply_is_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, ECHO, ["health.manifest", "execute.capacity", "cancel.running"])
    assert done.returncode == 0, done.stdout
    assert "test_agent_keeps_the_contract[agent-health.manifest] PASSED" in done.stdout
    assert "test_agent_keeps_the_contract[agent-cancel.running] PASSED" in done.stdout
    assert "the agent announces no capacity" in done.stdout
    assert "2 passed, 1 skipped" in done.stdout


def test_a_failed_case_is_a_failed_test_with_what_to_change(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('no luck')"]
    done = run(tmp_path, {"good": ECHO, "broken": broken}, ["launch.unix"])
    assert done.returncode == 1, done.stdout
    assert "test_agent_keeps_the_contract[good-launch.unix] PASSED" in done.stdout
    assert "test_agent_keeps_the_contract[broken-launch.unix] FAILED" in done.stdout
    assert "| no luck" in done.stdout
    assert "to change: Bind the path" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_module_without_a_command_is_told_what_to_write(tmp_path: Path) -> None:
    done = run(tmp_path, None, [])
    assert done.returncode in {2, 4}, done.stdout
    assert "conformance_command = " in done.stdout + done.stderr
