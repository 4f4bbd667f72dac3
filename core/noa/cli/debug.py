"""`noa debug`: an interactive debugger for runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, plugin_option, settings_of

if TYPE_CHECKING:
    from noa.runtime import Settings

__all__ = ["command"]


@click.command(cls=NoaCommand, name="debug", short_help="Step through a run, stop it, look around, go back in time.")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="One input of the run; repeatable.")
@click.option("--inputs", "inputs_file", metavar="FILE.json", help="A JSON object with inputs.")
@click.option("--attach", "run", metavar="RUN", help="Debug a run of the store instead of a new one.")
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str | None,
    inputs: tuple[str, ...],
    inputs_file: str | None,
    run: str | None,
    *,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Debug the workflow in FILE, or a run that exists already.

    \b
    Examples:
      noa debug release.yaml --input version=1.4
      noa debug --attach latest
      printf 'break test.unit\\nrun\\ninputs\\nkill\\n' | noa debug release.yaml

    The commands are those of other debuggers: break, run, step, next, continue, where, print, list; `help` shows all
    of them. `step` lets one task go, `next` goes on to the next stage. `back` shows the run as it was before, `set`
    changes the inputs of a task before it begins, `retry`, `skip` and `override` say how a task goes on. Ctrl-C stops a
    run that goes on. Commands can also come from a pipe.

    A run that is attached to stops before the next task that begins; `detach` gives it back. One that nobody drives
    goes on in this process. One that is over is looked at from its beginning, and nothing of it changes.

    `quit` leaves a run stopped, and says how to go on with it. RUN is the id of a run, any beginning of it that is
    unique, or `latest`.

    Exit codes: 0 succeeded or only looked at, 1 failed, 2 the definition or the call is wrong, 3 cancelled, 4 left
    before its end.
    """
    from noa.errors import UsageError

    if (file is None) == (run is None):
        raise UsageError("name either a FILE, such as `noa debug release.yaml`, or a run: `noa debug --attach latest`")
    if run is not None and (inputs or inputs_file):
        raise UsageError("a run that exists has its inputs already: --input goes with FILE")
    if inputs_file == "-":
        raise UsageError("stdin gives the debugger's commands: name a file for --inputs")
    ctx.exit(_session(settings_of(home, plugins), file, run, (inputs, inputs_file)))


def _session(settings: Settings, file: str | None, run: str | None, given: tuple[tuple[str, ...], str | None]) -> int:
    import noa.cli.debugging.looking
    import noa.cli.debugging.moving  # noqa: F401  both bring their commands
    from noa.cli.debugging.host import Host
    from noa.cli.debugging.prompt import Prompt
    from noa.cli.debugging.terminal import Loop, Terminal

    if run is not None:
        Host.check_home(settings)
    loop = Loop()
    host = Host(settings)
    prompt = Prompt(host.runtime.home / "debug_history")
    try:
        loop.call(host.__aenter__())
        terminal = Terminal(host, loop, prompt)
        if file is not None:
            _load(terminal, file, given)
        else:
            terminal.take(loop.call(host.attach(str(run)), patient=True))
        prompt.begin(terminal.complete)
        terminal.session(lambda: _arrive(terminal) if run is not None else None)
        prompt.end()
        return _code(terminal, attached=run is not None)
    finally:
        loop.call(host.__aexit__(), patient=True)
        loop.close()


if TYPE_CHECKING:
    from noa.cli.debugging.terminal import Terminal


def _load(terminal: Terminal, file: str, given: tuple[tuple[str, ...], str | None]) -> None:
    from noa.cli.inputs import read_inputs
    from noa.cli.text import plural
    from noa.definitions.inputs import check_inputs
    from noa.modes.places import places

    plan = terminal.host.load(file)
    pairs, inputs_file = given
    inputs = read_inputs(pairs, inputs_file, {name: spec.schema for name, spec in plan.inputs.items()})
    check_inputs(plan, inputs)
    terminal.plan, terminal.inputs = plan, inputs
    size = f"{plural(len(plan.stages), 'stage')}, {plural(len(places(plan)), 'task')}"
    title = f"{plan.name} {plan.version}".strip()
    terminal.say(f"{title} ({terminal.name}): {size}. `run` begins it, `help` explains")


def _arrive(terminal: Terminal) -> None:
    """Say where a run stands that was attached to."""
    assert terminal.target is not None
    terminal.say(terminal.target.how)
    if terminal.bug.state.finished:
        terminal.looked(terminal.replay.go_to(1))
    else:
        terminal.wait(terminal.bug.wait_stop())


def _code(terminal: Terminal, *, attached: bool) -> int:
    from noa.cli.summary import exit_code

    if terminal.target is None:
        return NoaCommand.SUCCEEDED
    state = terminal.target.debugger.state
    if attached and terminal.target.running is None:
        return NoaCommand.SUCCEEDED
    return exit_code(state.status if state.finished else "waiting")
