"""`noa mode`: go on with a run in another mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="mode", short_help="Go on with a run in another mode.")
@run_argument
@click.argument("mode", metavar="MODE")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    mode: str,
    *,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Go on with RUN in MODE: `auto`, `supervised`, `debug`, or one of a plugin.

    In `auto` what waits for a person is answered at once as its definition says for the case that nobody comes in time.
    In `supervised` approvals and questions wait. In `debug` the run stops before the next task as well.
    Sub-workflows that go on change with it.

    \b
    Examples:
      noa mode latest supervised
      noa mode 20261122-2215 auto --reason "nobody is here tonight"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.interventions import Target, Wish, intervene

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        root = histories[0]
        return Target(root, root), Wish(
            "mode", f"run {root.record.run_id}: goes on in mode '{mode}'", body={"mode": mode}, whole=True
        )

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
