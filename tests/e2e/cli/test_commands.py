"""The commands that read: validate, plan, schema, runs, show, agents, plugins, and the program's own help."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import NOA, Noa

Define = Callable[..., Path]


def test_a_valid_definition_is_counted_and_a_wrong_one_exits_2(noa: Noa, definition: Define) -> None:
    file = definition(["greet"], [{"action": "greet"}, {"action": "fail"}])
    done = noa("validate", file.name)
    assert (done.code, done.out) == (0, "flow.json: ok (2 stages, 3 tasks)\n")
    bad = noa.write("bad.yaml", "workflow:\n  name: w\n  version: '1'\n  stages: [{name: a, type: paralel}]\n")
    both = noa("validate", file.name, bad.name, "missing.yaml")
    assert both.code == 2
    assert both.out == "flow.json: ok (2 stages, 3 tasks)\n"
    assert "bad.yaml:4:28: " in both.err
    assert "Did you mean 'parallel'?" in both.err
    assert "missing.yaml does not exist" in both.err
    found = noa("validate", "--json", file.name, bad.name).json
    assert (found["valid"], [f["valid"] for f in found["files"]]) == (False, [True, False])
    assert {"line", "column", "message", "code", "path"} <= set(found["files"][1]["problems"][0])


def test_the_plan_of_a_definition_is_printed_as_text_mermaid_and_json(noa: Noa, definition: Define) -> None:
    file = definition(["greet"], ["fail"])
    assert "s2" in noa("plan", file).out
    assert noa("plan", file, "--mermaid").out.startswith("flowchart")
    assert noa("plan", file, "--json").json
    assert noa("plan", file, "--json", "--mermaid").code == 2


def test_the_schema_is_json_schema(noa: Noa) -> None:
    assert "$schema" in noa("schema").json


def test_runs_are_listed_newest_first_and_filtered(noa: Noa, definition: Define) -> None:
    assert (noa("runs").code, noa("runs").out) == (0, "")
    assert not (noa.folder / ".noa").exists(), "listing makes nothing"
    assert noa("run", definition(["greet"]), "-q", "--run-id", "one").code == 0
    assert noa("run", definition(["fail"], name="bad"), "-q", "--run-id", "two").code == 1
    lines = noa("runs").out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["RUN", "WORKFLOW", "STATUS"],
        ["two", "bad", "failed"],
        ["one", "flow", "succeeded"],
    ]
    assert [r["run_id"] for r in noa("runs", "--json", "--status", "failed").json] == ["two"]
    assert [r["run_id"] for r in noa("runs", "--json", "--workflow", "flow").json] == ["one"]
    assert [r["run_id"] for r in noa("runs", "--json", "--limit", "1").json] == ["two"]
    assert noa("runs", "--status", "nonsense").code == 2


def test_a_run_is_shown_with_its_tasks_failure_and_inputs(noa: Noa, definition: Define) -> None:
    assert noa("run", definition(["greet", "fail"], ["greet"]), "-q", "-i", "name=Ann").code == 1
    done = noa("show", "latest")
    assert done.code == 0
    assert re.search(r"input name +Ann", done.out)
    assert re.search(r"s1/fail +failed +.*helper · fail +BROKEN: the widget is bent", done.out)
    assert re.search(r"s2 +not run", done.out)
    shown = noa("show", "latest", "--json").json
    assert shown["stages"][0]["tasks"][0]["outputs"] == {"greeting": "Hello, Ann"}
    assert [task["status"] for stage in shown["stages"] for task in stage["tasks"]] == ["succeeded", "failed"] + (
        ["not_run"] if shown["stages"][1]["tasks"] else []
    )


def test_of_a_large_stage_what_is_amiss_is_shown_first(noa: Noa, definition: Define) -> None:
    tasks = [{"action": "greet", "name": f"t{i}"} for i in range(150)] + ["fail"]
    assert noa("run", definition(tasks), "-q").code == 1
    lines = noa("show", "latest").out.splitlines()
    assert lines[lines.index("") + 2].split()[:2] == ["s1/fail", "failed"]
    assert "  and 51 more; --json has all" in lines


def test_a_run_whose_plugin_is_missing_now_is_shown_from_its_events(noa: Noa, definition: Define) -> None:
    assert noa("run", definition(["greet"]), "-q").code == 0
    done = noa("show", "latest", plugin=False)
    assert done.code == 0
    assert "by --plugin FILE.py" in done.out
    assert re.search(r"s1/greet +succeeded", done.out)


@pytest.mark.parametrize("command", ["show", "why", "events", "logs", "cancel", "resume", "answer"])
def test_a_run_that_does_not_exist_is_a_usage_error(noa: Noa, definition: Define, command: str) -> None:
    done = noa(command, "nothing")
    assert (done.code, done.out) == (2, "")
    assert "error[RUN_NOT_FOUND]" in done.err
    if command != "resume":
        assert not (noa.folder / ".noa").exists()


def test_runs_are_found_by_a_unique_beginning(noa: Noa, definition: Define) -> None:
    file = definition(["greet"])
    for name in ("abc-1", "abc-2", "xyz"):
        assert noa("run", file, "-q", "--run-id", name).code == 0
    assert noa("show", "x", "--json").json["run_id"] == "xyz"
    assert noa("show", "abc-2", "--json").json["run_id"] == "abc-2"
    done = noa("show", "abc")
    assert done.code == 2
    assert "abc-1" in done.err


def test_events_of_a_type_are_picked_and_an_unknown_type_is_refused(noa: Noa, definition: Define) -> None:
    assert noa("run", definition(["fail"]), "-q").code == 1
    done = noa("events", "latest", "--type", "attempt_failed", "--json")
    assert [json.loads(line)["failure"]["code"] for line in done.out.splitlines()] == ["BROKEN"]
    assert re.match(r" +1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  run_created ", noa("events", "latest").out)
    done = noa("events", "latest", "--type", "attempt_faild")
    assert done.code == 2
    assert "attempt_failed" in done.err


def test_agents_are_listed_and_checked(noa: Noa) -> None:
    listed = {agent["name"]: agent for agent in noa("agents", "--json", NOA_DISABLED_PLUGINS=OTHERS).json}
    assert listed["helper"]["kind"] == "in-process"
    assert listed["helper"]["plugin"] == "helper_agents"
    assert re.search(r"helper +in-process +helper_agents +.*Helper", noa("agents", NOA_DISABLED_PLUGINS=OTHERS).out)
    checked = noa("agents", "--check", "--json", NOA_DISABLED_PLUGINS=OTHERS)
    assert checked.code == 0
    health = next(agent["health"] for agent in checked.json if agent["name"] == "helper")
    assert (health["status"], health["language"], health["version"]) == ("serving", "python", "1")
    assert {action["name"] for action in health["actions"]} == {"greet", "count", "gated", "hold", "deaf", "fail"}


def test_an_agent_that_cannot_start_is_found_by_check(noa: Noa) -> None:
    noa.write(
        "broken.py",
        "from noa.plugin import AgentDeclaration, hookimpl\n"
        "@hookimpl\n"
        "def noa_agents():\n"
        "    return [AgentDeclaration(name='gone', kind='sidecar', command=('/nowhere/agent',))]\n",
    )
    done = noa("agents", "--check", "--plugin", "broken.py", NOA_DISABLED_PLUGINS=OTHERS)
    assert done.code == 1
    assert re.search(r"✗ gone +sidecar\n +AGENT_START_FAILED: .*/nowhere/agent", done.out)
    assert "✓ helper" in done.out


OTHERS = "standard-agents,native-agents,model-server,order-services,release-agents"
"""Plugins that may be installed beside; these tests are not about them."""


def test_plugins_are_listed_with_their_hooks(noa: Noa) -> None:
    assert re.search(r"helper_agents +- +.*helper_agents.py +agents", noa("plugins").out)
    found = {p["name"]: p for p in noa("plugins", "--json").json["plugins"]}
    assert "noa_stage_types" in found["noa"]["hooks"]


def test_a_plugin_that_cannot_be_loaded_is_named(noa: Noa, definition: Define) -> None:
    noa.write("broken.py", "import nothing_of_that_name\n")
    done = noa("run", definition(["greet"]), "--plugin", "broken.py")
    assert done.code == 2
    assert "error[PLUGIN]: plugin file broken.py cannot be imported: ModuleNotFoundError" in done.err


def test_an_unknown_command_names_the_nearest(noa: Noa) -> None:
    done = noa("rusn")
    assert done.code == 2
    assert "Did you mean 'run'?" in done.err


def test_the_version_is_printed(noa: Noa) -> None:
    assert re.fullmatch(r"noa \d+\.\d+\.\d+\n", noa("--version").out)


def test_help_comes_within_200_ms() -> None:
    def median_s(command: list[str]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    bare_s = median_s([sys.executable, "-c", "pass"])
    help_s = median_s([str(NOA), "--help"])
    # An idle machine starts a bare interpreter within 20 ms; a busy one is given as much more time.
    assert help_s < 0.2 * max(1.0, bare_s / 0.02)
