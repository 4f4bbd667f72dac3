"""`noa plugins`: what is loaded."""

from __future__ import annotations

import click

from noa.cli.command import NoaCommand, json_option, plugin_option, print_json

__all__ = ["command"]


@click.command(cls=NoaCommand, name="plugins", short_help="List the plugins that are loaded.")
@json_option
@plugin_option
def command(*, as_json: bool, plugins: tuple[str, ...]) -> None:
    """List the plugins that are loaded, with their versions, where they come from, and the hooks that they fill.

    A plugin is an installed package with an entry point in the group `noa.plugins`, or a single file given by --plugin.
    NOA_DISABLED_PLUGINS=name,name leaves plugins out. Commands that plugins add to `noa` are listed at the end.

    \b
    Examples:
      noa plugins
      noa plugins --plugin my_agents.py
      noa plugins --json
    """
    from dataclasses import asdict

    from noa.cli.text import columns
    from noa.plugin import Registry

    registry = Registry.load(plugins)
    found = registry.plugins()
    commands = [str(item.name) for item in registry.commands if getattr(item, "name", None)]
    if as_json:
        print_json({"plugins": [asdict(info) for info in found], "commands": commands})
        return
    rows = [["NAME", "VERSION", "FROM", "HOOKS"]]
    rows += [[p.name, p.version or "-", p.origin, ", ".join(h.removeprefix("noa_") for h in p.hooks)] for p in found]
    for line in columns(rows):
        click.echo(line)
    if commands:
        click.echo(f"\nCommands of plugins: {', '.join(commands)}")
