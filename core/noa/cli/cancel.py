"""`noa cancel`: end a run, whoever drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store
    from noa.plugin import RunRecord
    from noa.runtime import Runtime, Settings

__all__ = ["command"]

_POLL_S = 0.1
_ENDED = {"cancelled": "cancelled", "rolled_back": "cancelled, and what it did is undone"}


@click.command(cls=NoaCommand, name="cancel", short_help="End a run, also one that no process drives now.")
@run_argument
@click.option("--task", metavar="TASK", help="End only this task; what depends on it is not run.")
@click.option("--stage", metavar="STAGE", help="End only this stage; one that is held does not open.")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the run's events.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    *,
    task: str | None,
    stage: str | None,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """End RUN: what is going on is told to end, nothing new begins, and everything that agents hold for it is released.

    The wish is recorded durably before anything else. A live process that drives the run sees it within a moment;
    where there is none, this command takes the run over and ends it. RUN is the id of a run, any beginning of it that
    is unique, or `latest`.

    \b
    Examples:
      noa cancel latest
      noa cancel 20261122-2215 --reason "wrong folder"
      noa cancel latest --task test/slow
      noa cancel latest --stage deploy --reason "enough for today"

    With --task or --stage only that ends, and the run goes on as its definition says; without an engine that drives the
    run, it counts once `noa resume RUN` goes on.

    A run with `on_failure: rollback` then undoes what it did; cancelled once more, it stops undoing.

    Exit codes: 0 it is cancelled, 1 it ended otherwise before it could be, 2 there is no such run or it was over.
    """
    from noa.cli.actor import actor_of
    from noa.cli.session import OVER, find_run, open_store, run_async
    from noa.cli.signals import put_signal
    from noa.errors import RunStateError, UsageError
    from noa.runtime import Runtime

    settings = settings_of(home, plugins)
    if task and stage:
        raise UsageError("give either --task or --stage")
    if task or stage:
        _cancel_part(ctx, settings, run, "task" if task else "stage", task or stage or "", reason, as_json=as_json)
    actor = actor_of(settings)

    async def end() -> str:
        async with open_store(settings):
            pass  # says so where there is no store, instead of making one
        async with Runtime(settings) as runtime:
            record = await find_run(runtime.journal, run, runtime.home)
            if record.status == "cancelled":
                return _told(record, record.status, as_json)
            if record.status in OVER:
                raise RunStateError(
                    f"run {record.run_id} is over: it {record.status.replace('_', ' ')}", run=record.run_id
                )
            await put_signal(runtime.journal, record.run_id, "cancel", reason=reason, actor=actor)
            return _told(record, await _ended(runtime, record), as_json)

    status = run_async(end)
    ctx.exit(NoaCommand.SUCCEEDED if status in _ENDED else NoaCommand.FAILED)


def _cancel_part(
    ctx: click.Context, settings: Settings, run: str, what: str, name: str, reason: str, *, as_json: bool
) -> None:
    """End a task or a stage; ends the command."""
    from noa.cli.interventions import Wish, intervene, target_of

    def wish(_store: Store, histories: list[History]) -> tuple[Target, Wish]:
        return target_of(histories, name), Wish("cancel", f"{name}: is ended", name, {what: name})

    intervene(ctx, settings, run, wish, reason=reason, as_json=as_json)


async def _ended(runtime: Runtime, record: RunRecord) -> str:
    """Wait for the end, and bring it about where nobody drives the run; the last status."""
    import asyncio

    from noa.cli.session import OVER, plugin_needed
    from noa.errors import DefinitionError, OwnershipError, PluginError, RunStateError

    while True:
        try:
            running = await runtime.engine.resume(record.run_id)
            return (await running.wait()).status
        except OwnershipError:
            pass  # a live engine has it, and sees the signal
        except RunStateError:
            pass  # it has just ended
        except (DefinitionError, PluginError) as error:
            raise plugin_needed(record.run_id, error) from error
        current = await runtime.journal.run(record.run_id)
        if current.status in OVER:
            return current.status
        await asyncio.sleep(_POLL_S)


def _told(record: RunRecord, status: str, as_json: bool) -> str:
    if as_json:
        print_json({"run_id": record.run_id, "status": status})
    else:
        said = _ENDED.get(status) or f"{status} before it could be cancelled"
        if status == "rollback_failed":
            said = f"cancelled, but not all that it did could be undone. Go on with: noa retry {record.run_id}"
        click.echo(f"run {record.run_id}: {said}")
    return status
