"""`noa logs`: what tasks said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, run_argument, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from noa.cli.session import Store
    from noa.model.execution import Log
    from noa.plugin import RunRecord
    from noa.storage import ObservationRecord

__all__ = ["command"]

_POLL_S = 0.2
_OVER = frozenset({"succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"})


@click.command(cls=NoaCommand, name="logs", short_help="Print what the tasks of a run logged.")
@run_argument
@click.option("--task", metavar="TASK", help="Only this task, such as process/inference.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run is over.")
@click.option("--output", "-o", is_flag=True, help="Only the pieces of output, as they are and nothing beside them.")
@json_option
@home_option
def command(run: str, *, task: str | None, follow: bool, output: bool, as_json: bool, home: str | None) -> None:
    """Print the log lines and pieces of output of RUN's tasks, oldest first; with --follow as they come.

    Logs are kept in a bounded store: the oldest are dropped first, and how many is said. What an agent's process itself
    printed is in the files that are named at the end. RUN is the id of a run, any beginning of it that is unique, or
    `latest`.

    \b
    Examples:
      noa logs latest
      noa logs latest --task process/inference
      noa logs latest --follow
      noa logs latest --follow --output --task chat/answer
      noa logs latest --json

    With --json each line is one JSON object: task, attempt, kind, and what it holds.
    """
    from noa.cli.session import open_store, run_async

    async def print_all() -> None:
        async with open_store(settings_of(home)) as store:
            record = await store.find(run)
            await _print_all(store, record, task, _Printer(as_json=as_json, output=output), follow=follow)
            if not as_json and not output:
                _name_files(store.home / "logs")

    run_async(print_all)


async def _print_all(store: Store, record: RunRecord, task: str | None, printer: _Printer, *, follow: bool) -> None:
    import asyncio

    from noa.model.ids import TaskPath

    path = TaskPath(task) if task else None
    async with store.observations() as observations:
        after, over = 0, False
        while True:
            printer.tell_dropped(observations.dropped(record.run_id))
            batch = observations.read(record.run_id, after_id=after, task=path)
            for entry in batch:
                after = entry.id
                printer.print(entry)
            if batch:
                continue
            printer.pause()
            if over or not follow:
                if not printer.said:
                    click.echo(f"nothing was logged{f' by task {task}' if task else ''}", err=True)
                return
            # One more look after the end: the last lines may have come between.
            over = (await store.journal.run(record.run_id)).status in _OVER
            await asyncio.sleep(_POLL_S)


class _Printer:
    """Prints what was observed, one line for each log line and for each line of output, however it came in pieces.

    Args:
        as_json: Each observation as a JSON object instead.
        output: Only the pieces of output, as they are.

    Attributes:
        said: Whether there was something to print.
    """

    def __init__(self, *, as_json: bool, output: bool) -> None:
        self.said = False
        self._as_json = as_json
        self._output = output
        self._dropped = 0
        self._open: dict[str, tuple[int, str]] = {}

    def tell_dropped(self, dropped: int) -> None:
        """Say how many observations were dropped since it was last said."""
        if dropped > self._dropped:
            click.echo(f"{dropped - self._dropped:,} older lines were dropped", err=True)
            self._dropped = dropped

    def print(self, entry: ObservationRecord) -> None:
        """Print an observation."""
        from noa.model.execution import Log, OutputChunk

        seen = entry.observation
        if self._output and not isinstance(seen, OutputChunk):
            return
        if self._as_json:
            self._print_json(entry)
        elif isinstance(seen, OutputChunk):
            self._print_output(entry, seen.text)
        elif isinstance(seen, Log):
            self._print_log(entry, seen)
        self.said = self.said or self._as_json or isinstance(seen, Log | OutputChunk)

    def pause(self) -> None:
        """Nothing more for now: show lines of output that have not ended yet, as they are so far."""
        from noa.cli.text import clock_time

        for task, (at_ms, text) in self._open.items():
            click.echo(f"{clock_time(at_ms)} {task} {text}")
        self._open.clear()

    def _print_json(self, entry: ObservationRecord) -> None:
        import json

        import msgspec

        fields = msgspec.to_builtins(entry.observation)
        kind = fields.pop("type")
        value = {"task": entry.task, "attempt": entry.attempt, "at_ms": entry.at_ms, "kind": kind, **fields}
        click.echo(json.dumps(value, ensure_ascii=False))

    def _print_log(self, entry: ObservationRecord, seen: Log) -> None:
        from noa.cli.command import style
        from noa.cli.text import clock_time

        color = {"warning": "yellow", "error": "red"}.get(seen.level)
        level = "" if seen.level == "info" else f"{seen.level}: "
        click.echo(f"{clock_time(entry.at_ms)} {entry.task} {style(f'{level}{seen.message}', color)}")

    def _print_output(self, entry: ObservationRecord, text: str) -> None:
        from noa.cli.text import clock_time

        if self._output:
            click.echo(text, nl=False)
            return
        _, begun = self._open.pop(entry.task, (0, ""))
        *lines, rest = (begun + text).split("\n")
        for line in lines:
            click.echo(f"{clock_time(entry.at_ms)} {entry.task} {line}")
        if rest:
            self._open[entry.task] = entry.at_ms, rest


def _name_files(folder: Path) -> None:
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    if files:
        click.echo(f"output of agents' own processes: {', '.join(str(file) for file in files)}", err=True)
