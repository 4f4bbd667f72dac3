"""`noa skip`: let a run go on without a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="skip", short_help="Let a run go on without a task.")
@run_argument
@click.argument("task", metavar="TASK")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    task: str,
    *,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Skip TASK of RUN: it counts as skipped, and what depends on it goes on without its outputs.

    A task that is going on is ended first. A task of a sub-workflow is found, too.

    \b
    Examples:
      noa skip latest test/slow
      noa skip latest test/slow --reason "flaky today"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.interventions import Wish, intervene, target_of

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        return target_of(histories, task), Wish("skip", f"{task}: is skipped", task, {"task": task})

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
