"""`noa resume`: go on with a run whose process is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="resume", short_help="Go on with a run whose process is gone.")
@run_argument
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but why a run failed.")
@click.option("--verbose", "-v", is_flag=True, help="Show what tasks log, too.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    *,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Go on with RUN to its end: what was done stays done, what was going on is asked for again.

    \b
    Examples:
      noa resume latest
      noa resume 20261122-2215
      noa resume latest --plugin my_agents.py

    RUN is the id of a run, any beginning of it that is unique, or `latest`. The run keeps the definition with which it
    began, whatever happened to the file since. A run that another live process drives is left alone; one that is over
    cannot be resumed.

    Exit codes as of `noa run`.
    """
    from noa.cli.drive import drive
    from noa.cli.session import find_run, plugin_needed
    from noa.cli.watch import KEPT_TASKS
    from noa.errors import DefinitionError, PluginError
    from noa.model.events import RunCreated
    from noa.monitoring.progress import ProgressModel

    async def begin(runtime: Runtime, watch: Watch) -> Running:
        record = await find_run(runtime.journal, run, runtime.home)
        history = await runtime.journal.read(record.run_id)
        created = history[0][1]
        assert isinstance(created, RunCreated)
        try:
            plan = await runtime.engine.pinned_plan(created)
        except (DefinitionError, PluginError) as error:
            raise plugin_needed(record.run_id, error) from error
        watch.model = ProgressModel(plan, keep=KEPT_TASKS)
        watch.run_id = record.run_id
        for _, event in history:
            watch.model.apply(event)
        return await runtime.engine.resume(record.run_id, plan=plan)

    ctx.exit(drive(settings_of(home, plugins), begin, as_json=as_json, quiet=quiet, verbose=verbose))
