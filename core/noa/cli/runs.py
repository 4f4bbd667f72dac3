"""`noa runs`: the runs of a store."""

from __future__ import annotations

import click

from noa.cli.command import NoaCommand, home_option, json_option, print_json, settings_of

__all__ = ["command"]

_STATUSES = ["pending", "running", "waiting", "succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"]


@click.command(cls=NoaCommand, name="runs", short_help="List runs, newest first.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only runs of this status.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@json_option
@home_option
def command(*, status: str | None, workflow: str | None, limit: int, as_json: bool, home: str | None) -> None:
    """List runs, newest first.

    \b
    Examples:
      noa runs
      noa runs --status failed --limit 10
      noa runs --workflow unified-pipeline --json
    """
    from dataclasses import asdict

    from noa.cli.session import OVER, now_ms, open_store, run_async
    from noa.cli.text import age, columns, duration
    from noa.errors import RunNotFoundError
    from noa.plugin import RunRecord

    async def listed() -> list[RunRecord]:
        try:
            async with open_store(settings_of(home)) as store:
                return await store.journal.runs(status=status, workflow=workflow, limit=limit)
        except RunNotFoundError:
            return []  # nobody ran anything yet

    records = run_async(listed)
    if as_json:
        print_json([asdict(record) for record in records])
        return
    if not records:
        click.echo("no runs. Begin one with `noa run FILE`", err=True)
        return
    now = now_ms()
    rows = [["RUN", "WORKFLOW", "STATUS", "STARTED", "TOOK"]]
    for record in records:
        state = record.status.replace("_", " ") + (" (degraded)" if record.degraded else "")
        ended_ms = record.updated_at_ms if record.status in OVER else now
        took = duration(max(0, ended_ms - record.created_at_ms))
        rows.append([record.run_id, record.workflow, state, age(record.created_at_ms, now), took])
    for line in columns(rows):
        click.echo(line)
