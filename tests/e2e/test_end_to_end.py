"""`definitions/end-to-end.yaml`: one file, three modes, real wheels, tests and processes; what is bad is taken back.

The packages that are released are copies of the sample, changed where a test needs a bad one.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from noa_release_agents.environment import Environment
from tests.e2e.conftest import ROOT, Noa, descendants, kill, wait_gone

from noa.definitions import load_plan
from noa.model.ids import RunId
from noa.modes.debugger import Debugger, Stop
from noa.plugin import Registry
from noa.runtime import Settings, open_journal

RELEASE = ROOT / "definitions" / "end-to-end.yaml"
SAMPLE = ROOT / "plugins" / "noa-release-agents" / "sample"
BEFORE = "0.9.0-00000000"
QUICK_PYTEST = 'addopts = ["-p", "no:hypothesispytest"]  # slow to load, and not used\n'
QUICK_TEST = """from noa_rates import __version__


def test_version() -> None:
    assert __version__ == "1.0.0"
"""
CANNOT_WORK = """
    def load(self) -> None:
        raise RuntimeError("the table of rates is empty")
"""
DIES_SOON = """
    def load(self) -> None:
        import os, threading

        threading.Timer(0.5, os._exit, (3,)).start()
"""
pytestmark = pytest.mark.timeout(400)


@dataclass
class Release:
    """A package and a target of a test, and calls of `noa run` with them."""

    noa: Noa
    package: Path
    target: Environment

    def arguments(self, mode: str, **inputs: Any) -> list[str]:
        given = {"package": self.package, "target": self.target.root, "window_s": 0.4, **inputs}
        named = [part for name, value in given.items() for part in ("--input", f"{name}={value}")]
        return ["run", str(RELEASE), "--run-id", "release", "--mode", mode, *named]

    def run(self, mode: str = "auto", **inputs: Any) -> dict:
        done = self.noa(*self.arguments(mode, **inputs), "--json", timeout=150)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def start(self, mode: str, **inputs: Any) -> subprocess.Popen[str]:
        return self.noa.start(*self.arguments(mode, **inputs), "--json")

    def add(self, text: str) -> None:
        """Add to the class of the agent that is released."""
        agent = self.package / "src" / "noa_rates" / "agent.py"
        head, mark, tail = agent.read_text().partition("    @action")
        agent.write_text(head + text.lstrip("\n") + "\n" + mark + tail)

    def add_agent(self) -> None:
        """Let the plugin declare a second agent, one that has no program of its own."""
        plugin = self.package / "src" / "noa_rates" / "plugin.py"
        text = plugin.read_text().replace("    return [", "    from noa_rates.agent import RatesAgent\n\n    return [")
        plugin.write_text(text.replace(")]", '), AgentDeclaration("inline", factory=RatesAgent)]'))

    def deployed_before(self) -> None:
        """Put an earlier release into the target, as an earlier run left it."""
        self.target.prepare()
        wheel = self.package.parent / "noa_rates-0.9.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("noa_rates-0.9.0.dist-info/WHEEL", "Root-Is-Purelib: true\n")
            archive.writestr("noa_rates-0.9.0.dist-info/RECORD", "noa_rates-0.9.0.dist-info/RECORD,,\n"
                             "noa_rates-0.9.0.dist-info/WHEEL,"
                             "sha256=yaAB6DY39Coq-d9bS-OIowF8mnQ3eAA_hBG19aqvYcg,22\n")  # fmt: skip
        self.target.install(BEFORE, wheel, "earlier")
        self.target.switch(BEFORE)

    def succeeded(self) -> list[str]:
        return [event["task"] for event in self.noa.events("attempt_succeeded")]


@pytest.fixture
def release(noa: Noa, tmp_path: Path) -> Release:
    package = tmp_path / "package"
    shutil.copytree(SAMPLE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "tests" / "test_rates.py").write_text(QUICK_TEST)
    with (package / "pyproject.toml").open("a") as project:
        project.write(QUICK_PYTEST)
    return Release(noa, package, Environment(str(tmp_path / "target")))


def test_release_in_mode_auto_is_built_tested_deployed_watched_and_learned_from(
    noa: Noa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a checkout, with what the definition says where nothing is given."""
    monkeypatch.chdir(ROOT)
    target = Environment(str(tmp_path / "target"))
    done = noa.json("run", "definitions/end-to-end.yaml", "--run-id", "release", "--input", f"target={target.root}")
    assert done["status"] == "succeeded", done["failure"]
    assert (done["outputs"]["previous"], done["outputs"]["tests"]) == ("", 5)
    release = done["outputs"]["release"]
    assert (target.active, target.releases()) == (release, [release])
    program = "import noa_rates.agent as it; print(it.__file__, it.cents_for('DE', 250))"
    environment = {**os.environ, "PYTHONPATH": str(target.root / "current")}
    used = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert used.stdout.split() == [str(target.root / "current" / "noa_rates" / "agent.py"), "456"]
    (resolved,) = noa.events("hold_resolved")
    assert (resolved["answer"], "mode auto" in resolved["by"]) == ("approve", True)
    (kept,) = target.history()
    assert (kept["run"], kept["state"], kept["release"]) == ("release", "kept", release)
    watched = next(e["outputs"] for e in noa.events("attempt_succeeded") if e["task"] == "monitor/watch")
    assert watched["agents"]["rates"]["version"] == "1.0.0"
    assert (watched["errors"], watched["checks"] > 3) == (0, True)
    assert (noa.home / "output" / "release" / "tests.xml").is_file()
    assert json.loads((noa.home / "output" / "release" / "advice.json").read_text())["releases"] == 1


