"""`noa fork`: begin a new run that shares the past of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.drive import Followed
    from noa.cli.follow import Past
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="fork", short_help="Begin a new run that shares the past of another one.")
@run_argument
@click.option("--at", required=True, metavar="EVENT", help="Number of the last shared event; or a TASK; or start.")
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="An input to change; repeatable.")
@click.option("--no-wait", is_flag=True, help="Leave a run that waits for nothing but people, with exit code 4.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but why a run failed.")
@click.option("--verbose", "-v", is_flag=True, help="Show what tasks log, too.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    at: str,
    inputs: tuple[str, ...],
    *,
    no_wait: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Begin a new run as RUN was after EVENT, and run it to its end. RUN itself stays as it is, going on or over.

    EVENT is a number as `noa events RUN` prints it, the path of a task (the new run begins just before that was first
    asked for), or `start` (only the definition and the inputs are shared).

    \b
    Examples:
      noa fork latest --at process/inference
      noa fork 20261122-2215 --at 17
      noa fork latest --at start --input limit=10

    An input that is changed is seen by what is asked for after EVENT; what is shared stays as it was. What the shared
    tasks did is not done again, and the new run may undo it: two runs then share one effect.

    RUN is the id of a run, any beginning of it that is unique, or `latest`. Exit codes as of `noa run`.
    """
    from noa.cli.actor import actor_of
    from noa.cli.drive import Shown, drive
    from noa.cli.follow import read_past
    from noa.cli.inputs import read_inputs

    settings = settings_of(home, plugins)
    actor = actor_of(settings)

    async def begin(runtime: Runtime, watch: Watch) -> Running | Followed:
        past = await read_past(runtime, run)
        seq = _event(past, at)
        schemas = {name: spec.schema for name, spec in past.plan.inputs.items()}
        running = await runtime.engine.fork(
            past.run_id,
            at=seq,
            inputs=read_inputs(inputs, None, schemas),
            actor=actor,
            output_uri=runtime.output_uri,
            plan=past.plan,
        )
        _shared(past, seq, running).show(watch)
        watch.tell(f"run {running.run_id} shares the first {seq} events of run {past.run_id}")
        return running

    shown = Shown(as_json=as_json, quiet=quiet, verbose=verbose, wait=not no_wait)
    ctx.exit(drive(settings, begin, shown))


def _event(past: Past, at: str) -> int:
    """The sequence number of the last event that is shared.

    Raises:
        UsageError: There is no such event or task.
    """
    from noa.errors import UsageError
    from noa.model.events import TaskScheduled

    run = past.run_id
    if at == "start":
        return 1
    if at.isascii() and at.isdigit():
        seq = int(at)
        if 1 <= seq <= len(past.events):
            return seq
        raise UsageError(f"--at {at}: run {run} has the events 1 to {len(past.events)}. See them: noa events {run}")
    scheduled = [event.task for event in past.events if isinstance(event, TaskScheduled)]
    if at in scheduled:
        return next(i for i, e in enumerate(past.events) if isinstance(e, TaskScheduled) and e.task == at)
    names = list(dict.fromkeys(scheduled))
    raise UsageError(
        f"--at '{at}': expected the number of an event, 'start', or a task that was asked for in run {run}"
        + (_near(at, [str(name) for name in names]) if names else "; none was")
    )


def _near(at: str, names: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(at, names, 1)
    known = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return f": {known}." + (f" Did you mean '{near[0]}'?" if near else "")


def _shared(past: Past, seq: int, running: Running) -> Past:
    """What the new run has of the old one's past."""
    from dataclasses import replace

    from msgspec.structs import replace as replaced

    created = replaced(
        past.created,
        run_id=running.run_id,
        inputs=running.state.inputs,
        output_uri=running.state.output_uri,
        forked_from=past.run_id,
        forked_at=seq,
    )
    return replace(past, run_id=running.run_id, events=[created, *past.events[1:seq]])
