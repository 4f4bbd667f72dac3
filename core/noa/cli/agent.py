"""`noa agent`: the commands for who writes an agent."""

from __future__ import annotations

import click

from noa.cli.agent_check import check

__all__ = ["command"]


@click.group(name="agent", short_help="Check that an agent keeps the contract.", no_args_is_help=True)
def command() -> None:
    """Commands for who writes an agent, in whatever language. The contract is agents/CONTRACT.md.

    \b
    Examples:
      noa agent check --command ./my-agent
      noa agent check --help
    """


command.add_command(check)
