"""`noa run`: run a workflow to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, settings_of

if TYPE_CHECKING:
    from noa.cli.watch import Watch
    from noa.engine.engine import Running
    from noa.runtime import Runtime

__all__ = ["command"]


@click.command(cls=NoaCommand, name="run", short_help="Run a workflow to its end.")
@click.argument("file", metavar="FILE")
@click.option("--input", "-i", "inputs", multiple=True, metavar="NAME=VALUE", help="One input of the run; repeatable.")
@click.option("--inputs", "inputs_file", metavar="FILE.json", help="A JSON object with inputs; - reads stdin.")
@click.option("--run-id", metavar="ID", help="Name of the run. Default: made from the time.")
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
    *,
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

    The VALUE of --input is read as the type that the definition declares for that input. Where it declares none, VALUE
    is JSON if it reads as JSON (100, true, null, [1, 2], {"a": 1}), otherwise text.

    On a terminal the run is drawn live; elsewhere one line is printed for each stage and task that begins or ends. With
    --json stdout gets one JSON object at the end, and nothing else.

    Ctrl-C cancels the run; a second Ctrl-C stops at once, and `noa resume RUN` then finishes the cancellation. Should
    the process die, nothing that was done is lost: `noa resume RUN` goes on.

    Exit codes: 0 succeeded, 1 failed, 2 the definition or the call is wrong, 3 cancelled, 4 waiting.
    """
    from noa.cli.drive import drive
    from noa.cli.inputs import read_inputs
    from noa.errors import Problem, UsageError
    from noa.model.ids import RunId
    from noa.monitoring.progress import ProgressModel

    if run_id is not None and not _is_name(run_id):
        raise UsageError(f"--run-id '{run_id}': expected 1 to 100 letters, digits, '-' and '_', and not 'latest'")

    async def begin(runtime: Runtime, watch: Watch) -> Running:
        from noa.cli.watch import KEPT_TASKS
        from noa.definitions import explain

        warnings: list[Problem] = []
        plan = runtime.load(file, warnings=warnings)
        if warnings:
            watch.say(explain(warnings))
        given = read_inputs(inputs, inputs_file, {name: spec.schema for name, spec in plan.inputs.items()})
        watch.model = ProgressModel(plan, keep=KEPT_TASKS)
        return await runtime.start(plan, given, run_id=RunId(run_id) if run_id else None)

    ctx.exit(drive(settings_of(home, plugins), begin, as_json=as_json, quiet=quiet, verbose=verbose))


def _is_name(run_id: str) -> bool:
    plain = run_id.replace("-", "").replace("_", "")
    return run_id != "latest" and len(run_id) <= 100 and plain.isascii() and plain.isalnum()
