"""`noa pause`: let nothing more of a run begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="pause", short_help="Let nothing more of a run begin.")
@run_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    *,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Pause RUN: what is going on goes on to its end, nothing more begins until `noa unpause RUN`.

    Sub-workflows that go on are paused with it.

    \b
    Examples:
      noa pause latest
      noa pause 20261122-2215 --reason "the disk is nearly full"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.interventions import Target, Wish, intervene

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        root = histories[0]
        return Target(root, root), Wish(
            "pause", f"run {root.record.run_id}: paused; it goes on with: noa unpause {root.record.run_id}", whole=True
        )

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
