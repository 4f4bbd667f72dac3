"""`noa reassign`: give a task to another agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="reassign", short_help="Give a task to another agent.")
@run_argument
@click.argument("task", metavar="TASK")
@click.argument("agent", metavar="AGENT")
@click.argument("action", metavar="[ACTION]", required=False)
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    task: str,
    agent: str,
    action: str | None,
    *,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Give TASK of RUN, which has not begun, to AGENT: for the same action, or for ACTION.

    An approval that was given before is asked for again. A task of a sub-workflow is found, too.

    \b
    Examples:
      noa reassign latest process/inference rust
      noa reassign latest build/wheel go compile --reason "python is busy"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.interventions import Wish, intervene, target_of

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        body = {"task": task, "agent": agent, **({"action": action} if action else {})}
        asked = f" for '{action}'" if action else ""
        return target_of(histories, task), Wish("reassign", f"{task}: agent '{agent}' is asked{asked}", task, body)

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
