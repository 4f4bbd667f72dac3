"""`noa override`: give the outputs of a task in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="override", short_help="Give the outputs of a task in its place.")
@run_argument
@click.argument("task", metavar="TASK")
@click.option("--outputs", required=True, metavar="JSON|@FILE", help="The outputs that the task is to have.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    task: str,
    *,
    outputs: str,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Let TASK of RUN succeed with these outputs, which nobody has to compute.

    They are checked against what the task's action gives, where the agent says so. A task that is going on is ended
    first, and what it gives does not count. A task of a sub-workflow is found, too.

    \b
    Examples:
      noa override latest price/quote --outputs '{"cents": 990}' --reason "agreed by phone"
      noa override latest price/quote --outputs @quote.json --reason "service is down"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.interventions import Wish, intervene, json_object, target_of

    given = json_object("--outputs", outputs, f"""noa override {run} {task} --outputs '{{"field": 1}}' --reason TEXT""")

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        body = {"task": task, "outputs": given}
        return target_of(histories, task), Wish("override", f"{task}: has the outputs that you gave", task, body)

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
