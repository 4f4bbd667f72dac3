"""Promises that hold for the whole project."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import noa
import noa.builtins
from noa.definitions import load_plan
from noa.plugin import Registry

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = sorted(path for path in (ROOT / "definitions").rglob("*") if path.suffix in {".yaml", ".yml", ".json"})
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(noa.__path__, "noa.")
    if not info.name.startswith("noa.agent") and not info.name.endswith("__main__")
)
BY_NAME = ("agents", "agent_kinds", "stage_types", "recovery_strategies", "modes", "journals", "artifact_stores")


def test_no_tracked_file_names_a_registry_or_a_machine() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/check_tracked.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_definition_of_the_project_is_valid(path: Path) -> None:
    plan = load_plan(path, registry=Registry.load(), host_resources=None)
    assert plan.stages


def test_the_unified_pipeline_is_the_one_of_the_design_with_no_key_added() -> None:
    import yaml

    document = yaml.safe_load((ROOT / "definitions/unified-pipeline.yaml").read_text(encoding="utf-8"))
    [workflow] = document.values()
    assert set(workflow) == {"name", "version", "stages"}
    assert all(set(stage) <= {"name", "type", "depends_on", "tasks"} for stage in workflow["stages"])
    assert [(task["agent"], task["action"]) for stage in workflow["stages"] for task in stage["tasks"]] == [
        ("python", "data_preprocessing"),
        ("rust", "resource_allocation"),
        ("go", "service_startup"),
        ("ai_model", "inference"),
        ("worker", "post_processing"),
        ("storage", "persist_results"),
        ("notification", "send_alerts"),
    ]
    assert all(set(task) == {"agent", "action"} for stage in workflow["stages"] for task in stage["tasks"])


def test_built_ins_are_there_through_their_plugin_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOA_DISABLED_PLUGINS", "noa")
    without = Registry.load()
    for kind in BY_NAME[1:]:
        assert not getattr(without, kind), f"{kind} are there without the plugin 'noa'"
    monkeypatch.delenv("NOA_DISABLED_PLUGINS")
    having = Registry.load()
    for kind in BY_NAME[1:]:
        assert getattr(having, kind), f"the plugin 'noa' gives no {kind}"


def test_the_standard_agents_come_from_plugins_found_by_their_entry_points() -> None:
    found = {info.name for info in Registry.load().plugins()}
    assert {"noa", "native-agents"} <= found
    assert {"python", "rust", "go", "ai_model", "worker", "storage", "notification"} <= set(Registry.load().agents)


def test_the_engine_names_no_built_in() -> None:
    # "retry" is a kind of timer there, too.
    names = ("sequential", "parallel", "conditional", "loop", "sidecar", "remote", "in-process", "sqlite", "file")
    pattern = re.compile(rf"""["'](?:{"|".join(names)})["']""")
    for path in sorted((ROOT / "core/noa/engine").rglob("*.py")):
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)} names the built-in {found and found[0]}"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_lists_its_public_names_and_has_them(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it owns"
    made_here = [
        public
        for public, value in vars(module).items()
        if not public.startswith("_") and getattr(value, "__module__", None) == name
    ]
    assert hasattr(module, "__all__") or not made_here, f"{name} has no __all__ and defines {made_here}"
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed)
    assert [public for public in listed if not hasattr(module, public)] == []


def test_every_public_name_of_noa_can_be_used_and_says_what_it_is() -> None:
    for name in noa.__all__:
        assert getattr(noa, name).__doc__, f"noa.{name} has no docstring"


def test_importing_noa_loads_nothing_heavy() -> None:
    program = "import sys, noa; print([m for m in ('grpc', 'pydantic', 'cel_expr_python', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_in_process_path_does_not_import_grpc(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "from noa.plugin import AgentDeclaration, hookimpl\nfrom noa.sdk.echo import EchoAgent\n\n"
        "@hookimpl\ndef noa_agents():\n    return [AgentDeclaration(name='echo', factory=EchoAgent)]\n",
        encoding="utf-8",
    )
    program = (
        "import sys, noa\n"
        "tasks = [{'agent': 'echo', 'action': 'noop'}]\n"
        "workflow = {'workflow': {'name': 'w', 'stages': [{'name': 's', 'type': 'sequential', 'tasks': tasks}]}}\n"
        "result = noa.run_sync(workflow, plugins=('echo.py',))\n"
        "assert result.succeeded, result\n"
        "print('grpc' in sys.modules)\n"
    )
    keep = {name: value for name, value in os.environ.items() if not name.startswith("NOA_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=keep, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_the_version_of_the_packages_is_the_one_of_the_changelog() -> None:
    versions = set()
    for path in (
        ROOT / "pyproject.toml",
        *ROOT.glob("plugins/*/pyproject.toml"),
        *ROOT.glob("agents/*/pyproject.toml"),
    ):
        versions.update(re.findall(r'^version = "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert versions == {newest[1]}
