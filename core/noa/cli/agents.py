"""`noa agents`: what definitions can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, settings_of

if TYPE_CHECKING:
    from noa.plugin import AgentDeclaration, AgentHealth, Registry

__all__ = ["command"]


@click.command(cls=NoaCommand, name="agents", short_help="List the agents that definitions can name.")
@click.option("--check", is_flag=True, help="Start each one and ask who it is.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(ctx: click.Context, *, check: bool, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """List the agents that plugins declare: name, kind, how each is reached, and which plugin declares it.

    With --check each agent is started, asked for its Health (language, version, actions, capacity) and ended again.

    \b
    Examples:
      noa agents
      noa agents --check
      noa agents --plugin my_agents.py --json

    Exit codes: 0, or 1 where --check found an agent that does not serve.
    """
    from noa.cli.session import run_async
    from noa.plugin import Registry

    settings = settings_of(home, plugins)
    registry = Registry.load(settings.plugins)
    found: dict[str, AgentHealth | str] = run_async(lambda: _check(settings, registry)) if check else {}
    if as_json:
        print_json([_dict(agent, found.get(name)) for name, agent in registry.agents.items()])
    else:
        _print(registry, found)
    ctx.exit(NoaCommand.FAILED if any(isinstance(health, str) for health in found.values()) else 0)


async def _check(settings: Any, registry: Registry) -> dict[str, AgentHealth | str]:
    """What each agent says of itself, or why it does not serve."""
    import asyncio

    from noa.errors import NoaError
    from noa.runtime import Runtime

    async with Runtime(settings, registry=registry) as runtime:

        async def ask(name: str) -> AgentHealth | str:
            try:
                return await runtime.factory.describe(name)
            except NoaError as error:
                return f"{error.code}: {error.message}"

        names = list(registry.agents)
        return dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True))


def _reached(agent: AgentDeclaration) -> str:
    import shlex

    if agent.addresses:
        return ", ".join(agent.addresses)
    if agent.command:
        return shlex.join(agent.command)
    if agent.factory is None:
        return "the engine itself"
    name = getattr(agent.factory, "__qualname__", None)
    return f"{agent.factory.__module__}.{name}" if name else repr(agent.factory)


def _dict(agent: AgentDeclaration, health: AgentHealth | str | None) -> dict[str, Any]:
    from dataclasses import asdict

    value: dict[str, Any] = {
        "name": agent.name,
        "kind": agent.kind,
        "reached": _reached(agent),
        "command": list(agent.command),
        "addresses": list(agent.addresses),
        "description": agent.description,
        "plugin": agent.plugin,
    }
    if isinstance(health, str):
        value["health"] = {"status": "not_serving", "message": health}
    elif health is not None:
        value["health"] = asdict(health)
    return value


def _print(registry: Registry, found: dict[str, AgentHealth | str]) -> None:
    from noa.cli.command import style
    from noa.cli.text import columns, one_line

    if not registry.agents:
        click.echo("no agents are declared. A plugin declares them by the hook noa_agents; see --plugin", err=True)
        return
    if not found:
        rows = [["NAME", "KIND", "PLUGIN", "REACHED BY"]]
        rows += [[a.name, a.kind, a.plugin, one_line(_reached(a), 100)] for a in registry.agents.values()]
        for line in columns(rows):
            click.echo(line)
        return
    for name, agent in registry.agents.items():
        health = found[name]
        if isinstance(health, str):
            click.echo(f"{style('✗', 'red')} {style(name, bold=True)}  {agent.kind}\n    {health}")
            continue
        capacity = f"{health.capacity} at once" if health.capacity else "no limit at once"
        click.echo(
            f"{style('✓', 'green')} {style(name, bold=True)}  {agent.kind}  {health.status}  {health.language}  "
            f"version {health.version}  {capacity}"
        )
        for action in health.actions:
            click.echo(f"    {action.name}  {one_line(action.description, 100)}".rstrip())
