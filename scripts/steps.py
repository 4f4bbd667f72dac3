"""Runs groups of checks and tests to the end, whatever fails; then says what failed and repeats each runner's result.

    python scripts/steps.py check rust go python

Exit status 0 where every step passed, else 1. `make test` puts the tools on the PATH.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Step:
    """A program that exits with 0 where all is well.

    Attributes:
        closing: Regular expression of the lines in which the program says how it went; they are repeated at the end.
    """

    name: str
    command: tuple[str, ...]
    folder: str = "."
    closing: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """How a step went."""

    step: Step
    status: int
    duration_s: float
    closing: tuple[str, ...]


GROUPS: dict[str, tuple[Step, ...]] = {
    "check": (
        Step("ruff check", ("ruff", "check", ".")),
        Step("ruff format", ("ruff", "format", "--check", ".")),
        Step("mypy", ("mypy",)),
        Step("layers", ("lint-imports",)),
        Step("protos", (sys.executable, "scripts/check_protos.py")),
        Step("generated code", (sys.executable, "scripts/generate.py", "--check")),
        Step("tracked files", (sys.executable, "scripts/check_tracked.py")),
    ),
    "rust": (
        Step("cargo fmt", ("cargo", "fmt", "--check"), "agents/rust"),
        Step(
            "cargo clippy",
            ("cargo", "clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"),
            "agents/rust",
        ),
        Step("cargo test", ("cargo", "test", "--locked", "--quiet"), "agents/rust", r"test result:"),
    ),
    "go": (
        Step("gofmt", (sys.executable, "../../scripts/check_gofmt.py"), "agents/go"),
        Step("go vet", ("go", "vet", "./..."), "agents/go"),
        Step("go test", ("go", "test", "-race", "./..."), "agents/go", r"(ok|FAIL)\s"),
    ),
    "python": (
        Step("pytest", (sys.executable, "-m", "pytest", "-q"), ".", r".*\b\d+ (passed|failed|errors?)\b.* in [\d.]+s"),
    ),
}


def run(step: Step) -> Result:
    """Run a step with its output passed on line by line, and keep the lines in which it says how it went."""
    print(f"» {step.name}: {' '.join(_shown(part) for part in step.command)}", flush=True)
    begun = time.monotonic()
    closing: list[str] = []
    try:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT / step.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        print(f"{step.command[0]} is not on the PATH; `make setup-dev` installs what is missing", flush=True)
        return Result(step, 127, 0.0, ())
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        if step.closing and re.match(step.closing, line):
            closing.append(line.rstrip("\n"))
    return Result(step, process.wait(), time.monotonic() - begun, tuple(closing))


def summarise(results: list[Result]) -> None:
    """Print one line for each step, then the runners' own closing lines."""
    print("\nsteps")
    for result in results:
        verdict = "passed" if result.status == 0 else f"FAILED (exit status {result.status})"
        print(f"  {result.step.name:<16}{result.duration_s:>8.1f} s  {verdict}")
    failed = [result.step.name for result in results if result.status]
    print(f"failed: {', '.join(failed)}\n" if failed else "all passed\n")
    for result in results:
        for line in result.closing:
            print(line)


def main(groups: list[str]) -> int:
    """Run the named groups in order; the exit status."""
    unknown = [name for name in groups if name not in GROUPS]
    if unknown or not groups:
        print(f"usage: steps.py GROUP...   groups: {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    results = [run(step) for name in groups for step in GROUPS[name]]
    summarise(results)
    return int(any(result.status for result in results))


def _shown(part: str) -> str:
    return "python" if part == sys.executable else part


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
