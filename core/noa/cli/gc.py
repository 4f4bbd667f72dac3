"""`noa gc`: remove old runs, and what nothing refers to any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, print_json, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from noa.plugin import Journal
    from noa.storage.collection import Collected
    from noa.storage.sqlite import SqliteJournal

__all__ = ["artifact_folder", "command", "size", "sqlite_journal"]

_SHOWN = 20


def _age(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    from noa.definitions.quantities import parse_duration_ms

    if value is None:
        return None
    try:
        return parse_duration_ms(value)
    except ValueError as error:
        raise click.BadParameter(f"expected a duration such as 30d, 12h or 90min, got '{value}'") from error


@click.command(cls=NoaCommand, name="gc", short_help="Remove old runs, and what nothing refers to any more.")
@click.option("--older-than", "older_than_ms", metavar="DURATION", callback=_age,
              help="Runs that ended longer ago, such as 30d or 12h.")  # fmt: skip
@click.option("--keep", type=click.IntRange(0), metavar="N", help="All but the newest N runs of each workflow.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--outputs", is_flag=True, help="Also the folders that removed runs made in the output folder.")
@click.option("--vacuum", is_flag=True, help="Then write the store anew, so that its file gets smaller.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@home_option
def command(
    *, older_than_ms: int | None, keep: int | None, workflow: str | None, outputs: bool, vacuum: bool, dry_run: bool,
    as_json: bool, home: str | None,
) -> None:  # fmt: skip
    """Remove runs that are over and old, with their events, logs and progress; then artifacts to which no run that is
    left refers, definitions that no run needs, and outputs whose time in the cache is over.

    \b
    Examples:
      noa gc --older-than 30d --dry-run
      noa gc --older-than 30d --keep 20
      noa gc --keep 100 --workflow unified-pipeline --outputs --vacuum

    With both --older-than and --keep a run goes when it is old and not among the newest. The runs of sub-workflows go
    with theirs. A run that is not over stays, and so do artifacts younger than an hour or than any run that is not
    over. It is safe beside processes that run workflows; artifacts and --vacuum wait for a call when none does.
    """
    from noa.cli.session import now_ms, open_store, run_async
    from noa.errors import UsageError
    from noa.storage.collection import Collector
    from noa.storage.retention import Rule

    if older_than_ms is None and keep is None:
        raise UsageError(
            "noa gc needs a rule for what may go: --older-than 30d, or --keep 20 (of each workflow), or both. "
            "--dry-run shows what would go"
        )
    settings = settings_of(home)

    async def collect() -> Collected:
        async with open_store(settings) as store:
            journal = sqlite_journal(store.journal, "noa gc")
            artifacts, note = artifact_folder(journal, store.home)
            collector = Collector(
                journal,
                artifacts=artifacts,
                outputs=store.home / "output" if outputs else None,
                observations=store.home / "observations.db",
                now_ms=now_ms,
            )
            found = await collector.collect(Rule(older_than_ms, keep, workflow), dry_run=dry_run, vacuum=vacuum)
            found.notes += [note] if note else []
            return found

    found = run_async(collect)
    if as_json:
        print_json(_as_json(found, dry_run=dry_run))
    else:
        _show(found, dry_run=dry_run)


def sqlite_journal(journal: Journal, who: str) -> SqliteJournal:
    """A journal, where it is one that this command knows.

    Raises:
        UsageError: It is of a plugin.
    """
    from noa.errors import UsageError
    from noa.storage.sqlite import SqliteJournal

    if not isinstance(journal, SqliteJournal):
        raise UsageError(
            f"{who} knows stores in SQLite files only, and NOA_JOURNAL names a {type(journal).__name__}. "
            "Use the tools of that store"
        )
    return journal


def artifact_folder(journal: SqliteJournal, home: Path) -> tuple[Path | None, str]:
    """Where the artifacts of this store are; None and the reason where others may use that folder too."""
    other = home / "noa.db"
    if other.exists() and not other.samefile(journal.path):
        return None, f"artifacts stay, for {other} uses them too and was not looked at"
    return home / "artifacts", ""


def size(size_bytes: int) -> str:
    """`0 B`, `12.5 KiB`, `3.0 GiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    power = min((size_bytes.bit_length() - 1) // 10, 4)
    return f"{size_bytes / 1024**power:.1f} {' KMGT'[power]}iB"


def _as_json(found: Collected, *, dry_run: bool) -> dict[str, Any]:
    from dataclasses import asdict

    runs = [
        {"run_id": r.run_id, "workflow": r.workflow, "status": r.status, "ended_at_ms": r.updated_at_ms,
         "parent": r.parent}
        for r in found.runs
    ]  # fmt: skip
    return {"dry_run": dry_run, **asdict(found), "runs": runs}


def _show(found: Collected, *, dry_run: bool) -> None:
    from noa.cli.session import now_ms
    from noa.cli.text import age, columns, plural

    now = now_ms()
    rows = [[r.run_id, r.workflow, r.status, f"ended {age(r.updated_at_ms, now)}"] for r in found.runs[:_SHOWN]]
    for line in columns(rows):
        click.echo(f"  {line}")
    if len(found.runs) > _SHOWN:
        click.echo(f"  and {len(found.runs) - _SHOWN:,} more")
    heaps = [
        (found.artifacts, "artifact"),
        (found.temporary_files, "unfinished artifact"),
        (found.kept_outputs, "kept output"),
        (found.outputs, "output folder"),
    ]
    parts = [f"{plural(len(found.runs), 'run')} ({size(found.journal_bytes)})"] if found.runs else []
    parts += [f"{plural(heap.count, noun)} ({size(heap.size_bytes)})" for heap, noun in heaps if heap.count]
    told = "would remove" if dry_run else "removed"
    click.echo(f"{told} {', '.join(parts)}" if parts else "nothing to remove")
    if found.vacuumed:
        click.echo("the store was written anew without the space of what was removed")
    for note in found.notes:
        click.echo(note, err=True)
