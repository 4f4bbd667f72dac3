"""`noa reject`: refuse what waits for an approval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="reject", short_help="Refuse what waits for an approval.")
@run_argument
@click.argument("subject", metavar="[SUBJECT]", required=False)
@click.option("--reason", required=True, metavar="TEXT", help="Why; stands in the audit log.")
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
    """Reject SUBJECT of RUN, a task or a stage that waits for an approval: it fails with the code REJECTED.

    Its recovery chain is not asked. SUBJECT may be left out where only one thing waits; a task or stage of a
    sub-workflow is found, too. See what waits with `noa approvals`.

    \b
    Examples:
      noa reject latest --reason "not on a Friday"
      noa reject 20261122-2215 deploy/push --reason "wrong target"

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
        return target, Wish("reject", f"{name}: rejected", name, {"task": name})

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
