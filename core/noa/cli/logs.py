"""`noa logs`: what tasks said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, run_argument, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from noa.cli.session import Store
    from noa.plugin import RunRecord

__all__ = ["command"]

_POLL_S = 0.2
_OVER = frozenset({"succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"})


@click.command(cls=NoaCommand, name="logs", short_help="Print what the tasks of a run logged.")
@run_argument
@click.option("--task", metavar="TASK", help="Only this task, such as process/inference.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run is over.")
@json_option
@home_option
def command(run: str, *, task: str | None, follow: bool, as_json: bool, home: str | None) -> None:
    """Print the log lines and pieces of output of RUN's tasks, oldest first.

    Logs are kept in a bounded store: the oldest are dropped first, and how many is said. What an agent's process itself
    printed is in the files that are named at the end. RUN is the id of a run, any beginning of it that is unique, or
    `latest`.

    \b
    Examples:
      noa logs latest
      noa logs latest --task process/inference
      noa logs latest --follow
      noa logs latest --json

    With --json each line is one JSON object: task, attempt, kind, and what it holds.
    """
    from noa.cli.session import open_store, run_async

    async def print_all() -> None:
        async with open_store(settings_of(home)) as store:
            record = await store.find(run)
            await _print_all(store, record, task, follow=follow, as_json=as_json)
            if not as_json:
                _name_files(store.home / "logs")

    run_async(print_all)


async def _print_all(store: Store, record: RunRecord, task: str | None, *, follow: bool, as_json: bool) -> None:
    import asyncio

    from noa.model.ids import TaskPath

    path = TaskPath(task) if task else None
    async with store.observations() as observations:
        dropped = observations.dropped(record.run_id)
        if dropped:
            click.echo(f"{dropped:,} older lines were dropped", err=True)
        after, over, said = 0, False, False
        while True:
            batch = observations.read(record.run_id, after_id=after, task=path)
            for entry in batch:
                after = entry.id
                said = _print(entry, as_json=as_json) or said
            if batch:
                continue
            if over or not follow:
                if not said:
                    click.echo(f"nothing was logged{f' by task {task}' if task else ''}", err=True)
                return
            # One more look after the end: the last lines may have come between.
            over = (await store.journal.run(record.run_id)).status in _OVER
            await asyncio.sleep(_POLL_S)


def _print(entry: Any, *, as_json: bool) -> bool:
    """Whether it was something to print."""
    import json

    import msgspec

    from noa.cli.command import style
    from noa.cli.text import clock_time
    from noa.model.execution import Log, OutputChunk

    seen = entry.observation
    if as_json:
        fields = msgspec.to_builtins(seen)
        kind = fields.pop("type")
        value = {"task": entry.task, "attempt": entry.attempt, "at_ms": entry.at_ms, "kind": kind, **fields}
        click.echo(json.dumps(value, ensure_ascii=False))
        return True
    lead = f"{clock_time(entry.at_ms)} {entry.task} "
    if isinstance(seen, Log):
        color = {"warning": "yellow", "error": "red"}.get(seen.level)
        level = "" if seen.level == "info" else f"{seen.level}: "
        click.echo(lead + style(f"{level}{seen.message}", color))
    elif isinstance(seen, OutputChunk):
        click.echo(lead + seen.text.rstrip("\n"))
    return isinstance(seen, Log | OutputChunk)


def _name_files(folder: Path) -> None:
    files = sorted(folder.glob("*")) if folder.is_dir() else []
    if files:
        click.echo(f"output of agents' own processes: {', '.join(str(file) for file in files)}", err=True)
