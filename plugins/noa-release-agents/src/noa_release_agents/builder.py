"""The agent `builder`: reads a package, builds its wheel with the backend that it names, and tests that wheel."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action
from noa_release_agents import __version__
from noa_release_agents.junit import TestReport, read_report
from noa_release_agents.programs import clean_environment, run_program
from noa_release_agents.project import read_project
from noa_release_agents.wheel import unpack_wheel

__all__ = ["BuilderAgent"]

_BUILD = """
import importlib, sys
backend, _, attribute = sys.argv[1].partition(":")
found = importlib.import_module(backend)
for name in attribute.split(".") if attribute else []:
    found = getattr(found, name)
print("built", found.build_wheel(sys.argv[2]))
"""
"""Asks a build backend for a wheel (PEP 517). It is the one that is installed: nothing is downloaded."""

_NO_TESTS = 5  # exit status of pytest
_SHOWN = 20

Folder = Annotated[str, Field(min_length=1, description="Folder of the package.")]


class Surveyed(TypedDict):
    """Outputs of survey."""

    package: Annotated[str, Field(description="Folder of the package, absolute.")]
    name: str
    version: str


class Checked(TypedDict):
    """Outputs of check."""

    modules: Annotated[int, Field(description="Python files that compile.")]
    tests: Annotated[str, Field(description="Folder of its tests, absolute.")]
    plugins: Annotated[list[str], Field(description="Names of its entry points.")]


class Built(TypedDict):
    """Outputs of build."""

    wheel: Artifact
    file: Annotated[str, Field(description="Name of the wheel.")]
    sha256: str
    size_bytes: int
    release: Annotated[str, Field(description="Its name in a target folder: the version and eight digits of sha256.")]
    seconds: float


class Tested(TypedDict):
    """Outputs of test."""

    tests: int
    skipped: int
    seconds: float
    report: Annotated[str, Field(description="The JUnit report, as a file URI.")]


class BuilderAgent(Agent):
    """Builds and tests."""

    name = "builder"
    version = __version__

    @action(idempotent=True)
    def survey(self, ctx: Context, package: Folder) -> Surveyed:
        """Say what a package calls itself."""
        project = read_project(package)
        ctx.info(f"{project.name} {project.version} in {project.root}")
        return {"package": str(project.root), "name": project.name, "version": project.version}

    @action(idempotent=True)
    def check(
        self,
        ctx: Context,
        package: Folder,
        tests: Annotated[str, Field(description="Folder of its tests; `tests` in the package where empty.")] = "",
    ) -> Checked:
        """Find out before anything is built whether it can be: the backend, the sources, the tests."""
        project = read_project(package)
        for tool in (re.split("[.:]", project.backend)[0], "pytest"):
            if importlib.util.find_spec(tool) is None:
                raise ActionFailed(
                    "TOOL_MISSING",
                    f"to release {project.name} takes '{tool}', which is not installed in the environment of noa, and "
                    f"a release downloads nothing: uv pip install {tool}",
                )
        folder = Path(tests).absolute() if tests else project.root / "tests"
        if not folder.exists():
            raise ActionFailed("TESTS_MISSING", f"there are no tests at {folder}. Name them by the input 'tests'")
        modules = sorted(path for path in project.root.rglob("*.py") if not _hidden(path.relative_to(project.root)))
        for module in modules:
            ctx.check_cancelled()
            _compile(module)
        return {"modules": len(modules), "tests": str(folder), "plugins": sorted(project.plugins)}

    @action(idempotent=True)
    async def build(self, ctx: Context, package: Folder) -> Built:
        """Build the wheel with the backend that the package names. The same sources give the same wheel."""
        project = read_project(package)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="noa-build-") as temporary:
            command = [sys.executable, "-P", "-c", _BUILD, project.backend, temporary]
            environment = clean_environment(SOURCE_DATE_EPOCH="1577836800")
            ended = await run_program(ctx, command, cwd=project.root, environment=environment)
            kept = await asyncio.to_thread(_keep_wheel, ctx, Path(temporary)) if ended.status == 0 else None
        if kept is None:
            raise ActionFailed(
                "BUILD_FAILED",
                f"{project.backend} gave no wheel of {project.name} (status {ended.status}): {ended.tail}",
            )
        file, wheel = kept
        return {
            "wheel": wheel,
            "file": file,
            "sha256": wheel.sha256,
            "size_bytes": wheel.size_bytes,
            "release": f"{project.version}-{wheel.sha256[:8]}",
            "seconds": round(time.monotonic() - began, 3),
        }

    @action(idempotent=True)
    async def test(
        self,
        ctx: Context,
        package: Folder,
        wheel: Artifact,
        tests: Annotated[str, Field(min_length=1, description="Folder of the tests.")],
        timeout_s: Annotated[float, Field(gt=0)] = 600.0,
    ) -> Tested:
        """Run the tests with pytest against what is in the wheel, not against the sources."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="noa-test-") as temporary:
            site, xml = Path(temporary, "site"), Path(temporary, "report.xml")
            await asyncio.to_thread(unpack_wheel, ctx.artifacts.path(wheel), site)
            command = [
                sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={xml}", tests,
            ]  # fmt: skip
            try:
                async with asyncio.timeout(timeout_s):
                    ended = await run_program(ctx, command, cwd=Path(package), environment=clean_environment(site))
            except TimeoutError as error:
                raise ActionFailed(
                    "TESTS_FAILED", f"the tests took longer than {timeout_s:g} s and were ended"
                ) from error
            report = await asyncio.to_thread(_keep_report, ctx, xml)
        if ended.status != 0 or report is None:
            raise _failed(ended.status, ended.tail, report)
        return {
            "tests": report.tests,
            "skipped": report.skipped,
            "seconds": round(time.monotonic() - began, 3),
            "report": (ctx.output_dir / "tests.xml").as_uri(),
        }


def _keep_wheel(ctx: Context, folder: Path) -> tuple[str, Artifact] | None:
    """Name and content of the one wheel in a folder; None where there is not one."""
    wheels = list(folder.glob("*.whl"))
    return (wheels[0].name, ctx.artifacts.create(wheels[0], "application/zip")) if len(wheels) == 1 else None


def _keep_report(ctx: Context, xml: Path) -> TestReport | None:
    """What the report says; a copy is put where a person looks."""
    if xml.exists():
        shutil.copyfile(xml, ctx.output_dir / "tests.xml")
    return read_report(xml)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _compile(module: Path) -> None:
    try:
        compile(module.read_bytes(), str(module), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ActionFailed("PACKAGE_INVALID", f"{module} does not compile: {error}") from error


def _failed(status: int, tail: str, report: TestReport | None) -> ActionFailed:
    if status == _NO_TESTS:
        return ActionFailed("TESTS_FAILED", "there is not one test, so nothing is known of the package")
    if report is None or not report.failed:
        return ActionFailed("TESTS_FAILED", f"pytest ended with status {status}: {tail}")
    return ActionFailed(
        "TESTS_FAILED",
        f"{len(report.failed)} of {report.tests} tests failed: {', '.join(report.failed[:3])}. "
        "The report is tests.xml in the run's folder",
        details={"failed": list(report.failed[:_SHOWN]), "tests": report.tests},
    )
