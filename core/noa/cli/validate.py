"""`noa validate`: every mistake of a definition, with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, json_option, plugin_option, print_json, show_error

if TYPE_CHECKING:
    from noa.errors import Problem
    from noa.model.plan import Plan

__all__ = ["command"]


@click.command(cls=NoaCommand, name="validate", short_help="Check a definition; shows every mistake with its line.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
@plugin_option
@click.pass_context
def command(ctx: click.Context, files: tuple[str, ...], *, as_json: bool, plugins: tuple[str, ...]) -> None:
    """Check each FILE and show all of its mistakes at once: file, line, column, the source line, and what was expected.

    Nothing is run and no agent is started. Warnings do not make a definition invalid.

    \b
    Examples:
      noa validate definitions/unified-pipeline.yaml
      noa validate definitions/*.yaml
      noa validate etl.yaml --json

    With --json: {"valid": true, "files": [{"file", "valid", "problems": [...]}]}.

    Exit codes: 0 all are valid, 2 at least one is not.
    """
    from noa.definitions import explain, load_plan
    from noa.errors import DefinitionError, UsageError
    from noa.orchestration import host_resources
    from noa.plugin import Registry

    registry = Registry.load(plugins)
    resources = host_resources()
    results = []
    for file in files:
        problems: list[Problem] = []
        try:
            plan = load_plan(file, registry=registry, host_resources=resources, warnings=problems)
        except (DefinitionError, UsageError) as error:
            results.append(_result(file, error, problems))
            if not as_json:
                show_error(error)
        else:
            results.append(_result(file, None, problems))
            if not as_json:
                if problems:
                    click.echo(explain(problems), err=True)
                click.echo(f"{file}: ok ({_size(plan)})")
    valid = all(result["valid"] for result in results)
    if as_json:
        print_json({"valid": valid, "files": results})
    ctx.exit(NoaCommand.SUCCEEDED if valid else NoaCommand.USAGE)


def _result(file: str, error: Exception | None, problems: list[Problem]) -> dict[str, object]:
    from dataclasses import asdict

    from noa.errors import DefinitionError, NoaError, Problem

    if isinstance(error, DefinitionError):
        problems = [*error.problems, *problems]
    elif isinstance(error, NoaError):
        problems = [Problem(error.code, error.message, file=file)]
    return {"file": file, "valid": error is None, "problems": [asdict(p) for p in problems]}


def _size(plan: Plan) -> str:
    from noa.cli.text import plural

    tasks = sum(len(t.tasks) for stage in plan.stages.values() for t in stage.templates.values())
    return f"{plural(len(plan.stages), 'stage')}, {plural(tasks, 'task')}"
