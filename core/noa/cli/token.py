"""`noa token`: names under which people act, beside those of the system's users."""

from __future__ import annotations

import click

from noa.cli.command import NoaCommand, home_option, json_option, print_json, settings_of

__all__ = ["command"]


@click.group(name="token", short_help="Let people act under names of their own.", no_args_is_help=True)
def command() -> None:
    """Tokens: whoever has one in NOA_ACTOR_TOKEN acts under its name in `noa approve` and the like.

    Without one, the user of the operating system is who acts. The state folder keeps only a hash of each token. Who can
    write the state folder can make tokens, and write whatever they like: tokens tell honest people apart.

    \b
    Examples:
      noa token add ann
      NOA_ACTOR_TOKEN=noa_… noa approve latest
      noa token list
      noa token remove ann
    """


@command.command(cls=NoaCommand, name="add", short_help="Make a token; it is shown once.")
@click.argument("name", metavar="NAME")
@json_option
@home_option
def add(name: str, *, as_json: bool, home: str | None) -> None:
    """Make a token for NAME and print it. Nothing can show it again.

    \b
    Examples:
      noa token add ann
      noa token add release-bot --json | jq -r .token
    """
    from noa.cli.session import now_ms
    from noa.storage.tokens import TokenStore

    store = TokenStore(settings_of(home).home.absolute())
    text = store.add(name, now_ms())
    if as_json:
        print_json({"name": name, "token": text})
        return
    click.echo(text)
    click.echo(f"the token of {name}; it is not shown again. Use it by: NOA_ACTOR_TOKEN=… noa approve RUN", err=True)


@command.command(cls=NoaCommand, name="list", short_help="List who has a token.")
@json_option
@home_option
def list_(*, as_json: bool, home: str | None) -> None:
    """List the names of tokens, and since when there is one.

    \b
    Examples:
      noa token list
      noa token list --json
    """
    from noa.cli.text import columns, timestamp
    from noa.storage.tokens import TokenStore

    tokens = TokenStore(settings_of(home).home.absolute()).tokens()
    if as_json:
        print_json([{"name": token.name, "created_at_ms": token.created_at_ms} for token in tokens])
        return
    for line in columns([[token.name, f"since {timestamp(token.created_at_ms)}"] for token in tokens]):
        click.echo(line)
    if not tokens:
        click.echo("no tokens. Make one with: noa token add NAME")


@command.command(cls=NoaCommand, name="remove", short_help="Make a token worthless.")
@click.argument("name", metavar="NAME")
@json_option
@home_option
def remove(name: str, *, as_json: bool, home: str | None) -> None:
    """Make the token of NAME worthless. What was done with it stays as it is recorded.

    \b
    Examples:
      noa token remove ann
    """
    from noa.storage.tokens import TokenStore

    TokenStore(settings_of(home).home.absolute()).remove(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"the token of {name} is worthless now")
