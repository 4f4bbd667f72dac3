"""The group of commands. Commands are found by name and imported when they are needed; plugins add more."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

from noa.cli.command import NoaCommand

__all__ = ["COMMANDS", "LazyGroup", "app", "main"]

COMMANDS: dict[str, str] = {
    "run": "Run a workflow to its end.",
    "validate": "Check a definition; shows every mistake with its line.",
    "plan": "Show what a definition would do: stages, tasks, dependencies.",
    "runs": "List runs, newest first.",
    "show": "Show one run: its stages, tasks, inputs and outputs.",
    "why": "Say what a run is waiting for.",
    "events": "Print what happened in a run, in order.",
    "logs": "Print what the tasks of a run logged.",
    "cancel": "End a run, also one that no process drives now.",
    "resume": "Go on with a run whose process is gone.",
    "approvals": "Show what waits for a person, in all runs.",
    "approve": "Let something begin that waits for an approval.",
    "reject": "Refuse what waits for an approval.",
    "answer": "Say how a task goes on that waits for a person.",
    "pause": "Let nothing more of a run begin.",
    "unpause": "Let a paused run go on.",
    "mode": "Go on with a run in another mode.",
    "skip": "Let a run go on without a task.",
    "override": "Give the outputs of a task in its place.",
    "edit": "Change the inputs of a task that has not begun.",
    "reassign": "Give a task to another agent.",
    "retry": "Try again what failed of a run; what succeeded is kept.",
    "fork": "Begin a new run that shares the past of another one.",
    "rollback": "Undo a run that is over, by its compensations.",
    "audit": "Show who decided what about a run; verify its history.",
    "token": "Let people act under names of their own.",
    "debug": "Step through a run, stop it, look around, go back in time.",
    "dap": "Serve the debugger to an editor (Debug Adapter Protocol).",
    "optimize": "Show what past runs of a workflow taught, what it gained, and what to change.",
    "agents": "List the agents that definitions can name.",
    "agent": "Check that an agent keeps the contract.",
    "plugins": "List the plugins that are loaded.",
    "new": "Begin a package of your own: an agent or a plugin.",
    "schema": "Print the JSON Schema of definitions.",
    "doctor": "Find what is wrong with the store, and mend it.",
    "gc": "Remove old runs, and what nothing refers to any more.",
}
"""Name -> one sentence for `noa --help`; the command itself is `command` in `noa.cli.<name>`."""

_HELP = """Run workflows whose tasks are done by agents in any language.

\b
Begin here:
  noa run definitions/unified-pipeline.yaml --input path=.
  noa validate my-workflow.yaml
  noa runs

State lives in .noa of the working folder, or where NOA_HOME or --home says. A run whose process dies goes on with
`noa resume RUN`, one that failed with `noa retry RUN`. Each command explains itself with examples: noa run --help.

\b
Exit codes: 0 succeeded, 1 the run failed, 2 the definition or the call is wrong, 3 cancelled, 4 waiting.
"""


class LazyGroup(click.Group):
    """A group that imports a command when it is called. An unknown name is looked for among the plugins' commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = import_module(f"noa.cli.{cmd_name}").command
            return command
        return None if ctx.resilient_parsing else self._of_plugins().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.UsageError(_unknown(args[0]), ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def _of_plugins(self) -> dict[str, click.Command]:
        from noa.plugin import Registry

        return {item.name: item for item in Registry.load().commands if isinstance(item, click.Command) and item.name}


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"command '{name}' is not known. Known: {', '.join(COMMANDS)}.{hint}"


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"noa {version('noa-workflow')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
              help="Show the version and exit.")  # fmt: skip
def app() -> None:
    """The program."""


def main(args: list[str] | None = None) -> Any:
    """Entry point of the program; ends the process with the exit code that section 10 of the design gives."""
    color = False if os.environ.get("NO_COLOR") else None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a run
    try:
        code = app.main(args, prog_name="noa", standalone_mode=False, color=color)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = NoaCommand.CANCELLED
    except BrokenPipeError:
        code = _reader_gone()
    except OSError as error:
        if not _came_from_output(error):
            raise
        code = _output_lost(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = _reader_gone()
    except OSError as error:
        code = _output_lost(error)
    sys.exit(code if isinstance(code, int) else 0)


def _reader_gone() -> int:
    """The reader of our output went away, as in `noa runs | head -1`: end as a program that got SIGPIPE does."""
    _drop_buffered()
    return 128 + signal.SIGPIPE


def _came_from_output(error: OSError) -> bool:
    """Whether printing failed; another file's fault must not pass for it."""
    import traceback  # only on this way: it costs milliseconds at every start

    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _output_lost(error: OSError) -> int:
    """Our output could not be written, such as to a full device: nobody must take what is there for all of it."""
    _drop_buffered()
    with contextlib.suppress(OSError):
        click.echo(f"error: the output could not be written: {error.strerror or error}", err=True)
    return NoaCommand.FAILED


def _drop_buffered() -> None:
    """What is still buffered must not be written again when the interpreter ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
