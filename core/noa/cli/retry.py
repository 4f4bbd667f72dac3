"""`noa retry`: go on with a run that is over; what succeeded is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.drive import Followed
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime, Settings

__all__ = ["command"]


@click.command(cls=NoaCommand, name="retry", short_help="Try again what failed of a run; what succeeded is kept.")
@run_argument
@click.option("--from", "from_task", default="", metavar="TASK", help="Do TASK and all that depends on it again, too.")
@click.option("--task", metavar="TASK", help="Try only TASK again, now, of a run that is not over.")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the run's events.")
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
    from_task: str,
    *,
    task: str | None,
    reason: str,
    no_wait: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Go on with RUN, which failed or was cancelled: its tasks that succeeded are kept, the others are done again.

    \b
    Examples:
      noa retry latest
      noa retry 20261122-2215 --reason "the disk is back"
      noa retry latest --from process/inference
      noa retry latest --task process/inference

    It is the same run, with its definition and inputs as they were. With --from a task that succeeded is done again as
    well, with everything that depends on it. Of a run whose rollback stopped half way, the rollback goes on. A run that
    was rolled back has nothing left to go on with: begin a new one, or fork it (noa fork --help).

    With --task the run is one that goes on: TASK, which waits for its next attempt or for a person after it failed, is
    tried at once. Exit codes are then 0 it is so, or recorded, 1 it was refused, 2 the call is wrong.

    RUN is the id of a run, any beginning of it that is unique, or `latest`. Exit codes as of `noa run`.
    """
    from noa.cli.actor import actor_of
    from noa.cli.drive import Shown, drive
    from noa.cli.follow import check_over, read_past

    settings = settings_of(home, plugins)
    if task is not None:
        _retry_now(ctx, settings, run, task, reason, as_json=as_json)
    actor = actor_of(settings)

    async def begin(runtime: Runtime, watch: Watch) -> Running | Followed:
        past = await read_past(runtime, run)
        await check_over(runtime, past, instead=f"wait for its end, or end it with `noa cancel {past.run_id}`")
        past.show(watch)
        return await runtime.engine.reopen(past.run_id, from_task=from_task, actor=actor, reason=reason, plan=past.plan)

    shown = Shown(as_json=as_json, quiet=quiet, verbose=verbose, wait=not no_wait)
    ctx.exit(drive(settings, begin, shown))


def _retry_now(ctx: click.Context, settings: Settings, run: str, task: str, reason: str, *, as_json: bool) -> None:
    """Try a task of a run that goes on again at once; ends the command."""
    from noa.cli.interventions import Wish, intervene, target_of

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        return target_of(histories, task), Wish("retry", f"{task}: is tried again", task, {"task": task})

    intervene(ctx, settings, run, wish, reason=reason, as_json=as_json)
