"""`noa resume`: go on with a run whose process is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, settings_of

if TYPE_CHECKING:
    from noa.cli.drive import Followed
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="resume", short_help="Go on with a run whose process is gone.")
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--all", "all_", is_flag=True, help="Go on with every run that no process drives, instead of RUN.")
@click.option("--adopt", is_flag=True, help="With --all: stay until Ctrl-C, and take over what is abandoned later too.")
@click.option("--no-wait", is_flag=True, help="Leave a run that waits for nothing but people, with exit code 4.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but why a run failed.")
@click.option("--verbose", "-v", is_flag=True, help="Show what tasks log, too.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str | None,
    *,
    all_: bool,
    adopt: bool,
    no_wait: bool,
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
      noa resume --all
      noa resume --all --adopt

    RUN is the id of a run, any beginning of it that is unique, or `latest`. The run keeps the definition with which it
    began, whatever happened to the file since. A run that another live process drives is left alone; one that is over
    cannot be resumed, but perhaps tried again: noa retry --help.

    With --all every run that is not over and that no process drives goes on, and a line is printed for each; the exit
    code is the worst of theirs. With --adopt the process then stays, and also takes over runs whose process dies later,
    until Ctrl-C; runs that go on then are left to a resume.

    Exit codes as of `noa run`.
    """
    from noa.cli.drive import Shown, drive
    from noa.cli.follow import read_past
    from noa.errors import OwnershipError, UsageError

    if (run is None) != all_:
        raise UsageError("give either RUN or --all, such as `noa resume latest`")
    if adopt and not all_:
        raise UsageError("--adopt goes with --all: noa resume --all --adopt")
    settings = settings_of(home, plugins)
    if all_:
        from noa.cli.resume_all import resume_all

        ctx.exit(resume_all(settings, adopt=adopt, wait=not no_wait, as_json=as_json, quiet=quiet))

    async def begin(runtime: Runtime, watch: Watch) -> Running | Followed:
        past = await read_past(runtime, run or "")
        past.show(watch)
        try:
            return await runtime.engine.resume(past.run_id, plan=past.plan)
        except OwnershipError as error:
            if not watch.model.paused:
                raise
            raise UsageError(
                f"run {past.run_id} is driven by another process, and {watch.model.paused} has paused it. "
                f"Let it go on with: noa unpause {past.run_id}"
            ) from error

    ctx.exit(drive(settings, begin, Shown(as_json=as_json, quiet=quiet, verbose=verbose, wait=not no_wait)))
