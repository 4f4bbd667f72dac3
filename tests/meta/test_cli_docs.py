"""docs/cli.md says what the commands say, and `noa --help` what each command says of itself."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from noa.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate_cli_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_teaches_by_examples_and_is_listed_with_its_own_words(name: str) -> None:
    command = import_module(f"noa.cli.{name}").command
    assert command.name == name
    assert command.short_help == COMMANDS[name]
    assert "Examples:" in command.help
    assert f"noa {name}" in command.help.split("Examples:")[1]
    assert all(p.help for p in command.params if isinstance(p, click.Option)), "every option says what it does"


def test_importing_the_program_imports_click_and_the_standard_library_only() -> None:
    code = "import sys, json, noa.cli; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    known = sys.stdlib_module_names | {"noa", "click"}
    assert [n for n in json.loads(done.stdout) if n not in known and not n.startswith("_")] == []