def test_release_in_mode_supervised_waits_until_somebody_approves_it(release: Release) -> None:
    noa = release.noa
    release.deployed_before()
    release.add_agent()
    process = release.start("supervised")
    noa.wait_for_events(1, "stage_held", timeout_s=150)
    (held,) = noa.events("stage_held")
    assert held["hold"]["show"]["replaces"] == BEFORE
    assert held["hold"]["show"]["tests"] == 1
    assert release.target.releases() == [BEFORE]
    approved = noa("approve", "release", "deploy", "--reason", "tests are green")
    assert approved.returncode == 0, approved.stderr
    out, err = process.communicate(timeout=150)
    done = json.loads(out)
    assert done["status"] == "succeeded", err
    assert done["outputs"]["previous"] == BEFORE
    watched = next(e["outputs"] for e in noa.events("attempt_succeeded") if e["task"] == "monitor/watch")
    assert sorted(watched["agents"]) == ["inline", "rates"]
    assert release.target.active == done["outputs"]["release"]


def test_release_that_is_rejected_deploys_nothing(release: Release) -> None:
    noa = release.noa
    release.deployed_before()
    process = release.start("supervised")
    noa.wait_for_events(1, "stage_held", timeout_s=150)
    assert noa("reject", "release", "deploy", "--reason", "not on a Friday").returncode == 0
    out, err = process.communicate(timeout=150)
    done = json.loads(out)
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "REJECTED"), err
    assert (release.target.active, release.target.releases()) == (BEFORE, [BEFORE])
    assert release.target.history() == []


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        pytest.param(CANNOT_WORK, "the table of rates is empty", id="cannot-work"),
        pytest.param(DIES_SOON, "ended with status 3", id="dies-soon"),
    ],
)
def test_release_that_is_not_well_is_taken_back_and_the_one_before_is_active_again(
    release: Release, fault: str, why: str
) -> None:
    release.deployed_before()
    release.add(fault)
    done = release.run(window_s=60)
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "HEALTH_BAD")
    assert why in done["failure"]["message"]
    assert (release.target.active, release.target.releases()) == (BEFORE, [BEFORE])
    assert release.succeeded()[-2:] == ["deploy/activate~compensate", "deploy/install~compensate"]
    (kept,) = release.target.history()
    assert kept["state"] == "rolled back"


