"""Writes docs/cli.md from the commands themselves; with --check it only compares."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from noa.cli.app import COMMANDS, app

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

_HEAD = """# The `noa` command

Made by `scripts/generate_cli_docs.py` from the commands themselves; change them, not this page.

```
{help}
```
"""


def render() -> str:
    """The page."""
    context = click.Context(app, info_name="noa", terminal_width=100, **app.context_settings)
    parts = [_HEAD.format(help=app.get_help(context).rstrip())]
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        parts += _sections(command, name, context)
    return "".join(parts)


def _sections(command: click.Command, name: str, parent: click.Context) -> list[str]:
    """A command and, below it, those of a group."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=100)
    made = [f"\n## {context.command_path}\n\n```\n{command.get_help(context).rstrip()}\n```\n"]
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            made += _sections(found, below, context)
    return made


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv[1:]:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{TARGET} is not what the commands say: run python scripts/generate_cli_docs.py\n")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
