"""The parts of a release: a target that may be changed twice, wheels that are compared, settings from history."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from noa_release_agents.advisor import AdvisorAgent
from noa_release_agents.deployer import DeployerAgent
from noa_release_agents.environment import Environment
from noa_release_agents.project import read_project
from noa_release_agents.wheel import unpack_wheel

from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.sdk import ActionFailed, Agent
from noa.sdk.runner import ActionRunner

INFO = "x-1.0.dist-info"
PURE = b"Root-Is-Purelib: true\n"
HASH = "sha256=yaAB6DY39Coq-d9bS-OIowF8mnQ3eAA_hBG19aqvYcg"
RECORD = f"{INFO}/RECORD,,\n{INFO}/WHEEL,{HASH},22\n"
FIGURES = {"build_s": 0.5, "test_s": 2.0, "watch_s": 2.5, "start_ms": 900.0, "p95_ms": 12.0, "size_bytes": 4000}
SETTINGS = {"test_timeout_s": 600, "start_timeout_s": 30, "max_latency_ms": 1000}


def wheel(folder: Path, **files: bytes | str) -> Path:
    """A wheel with these files; without any it is right."""
    path = folder / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {f"{INFO}/WHEEL": PURE, f"{INFO}/RECORD": RECORD, **files}.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Environment:
    environment = Environment(str(tmp_path / "target"))
    environment.prepare()
    return environment


async def ask(agent: Agent, action: str, inputs: dict[str, Any], *, run: str = "r", output: str = "") -> Outcome:
    asked = Assignment(f"{run}:x", "key", run, "w", "s", "s/t", 1, agent.name, action, inputs, output_uri=output)
    return await ActionRunner(agent).execute(asked, observe=lambda _: None, artifact_prefix="")


async def do(agent: Agent, action: str, inputs: dict[str, Any], *, run: str = "r", output: str = "") -> Any:
    outcome = await ask(agent, action, inputs, run=run, output=output)
    assert isinstance(outcome, Succeeded), outcome
    return outcome.outputs


# --- wheels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"x.py": "a = 1"}, "x.py is not in RECORD"),
        ({f"{INFO}/WHEEL": "Root-Is-Purelib: true\nx"}, "WHEEL is not what RECORD says"),
        ({f"{INFO}/WHEEL": "Root-Is-Purelib: false\n"}, "not of pure Python"),
        ({f"{INFO}/RECORD": RECORD + "x.py,sha256=a,1\n"}, "RECORD names x.py, which is not in it"),
        ({f"{INFO}/RECORD": RECORD + f"../x.py,{HASH},22\n", "../x.py": PURE}, "leads out of the folder"),
        ({f"{INFO}/RECORD": RECORD + f"x.data/a,{HASH},22\n", "x.data/a": PURE}, "needs an installer"),
        ({"y.dist-info/RECORD": ""}, "2 files RECORD"),
    ],
)
def test_wheel_that_is_not_what_it_says_is_refused(tmp_path: Path, files: dict[str, Any], why: str) -> None:
    with pytest.raises(ActionFailed, match="WHEEL_INVALID") as caught:
        unpack_wheel(wheel(tmp_path, **files), tmp_path / "site")
    assert why in caught.value.message
    assert not (tmp_path / "x.py").exists()


def test_release_that_cannot_be_unpacked_leaves_nothing(target: Environment, tmp_path: Path) -> None:
    (tmp_path / "no.whl").write_bytes(b"PK")
    for path in (tmp_path / "no.whl", wheel(tmp_path, **{"x.py": "a = 1"})):
        with pytest.raises(ActionFailed, match="WHEEL_INVALID"):
            target.install("1.0-aaaaaaaa", path, "r")
    assert list((target.root / "versions").iterdir()) == []


# --- the target ------------------------------------------------------------------------------------------------------


async def test_release_is_deployed_and_taken_back_twice_with_the_effect_of_once(
    target: Environment, tmp_path: Path
) -> None:
    deployer = DeployerAgent()
    target.install("1.0-a", wheel(tmp_path), "earlier")
    target.switch("1.0-a")
    new = {"target": str(target.root), "release": "1.1-b"}
    switch = {**new, "previous": "1.0-a"}
    assert target.install("1.1-b", wheel(tmp_path), "r").made
    assert target.install("1.1-b", wheel(tmp_path), "r").made, "the same run brought it before"
    for _ in range(2):
        assert (await do(deployer, "activate", switch))["active"] == "1.1-b"
        assert target.active == "1.1-b"
    assert await do(deployer, "remove", new) == {"removed": False, "why": "it is active"}
    assert [(await do(deployer, "rollback", switch))["changed"] for _ in range(2)] == [True, False]
    assert target.active == "1.0-a"
    assert [(await do(deployer, "remove", new))["removed"] for _ in range(2)] == [True, False]
    assert target.releases() == ["1.0-a"]
    assert [one["state"] for one in target.history()] == ["rolled back"]


async def test_first_release_that_is_taken_back_leaves_nothing_current(target: Environment, tmp_path: Path) -> None:
    target.install("1.0-a", wheel(tmp_path), "r")
    switch = {"target": str(target.root), "release": "1.0-a", "previous": ""}
    await do(DeployerAgent(), "activate", switch)
    await do(DeployerAgent(), "rollback", switch)
    assert (target.active, (target.root / "current").is_symlink()) == ("", False)


async def test_what_somebody_else_deployed_meanwhile_is_neither_replaced_nor_taken_back(
    target: Environment, tmp_path: Path
) -> None:
    for release in ("1.0-a", "1.1-b", "1.2-c"):
        target.install(release, wheel(tmp_path), "earlier")
    target.switch("1.2-c")
    switch = {"target": str(target.root), "release": "1.1-b", "previous": "1.0-a"}
    refused = await ask(DeployerAgent(), "activate", switch)
    assert isinstance(refused, Failure)
    assert (refused.code, refused.details) == ("TARGET_CHANGED", {"expected": "1.0-a", "active": "1.2-c"})
    assert not (await do(DeployerAgent(), "rollback", switch))["changed"]
    assert target.active == "1.2-c"
    assert (await do(DeployerAgent(), "remove", {"target": str(target.root), "release": "1.1-b"}))["why"] == (
        "another run brought it"
    )


@pytest.mark.parametrize("release", ["../elsewhere", "a/b", "", ".hidden"])
async def test_release_whose_name_is_a_path_is_refused(target: Environment, release: str) -> None:
    refused = await ask(DeployerAgent(), "remove", {"target": str(target.root), "release": release})
    assert isinstance(refused, Failure)
    assert refused.code == "INVALID_INPUT"


def test_target_that_is_a_file_or_has_another_current_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "current").mkdir(parents=True)
    for name in ("file", "taken"):
        with pytest.raises(ActionFailed, match="TARGET_NOT_WRITABLE"):
            Environment(str(tmp_path / name)).prepare()


# --- packages and advice ---------------------------------------------------------------------------------------------


def test_package_that_is_wrong_is_told_all_that_is(tmp_path: Path) -> None:
    with pytest.raises(ActionFailed, match="PACKAGE_NOT_FOUND"):
        read_project(str(tmp_path))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a b"\nversion = "one"\n')
    with pytest.raises(ActionFailed, match="PACKAGE_INVALID") as caught:
        read_project(str(tmp_path))
    assert [problem.split()[0] for problem in caught.value.details["problems"]] == [
        "project.name", "project.version", "build-system.build-backend", "project.entry-points.'noa.plugins'",
    ]  # fmt: skip


async def test_settings_are_proposed_from_the_third_release_on_and_only_where_they_differ(
    target: Environment, tmp_path: Path
) -> None:
    inputs = {"target": str(target.root), "figures": FIGURES, "settings": SETTINGS}
    output = tmp_path.joinpath("output").as_uri() + "/"
    for number, proposed in enumerate(({}, {}, {"test_timeout_s": 10, "start_timeout_s": 5, "max_latency_ms": 50})):
        for _ in range(2):  # a repeat is no further release
            advice = await do(AdvisorAgent(), "propose", inputs, run=f"r{number}", output=output)
            assert (advice["releases"], advice["inputs"]) == (number + 1, proposed)
    settled = {**inputs, "settings": {**SETTINGS, **advice["inputs"]}}
    slow = {**settled, "figures": {**FIGURES, "p95_ms": 123.0}}
    assert (await do(AdvisorAgent(), "propose", settled, run="r2", output=output))["proposals"] == []
    (one,) = (await do(AdvisorAgent(), "propose", slow, run="r3", output=output))["proposals"]
    assert (one["setting"], one["now"], one["proposed"]) == ("max_latency_ms", 50, 370)


def test_history_goes_with_its_target(target: Environment) -> None:
    target.note("r", release="1.0-a", at_ms=1)
    target.note("r", state="kept")
    assert target.noted("r") == {"run": "r", "release": "1.0-a", "at_ms": 1, "state": "kept"}
    shutil.rmtree(target.root)
    target.prepare()
    assert target.history() == []
