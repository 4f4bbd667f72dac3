"""Reads the lines that a person types: with editing, completion and history on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import click

__all__ = ["Prompt"]

_KEPT = 1000


class Prompt:
    """The lines of stdin.

    Args:
        history: File in which the lines of a terminal are kept.
    """

    def __init__(self, history: Path) -> None:
        self._history = history
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()

    @property
    def terminal(self) -> bool:
        """Whether a person types."""
        return self._terminal

    def begin(self, complete: Callable[[str, str], list[str]]) -> None:
        """Set up editing on a terminal.

        Args:
            complete: Given the line up to the cursor and the word to complete, what it can be.
        """
        if not self._terminal:
            return
        import readline

        found: list[str] = []

        def completer(word: str, state: int) -> str | None:
            nonlocal found
            if state == 0:
                try:
                    found = complete(readline.get_line_buffer()[: readline.get_endidx()], word)
                except Exception:  # completion must never break the line that is being typed
                    found = []
                if len(found) == 1:
                    found = [f"{found[0]} "]
            return found[state] if state < len(found) else None

        readline.set_completer(completer)
        readline.set_completer_delims(" \t\n")
        readline.parse_and_bind("tab: complete")
        with contextlib.suppress(OSError):
            readline.read_history_file(self._history)
        readline.set_history_length(_KEPT)

    def end(self) -> None:
        """Keep the history."""
        if self._terminal:
            import readline

            with contextlib.suppress(OSError):
                readline.write_history_file(self._history)
                self._history.chmod(0o600)

    def read(self, prompt: str) -> str | None:
        """The next line without its end; None at the end of the input. Lines of a script are shown as if typed."""
        if self._terminal:
            try:
                return input(prompt)
            except EOFError:
                click.echo()
                return None
        line = sys.stdin.readline()
        if not line:
            return None
        click.echo(f"{prompt}{line.rstrip()}")
        return line.rstrip("\n")

    def ask(self, question: str) -> str:
        """A short answer of a person; empty where none types."""
        if not self._terminal:
            return ""
        try:
            return input(question).strip().lower()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return ""
