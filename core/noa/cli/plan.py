"""`noa plan`: what a definition would do."""

from __future__ import annotations

import click

from noa.cli.command import NoaCommand, json_option, plugin_option, print_json

__all__ = ["command"]


@click.command(cls=NoaCommand, name="plan", short_help="Show what a definition would do: stages, tasks, dependencies.")
@click.argument("file", metavar="FILE")
@click.option("--mermaid", is_flag=True, help="Print a Mermaid diagram, as Markdown viewers draw it.")
@json_option
@plugin_option
def command(file: str, *, mermaid: bool, as_json: bool, plugins: tuple[str, ...]) -> None:
    """Show the graph of FILE: its stages, their tasks, each dependency with its kind, and the critical path.

    Nothing is run.

    \b
    Examples:
      noa plan definitions/unified-pipeline.yaml
      noa plan etl.yaml --mermaid > etl.mmd
      noa plan etl.yaml --json
    """
    from noa.definitions import load_plan, plan_dict, plan_mermaid, plan_text
    from noa.errors import Problem, UsageError
    from noa.orchestration import host_resources
    from noa.plugin import Registry

    if mermaid and as_json:
        raise UsageError("give either --mermaid or --json, not both")
    warnings: list[Problem] = []
    plan = load_plan(file, registry=Registry.load(plugins), host_resources=host_resources(), warnings=warnings)
    if as_json:
        print_json(plan_dict(plan))
    else:
        click.echo((plan_mermaid(plan) if mermaid else plan_text(plan)).rstrip("\n"))
