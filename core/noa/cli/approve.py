"""`noa approve`: let something begin that waits for an approval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="approve", short_help="Let something begin that waits for an approval.")
@run_argument
@click.argument("subject", metavar="[SUBJECT]", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    subject: str | None,
    *,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Approve SUBJECT of RUN, a task or a stage that waits for it; it may be left out where only one thing waits.

    Who may approve, how many have to, and whether who began the run may, stands in the definition. See what waits, and
    what it would do, with `noa approvals`. A task or stage of a sub-workflow is found, too.

    \b
    Examples:
      noa approve latest
      noa approve 20261122-2215 deploy/push --reason "tests are green"
      NOA_ACTOR_TOKEN=noa_… noa approve latest deploy/push

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.approving import subject_of
    from noa.cli.interventions import Wish, intervene

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        target = subject_of(histories, subject)
        name = target.subject
        return target, Wish("approve", f"{name}: approved", name, {"task": name})

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
