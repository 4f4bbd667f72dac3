"""Each template of `noa new`: formatted, built, installed, found, tested by its own tests, used by its definition."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.templates.packages import EVERY, MODULE, NAME, ROOT, SIDECARS, Package

# The first test of a template builds it. A cold build of the Rust crates takes minutes.
pytestmark = pytest.mark.timeout(600)
OF_EVERY = pytest.mark.parametrize("template", EVERY)
OF_SIDECARS = pytest.mark.parametrize("template", SIDECARS)

OWN_CODE = {"agent-python": f"src/{MODULE}/agent.py", "agent-rust": "src/main.rs", "agent-go": "main.go"}
INSTEAD = {"cargo test": "cargo test --release --quiet", "pytest": "pytest -q -p no:cacheprovider"}
"""Release, because the crates are built for that already."""

DONE_ELSEWHERE = ("pip install", "noa agent check")
"""By the fixture, and by a test of its own."""

EXAMPLES = {"plugin-stage": ["--plugin", "example_agent.py"], "plugin-recovery": ["--plugin", "example_agent.py"]}
COUNTED = {"words": 5, "longest": "counts"}
OUTPUTS = {
    "plugin-stage": {"rounds": [{"doubled": 2}, {"doubled": 4}, {"doubled": 6}]},
    "plugin-recovery": {"soon": {"attempts": 2}, "never": None},
    "plugin-alert": {},
}


@OF_EVERY
def test_the_files_that_are_printed_are_written_and_three_commands_are_shown(package: Package) -> None:
    files, _, commands = package.printed.partition("\n\nNext:\n")
    assert files.splitlines()[0] == f"{NAME}:"
    assert all((package.folder / line.strip()).is_file() for line in files.splitlines()[1:])
    assert commands.startswith(f"  cd {NAME} && pip install ")
    assert len(commands.splitlines()) == 3


@OF_EVERY
def test_what_is_installed_is_found_and_built_for_the_platform_where_it_has_a_program(
    package: Package, template: str
) -> None:
    native = template in {"agent-rust", "agent-go"}
    assert ("py3-none-any" in package.wheel.name) != native
    with zipfile.ZipFile(package.wheel) as wheel:
        names = wheel.namelist()
        assert f"{MODULE}/__init__.py" in names
        assert any(name.endswith(f".data/scripts/{NAME}") for name in names) == native
    found = json.loads(package.call("noa", "plugins", "--json"))["plugins"]
    assert [plugin["origin"] for plugin in found if plugin["name"] == NAME] == [NAME]


@OF_EVERY
def test_the_commands_of_its_readme_work_its_own_tests_among_them(package: Package) -> None:
    assert {"cargo test", "go test ./...", "pytest"} & set(package.readme)
    for command in package.readme:
        if not command.startswith(DONE_ELSEWHERE):
            package.call(*shlex.split(INSTEAD.get(command, command)))


@OF_EVERY
def test_its_definition_is_valid_and_runs(package: Package, template: str, tmp_path: Path) -> None:
    example = EXAMPLES.get(template, [])
    package.call("noa", "validate", "workflow.yaml", *example)
    printed = package.call("noa", "run", "workflow.yaml", "--json", "--home", str(tmp_path), *example)
    result = json.loads(printed[printed.index("{") :])
    assert (result["status"], result["outputs"]) == ("succeeded", OUTPUTS.get(template, COUNTED))


@pytest.mark.parametrize("template", ["agent-rust", "agent-go"])  # the tests of the Python package have every case
def test_an_agent_keeps_the_contract(package: Package) -> None:
    printed = package.call("noa", "agent", "check", NAME, "--timeout", "30")
    assert " 0 failed" in printed


@OF_SIDECARS
def test_an_agent_is_less_than_40_lines_of_its_authors_code(package: Package, template: str) -> None:
    text = (package.folder / OWN_CODE[template]).read_text(encoding="utf-8")
    code = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith(("#", "//", '"""'))]
    assert len(code) < 40


@pytest.mark.parametrize("template", ["plugin-alert"])
def test_a_package_that_is_installed_can_be_begun_anew_under_its_name(package: Package, tmp_path: Path) -> None:
    package.call("noa", "new", "plugin", NAME, "--into", str(tmp_path / "anew"))
    assert (tmp_path / "anew" / "pyproject.toml").is_file()


@OF_EVERY
def test_it_is_formatted_and_free_of_lint(package: Package, template: str) -> None:
    package.call("ruff", "check", ".")
    package.call("ruff", "format", "--check", ".")
    if template == "agent-rust":
        package.call("cargo", "fmt", "--check")
    if template == "agent-go":
        assert package.call("gofmt", "-l", ".") == ""
        package.call("go", "vet", "./...")


def test_the_page_for_authors_shows_these_packages_and_their_commands(packages: Callable[[str], Package]) -> None:
    page = (ROOT / "docs" / "authoring.md").read_text(encoding="utf-8")
    for template, name in OWN_CODE.items():
        assert (packages(template).folder / name).read_text(encoding="utf-8") in page, f"{name} of {template}"
    shown = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    known = {line for template in EVERY for line in packages(template).readme}
    assert {line for block in shown for line in block.splitlines()} <= known
