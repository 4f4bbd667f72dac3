"""What all commands share: errors become teaching messages and exit codes, and the options that many of them have."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

if TYPE_CHECKING:
    from noa.errors import NoaError
    from noa.runtime import Settings

__all__ = [
    "NoaCommand",
    "home_option",
    "json_option",
    "plugin_option",
    "print_json",
    "run_argument",
    "settings_of",
    "style",
]

F = TypeVar("F", bound=Callable[..., Any])
_REPORT = "This is a fault of noa. Please report it with the text above and what you did."


class NoaCommand(click.Command):
    """A command that shows each NoaError as `error[CODE]: message`, never as a traceback.

    With `--json` the error is also printed to stdout as `{"error": {...}}`.
    """

    SUCCEEDED: ClassVar[int] = 0
    FAILED: ClassVar[int] = 1
    USAGE: ClassVar[int] = 2
    CANCELLED: ClassVar[int] = 3
    WAITING: ClassVar[int] = 4

    def invoke(self, ctx: click.Context) -> Any:
        from noa.errors import NoaError

        try:
            return super().invoke(ctx)
        except NoaError as error:
            ctx.exit(show_error(error, as_json=bool(ctx.params.get("as_json"))))


def show_error(error: NoaError, *, as_json: bool = False) -> int:
    """Print an error and give the exit code for it."""
    from noa.errors import ConflictError, DefinitionError, InternalError, OwnershipError, PluginError, UsageError

    if isinstance(error, DefinitionError) and error.problems:
        from noa.definitions import explain

        click.echo(explain(error.problems), err=True)
        count = len(error.problems)
        text = f"{count} {'mistake' if count == 1 else 'mistakes'} in the definition"
    else:
        text = error.message
    click.echo(f"{style(f'error[{error.code}]', 'red')}: {text}", err=True)
    if isinstance(error, InternalError):
        click.echo(_REPORT, err=True)
    if as_json:
        print_json({"error": error.to_dict()})
    usage = isinstance(error, (UsageError, DefinitionError, PluginError, OwnershipError, ConflictError))
    return NoaCommand.USAGE if usage else NoaCommand.FAILED


def style(text: str, color: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """Coloured text for click.echo, which takes the colours out where the output is not a terminal."""
    if os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=color, bold=bold or None, dim=dim or None)


def print_json(value: Any) -> None:
    """One JSON value on stdout, readable for people too."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def home_option(command: F) -> F:
    """`--home`: where state lives."""
    return click.option(
        "--home", metavar="DIR", help="Folder of all state. Default: NOA_HOME, else .noa of the working folder."
    )(command)


def plugin_option(command: F) -> F:
    """`--plugin`: single-file plugins."""
    return click.option(
        "--plugin", "plugins", multiple=True, metavar="FILE.py", help="A single-file plugin to load too; repeatable."
    )(command)


def json_option(command: F) -> F:
    """`--json`: output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def run_argument(command: F) -> F:
    """The argument RUN."""
    return click.argument("run", metavar="RUN")(command)


def settings_of(home: str | None, plugins: tuple[str, ...] = ()) -> Settings:
    """The settings that the options mean."""
    from pathlib import Path

    from noa.runtime import Settings

    return Settings(home=Path(home), plugins=plugins) if home else Settings(plugins=plugins)


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()