def test_release_that_is_cancelled_while_it_is_watched_is_taken_back_and_leaves_no_process(release: Release) -> None:
    noa = release.noa
    release.deployed_before()
    process = release.start("auto", window_s=600)
    while not (started := [one for one in descendants(process) if "noa.sdk" in command_of(one)]):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=150)
    assert json.loads(out)["status"] == "rolled_back", err
    assert (release.target.active, release.target.releases()) == (BEFORE, [BEFORE])
    assert noa.events("attempt_failed")[-1]["task"] == "monitor/watch"
    assert wait_gone(started) == []


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_package_whose_tests_fail_is_not_deployed(release: Release) -> None:
    (release.package / "tests" / "test_rates.py").write_text(QUICK_TEST.replace('"1.0.0"', '"2.0.0"'))
    done = release.run()
    assert (done["status"], done["failure"]["code"]) == ("rolled_back", "TESTS_FAILED")
    assert "test_version" in done["failure"]["message"]
    assert sorted(release.succeeded()) == ["init/prepare", "init/survey", "process/build", "validate/check"]
    assert release.noa.events("stage_held") == []
    assert (release.target.active, release.target.releases()) == ("", [])


def test_release_approved_while_its_engine_was_killed_is_deployed_once_on_resume(release: Release) -> None:
    noa = release.noa
    process = release.start("supervised")
    noa.wait_for_events(1, "stage_held", timeout_s=150)
    kill(process)
    assert noa("approve", "release", "deploy").returncode == 0
    assert release.target.releases() == []
    done = noa.json("resume", "release")
    assert done["status"] == "succeeded", done["failure"]
    for task in ("process/build", "deploy/install", "deploy/activate"):
        assert [e["task"] for e in noa.events("task_scheduled")].count(task) == 1
    assert release.target.releases() == [done["outputs"]["release"]]


async def test_release_in_mode_debug_is_stepped_through_and_looked_at(release: Release) -> None:
    process = release.start("debug")
    try:
        await asyncio.to_thread(release.noa.wait_for_events, 1, "task_held", 150)
        registry = Registry.load()
        plan = load_plan(RELEASE, registry=registry, host_resources=None)
        journal = open_journal(registry, Settings(home=str(release.noa.home)), release.noa.home)
        await journal.open()
        try:
            bug = await Debugger.attach(journal, RunId("release"), plan, actor="ann")
            stops = await step_through(bug)
        finally:
            await journal.close()
        out, err = await asyncio.to_thread(process.communicate, timeout=150)
    finally:
        if process.poll() is None:
            kill(process)
    assert json.loads(out)["status"] == "succeeded", err
    assert stops == [
        "step init/survey", "step init/prepare", "step validate/check", "step process/build", "step test/test",
        "approval deploy", "step deploy/install", "step deploy/activate", "step monitor/watch",
        "step optimize/propose",
    ]  # fmt: skip
    assert bug.go_to(1).tasks == {}


async def step_through(bug: Debugger) -> list[str]:
    """Everything that the run stopped at, each let go by itself."""
    found = []
    stop = await bug.wait_stop(timeout_s=150)
    while stop.hold is not None:
        found.append(f"{stop.hold.kind} {stop.subject}")
        if stop.subject == "deploy/install":
            assert bug.inputs(bug.task("deploy/install"))["release"].startswith("1.0.0-")
            assert bug.evaluate("stages.test.test.outputs.tests") == 1
        stop = await go_on(bug, stop)
    return found


async def go_on(bug: Debugger, stop: Stop) -> Stop:
    if stop.hold is not None and stop.hold.kind == "approval":
        return await bug.settle("approve", stop.subject)
    return await bug.step(stop.subject)
