"""`noa cancel`: end a run, whoever drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from noa.plugin import RunRecord
    from noa.runtime import Runtime

__all__ = ["command"]

_POLL_S = 0.1
_ENDED = {"cancelled": "cancelled", "rolled_back": "cancelled, and what it did is undone"}


@click.command(cls=NoaCommand, name="cancel", short_help="End a run, also one that no process drives now.")
@run_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the run's events.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context, run: str, *, reason: str, as_json: bool, plugins: tuple[str, ...], home: str | None
) -> None:
    """End RUN: what is going on is told to end, nothing new begins, and everything that agents hold for it is released.

    The wish is recorded durably before anything else. A live process that drives the run sees it within a moment;
    where there is none, this command takes the run over and ends it. RUN is the id of a run, any beginning of it that
    is unique, or `latest`.

    \b
    Examples:
      noa cancel latest
      noa cancel 20261122-2215 --reason "wrong folder"

    A run with `on_failure: rollback` then undoes what it did; cancelled once more, it stops undoing.

    Exit codes: 0 it is cancelled, 1 it ended otherwise before it could be, 2 there is no such run or it was over.
    """
    from noa.cli.session import OVER, find_run, open_store, run_async
    from noa.cli.signals import put_signal
    from noa.errors import RunStateError
    from noa.runtime import Runtime

    settings = settings_of(home, plugins)

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
            await put_signal(runtime.journal, record.run_id, "cancel", reason=reason)
            return _told(record, await _ended(runtime, record), as_json)

    status = run_async(end)
    ctx.exit(NoaCommand.SUCCEEDED if status in _ENDED else NoaCommand.FAILED)


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
