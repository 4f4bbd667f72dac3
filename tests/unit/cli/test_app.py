"""The group of commands: commands of plugins, and errors that become messages and exit codes."""

import click
import pytest
from click.testing import CliRunner, Result

from noa.cli.app import app
from noa.cli.command import NoaCommand
from noa.errors import AgentLostError, InputError, InternalError, OwnershipError, PluginError
from noa.plugin import Registry, hookimpl


class PluginWithCommands:
    @hookimpl
    def noa_commands(self) -> list[click.Command]:
        @click.command(cls=NoaCommand)
        @click.option("--json", "as_json", is_flag=True)
        @click.argument("error")
        def breaks(error: str, *, as_json: bool) -> None:
            """Raise an error."""
            kinds = [InputError, OwnershipError, PluginError, AgentLostError, InternalError]
            raise next(kind for kind in kinds if kind.__name__ == error)("what, where, why", part=1)

        return [breaks]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> object:
    def loaded(*_: object) -> Registry:
        registry = Registry()
        registry.register(PluginWithCommands(), "more")
        return registry

    monkeypatch.setattr(Registry, "load", loaded)

    def call_(*args: str) -> Result:
        return CliRunner().invoke(app, args)

    return call_


@pytest.mark.parametrize(
    ("name", "code", "exit_code"),
    [
        ("InputError", "INVALID_RUN_INPUT", 2),
        ("OwnershipError", "RUN_OWNED", 2),
        ("PluginError", "PLUGIN", 2),
        ("AgentLostError", "AGENT_LOST", 1),
        ("InternalError", "INTERNAL", 1),
    ],
)
def test_an_error_is_a_message_with_its_code_and_an_exit_code(
    call: object, name: str, code: str, exit_code: int
) -> None:
    done = call("breaks", name)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"error[{code}]: what, where, why\n")
    assert ("Please report it" in done.stderr) == (name == "InternalError")


def test_an_error_beside_json_is_json_too(call: object) -> None:
    done = call("breaks", "InputError", "--json")
    assert '"code": "INVALID_RUN_INPUT"' in done.stdout
    assert done.exit_code == 2


def test_a_command_of_a_plugin_is_found_by_its_name(call: object) -> None:
    assert "Raise an error." in call("breaks", "--help").stdout
    done = call("brakes")
    assert done.exit_code == 2
    assert "command 'brakes' is not known" in done.stderr
