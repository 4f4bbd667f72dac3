"""`noa edit`: change the inputs of a task that has not begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.interventions import Target, Wish
    from noa.cli.session import History, Store

__all__ = ["command"]


@click.command(cls=NoaCommand, name="edit", short_help="Change the inputs of a task that has not begun.")
@run_argument
@click.argument("task", metavar="TASK")
@click.option("--input", "-i", "pairs", multiple=True, metavar="NAME=VALUE", help="One input; repeatable.")
@click.option("--inputs", metavar="JSON|@FILE", help="A JSON object with inputs.")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the audit log.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    task: str,
    *,
    pairs: tuple[str, ...],
    inputs: str | None,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Change inputs of TASK of RUN, which has not begun: those that are named; the others stay.

    VALUE is read as the type that the action declares for that input; where it declares none, as JSON where it reads as
    JSON, else as text. The whole is checked against what the action takes. An approval that was given before is asked
    for again. A task of a sub-workflow is found, too.

    \b
    Examples:
      noa edit latest deploy/push --input region=eu
      noa edit latest deploy/push --inputs @inputs.json
      noa edit latest load/read -i limit=10 --reason "a sample will do"

    It is recorded durably before anything else, with who and why. A live process that drives the run takes it within a
    moment; where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of
    it that is unique, or `latest`.

    Exit codes: 0 it is so, or recorded, 1 it was refused, 2 the call is wrong or the run is over.
    """
    from noa.cli.inputs import read_inputs
    from noa.cli.interventions import Wish, intervene, json_object, known_of, target_of
    from noa.errors import UsageError
    from noa.model.ids import TaskPath

    if not pairs and inputs is None:
        raise UsageError(f"say what is to change: noa edit {run} {task} --input NAME=VALUE")
    example = f"""noa edit {run} {task} --inputs '{{"field": 1}}'"""
    whole = json_object("--inputs", inputs, example) if inputs is not None else {}

    def wish(store: Store, histories: list[History]) -> tuple[Target, Wish]:
        target = target_of(histories, task)
        state, schemas = target.history.state, {}
        node = state.tasks.get(TaskPath(task)) if state is not None else None
        if state is not None and node is not None:
            info = known_of(store.registry, state.plan).action(node.agent, node.action)
            schemas = dict(info.input_schema.get("properties", {})) if info is not None else {}
        given = {**whole, **read_inputs(pairs, None, schemas)}
        changed = ", ".join(given)
        return target, Wish("edit", f"{task}: changed {changed}", task, {"task": task, "inputs": given})

    intervene(ctx, settings_of(home, plugins), run, wish, reason=reason, as_json=as_json)
