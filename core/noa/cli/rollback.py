"""`noa rollback`: undo a run that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.drive import Followed
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="rollback", short_help="Undo a run that is over, by its compensations.")
@run_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the run's events.")
@click.option("--no-wait", is_flag=True, help="Leave a run that waits for nothing but people, with exit code 4.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but what could not be undone.")
@click.option("--verbose", "-v", is_flag=True, help="Show what tasks log, too.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    *,
    reason: str,
    no_wait: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Undo RUN, which is over: the `compensate` of each task that was done, those first that depended on others.

    \b
    Examples:
      noa rollback latest
      noa rollback 20261122-2215 --reason "ordered twice"

    Tasks without `compensate` are left as they are. A compensation that fails for good leaves the run half undone and
    says what is left; `noa retry RUN` then goes on. A run that goes on now is cancelled first: noa cancel RUN.

    RUN is the id of a run, any beginning of it that is unique, or `latest`.

    Exit codes: 0 it is undone, 1 something is left, 2 there is no such run or it cannot be undone, 3 interrupted,
    4 waiting for a person.
    """
    from noa.cli.actor import actor_of
    from noa.cli.drive import Shown, drive
    from noa.cli.follow import check_over, read_past

    settings = settings_of(home, plugins)
    actor = actor_of(settings)

    async def begin(runtime: Runtime, watch: Watch) -> Running | Followed:
        past = await read_past(runtime, run)
        await check_over(runtime, past, instead=f"or end it first with `noa cancel {past.run_id}`")
        past.show(watch)
        return await runtime.engine.reopen(past.run_id, rollback=True, actor=actor, reason=reason, plan=past.plan)

    shown = Shown(as_json=as_json, quiet=quiet, verbose=verbose, wait=not no_wait, undoes=True)
    ctx.exit(drive(settings, begin, shown))
