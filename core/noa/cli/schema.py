"""`noa schema`: the JSON Schema of definitions."""

from __future__ import annotations

import click

from noa.cli.command import NoaCommand, plugin_option, print_json

__all__ = ["command"]


@click.command(cls=NoaCommand, name="schema", short_help="Print the JSON Schema of definitions.")
@plugin_option
def command(*, plugins: tuple[str, ...]) -> None:
    """Print the JSON Schema of the language of definitions, with the keys of every loaded plugin.

    Editors that know JSON Schema then complete, explain and check definitions while they are written.

    \b
    Examples:
      noa schema > workflow.schema.json
      noa schema --plugin my_stage_types.py > workflow.schema.json
    """
    from noa.definitions import json_schema
    from noa.plugin import Registry

    print_json(json_schema(Registry.load(plugins)))
