"""`noa run`: run a workflow to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, settings_of

if TYPE_CHECKING:
    from noa.cli.drive import Followed
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.errors import RunKeyError
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="run", short_help="Run a workflow to its end.")
@click.argument("file", metavar="FILE")
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="One input of the run; repeatable.")
@click.option("--inputs", "inputs_file", metavar="FILE.json", help="A JSON object with inputs; - reads stdin.")
@click.option("--run-id", metavar="ID", help="Name of the run. Default: made from the time.")
@click.option("--run-key", metavar="KEY", help="Begin it once: the same key again gives the same run.")
@click.option("--mode", default="", metavar="MODE", help="auto, supervised or debug. Default: the definition's.")
@click.option("--no-wait", is_flag=True, help="Leave a run that waits for nothing but people, with exit code 4.")
@click.option(
    "--adopt", is_flag=True, help="Meanwhile take over runs whose process is gone, and see them to their end."
)
@click.option(
    "--no-learn", is_flag=True, help="Begin what can begin in the order of the file, and let later runs learn nothing."
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but why a run failed.")
@click.option("--verbose", "-v", is_flag=True, help="Show what tasks log, too.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    file: str,
    inputs: tuple[str, ...],
    inputs_file: str | None,
    run_id: str | None,
    run_key: str | None,
    *,
    mode: str,
    no_wait: bool,
    adopt: bool,
    no_learn: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Run the workflow in FILE (YAML or JSON) to its end, and show it while it goes on.

    \b
    Examples:
      noa run definitions/unified-pipeline.yaml --input path=.
      noa run etl.yaml -i day=2026-11-22 -i limit=100 -i 'tags=["a","b"]'
      noa run etl.yaml --inputs inputs.json --json > result.json
      noa run hello.yaml --plugin my_agents.py
      noa run bill.yaml --run-key invoices-2026-11 -i month=2026-11
      noa run release.yaml --no-wait
      noa run release.yaml --mode supervised

    The VALUE of --input is read as the type that the definition declares for that input. Where it declares none, VALUE
    is JSON if it reads as JSON (100, true, null, [1, 2], {"a": 1}), otherwise text.

    On a terminal the run is drawn live; elsewhere one line is printed for each stage and task that begins or ends. With
    --json stdout gets one JSON object at the end, and nothing else.

    Ctrl-C cancels the run; a second Ctrl-C stops at once, and `noa resume RUN` then finishes the cancellation. Should
    the process die, nothing that was done is lost: `noa resume RUN` goes on.

    The mode says who is waited for. In `supervised` approvals and questions wait for a person, in `auto` nobody is
    waited for, in `debug` the run stops where a debugger wants it to. `noa mode RUN MODE` changes it on the way.

    A run that asks a person says what, and which command answers; it stays until somebody does. With --no-wait it is
    left as soon as nothing but people moves it on, and `noa resume RUN` goes on once they have answered.

    With --run-key there is one run of that key in the store. Given again, with the same definition and inputs, the run
    of that key is what this command is about: its result is printed if it is over, it is followed to its end if another
    process drives it, and resumed if nobody does. With another definition or other inputs the call is refused.

    What could begin at once begins by what earlier runs of the workflow took, the longest way to the end first;
    `noa optimize WORKFLOW` shows what was learned. --no-learn leaves that out for this run.

    With --adopt the process also takes over runs whose process is gone, and stays until those are over too.

    Exit codes: 0 succeeded, 1 failed or rolled back, 2 the definition or the call is wrong, 3 cancelled, 4 waiting for
    a person.
    """
    from dataclasses import replace

    from noa.cli.actor import actor_of
    from noa.cli.drive import Shown, drive
    from noa.cli.inputs import read_inputs
    from noa.errors import Problem, RunKeyError, UsageError
    from noa.model.ids import RunId
    from noa.monitoring.progress import ProgressModel

    if run_id is not None and not _is_name(run_id):
        raise UsageError(f"--run-id '{run_id}': expected 1 to 100 letters, digits, '-' and '_', and not 'latest'")

    if run_key is not None and not run_key.strip():
        raise UsageError("--run-key is empty: name what the run is for, such as invoices-2026-11")

    settings = settings_of(home, plugins)
    if no_learn:
        settings = replace(settings, learn=False)
    actor = actor_of(settings)

    async def begin(runtime: Runtime, watch: Watch) -> Running | Followed:
        from noa.cli.watch import KEPT_TASKS
        from noa.definitions import explain

        warnings: list[Problem] = []
        plan = runtime.load(file, warnings=warnings)
        if warnings:
            watch.say(explain(warnings))
        given = read_inputs(inputs, inputs_file, {name: spec.schema for name, spec in plan.inputs.items()})
        watch.model = ProgressModel(plan, keep=KEPT_TASKS)
        try:
            return await runtime.engine.start(
                plan,
                given,
                run_id=RunId(run_id) if run_id else None,
                actor=actor,
                output_uri=runtime.output_uri,
                key=run_key or "",
                mode=mode,
            )
        except RunKeyError as error:
            return await _again(runtime, watch, error, wait=not no_wait)

    shown = Shown(as_json=as_json, quiet=quiet, verbose=verbose, wait=not no_wait, adopt=adopt)
    ctx.exit(drive(settings, begin, shown))


async def _again(runtime: Runtime, watch: Watch, error: RunKeyError, *, wait: bool) -> Followed:
    """The run that was begun under the same key, for the same work."""
    from noa.cli.drive import Followed
    from noa.cli.follow import follow, read_past
    from noa.cli.session import is_driven
    from noa.errors import UsageError

    if not error.same:
        raise UsageError(
            f"{error.message}. Nothing was begun. See it with `noa show {error.run_id}`, or give another --run-key",
            run_id=error.run_id,
            key=error.key,
        )
    past = await read_past(runtime, error.run_id)
    past.show(watch)
    if watch.model.finished_ms:
        what = "it is over, and this is its result"
    elif is_driven(await runtime.journal.run(past.run_id)):
        what = "another process drives it; it is followed to its end"
    else:
        what = "nobody drives it; it goes on here"
    watch.write(f"run {past.run_id} was begun under the key '{error.key}' before: {what}")
    return Followed(past.run_id, lambda: follow(runtime, watch, past, wait=wait))


def _is_name(run_id: str) -> bool:
    plain = run_id.replace("-", "").replace("_", "")
    return run_id != "latest" and len(run_id) <= 100 and plain.isascii() and plain.isalnum()
