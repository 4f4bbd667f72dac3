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
        child = click.Context(command, info_name=name, parent=context, terminal_width=100)
        parts.append(f"\n## noa {name}\n\n```\n{command.get_help(child).rstrip()}\n```\n")
    return "".join(parts)


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
