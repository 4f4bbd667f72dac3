"""`noa doctor`: find what is wrong with the store, and mend it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, print_json, settings_of, style

if TYPE_CHECKING:
    from pathlib import Path

    from noa.runtime import Settings
    from noa.storage.finding import Finding
    from noa.storage.sqlite import SqliteJournal

__all__ = ["command"]

_SHOWN = 20


@click.command(cls=NoaCommand, name="doctor", short_help="Find what is wrong with the store, and mend it.")
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything.")
@click.option("--deep", is_flag=True, help="Verify the history of every run, not only of those that are not over.")
@json_option
@home_option
@click.pass_context
def command(ctx: click.Context, *, fix: bool, deep: bool, as_json: bool, home: str | None) -> None:
    """Look for runs that nobody drives, histories that were changed, lists and signals that do not fit the events,
    artifacts that are missing or orphaned, and what killed processes left behind. Each is told with what it means.

    \b
    Examples:
      noa doctor
      noa doctor --fix
      noa doctor --deep --json

    --fix begins, ends and repeats no run, and removes nothing that a run needs. It is safe beside processes that run
    workflows.

    Exit codes: 0 nothing is wrong, or all of it was mended; 1 something is wrong; 2 the call is wrong.
    """
    from noa.cli.session import run_async

    settings = settings_of(home)

    async def look() -> tuple[list[Finding], list[Finding]]:
        async with AsyncExitStack() as stores:
            found = await _examine(settings, stores, deep=deep)
            tried = [finding for finding in found if fix and finding.mend is not None]
            for finding in tried:
                _mend(finding)
        if not tried:
            return [], found
        async with AsyncExitStack() as stores:  # what is mended may have been the cause of what else was found
            left = await _examine(settings, stores, deep=deep)
        whys = {finding.check: finding.left for finding in tried}
        for finding in left:
            finding.left = whys.get(finding.check, "")
        checks = {finding.check for finding in left}
        return [finding for finding in tried if finding.mended and finding.check not in checks], left

    mended, left = run_async(look)
    if as_json:
        print_json({"ok": not left, "mended": list(map(_as_json, mended)), "found": list(map(_as_json, left))})
    else:
        _show(mended, left)
    ctx.exit(NoaCommand.FAILED if left else NoaCommand.SUCCEEDED)


async def _examine(settings: Settings, stores: AsyncExitStack, *, deep: bool) -> list[Finding]:
    """Every check; what is wrong. It can be mended while `stores` is open."""
    from noa.cli.gc import sqlite_journal
    from noa.errors import RunNotFoundError
    from noa.plugin import Registry
    from noa.runtime import open_journal
    from noa.storage import home_checks

    home = settings.home.absolute()
    if not home.is_dir():
        raise RunNotFoundError(
            f"nothing to look at: the state folder {home} does not exist. Name another with --home or NOA_HOME"
        )
    journal = sqlite_journal(open_journal(Registry.load(), settings, home), "noa doctor")
    observations = home / "observations.db"
    found = [
        home_checks.check_permissions(home),
        home_checks.check_free_space(home),
        damage := home_checks.check_damage(journal.path, observations),
        home_checks.check_sockets(home / "run"),
        home_checks.check_stale_agents(home / "run"),
    ]
    if damage is None and journal.path.exists():
        found += [home_checks.check_write_ahead_logs(journal.path, observations)]
        found += await _examine_store(journal, home, stores, deep=deep)
    return [finding for finding in found if finding is not None]


async def _examine_store(
    journal: SqliteJournal, home: Path, stores: AsyncExitStack, *, deep: bool
) -> list[Finding | None]:
    from noa.cli.gc import artifact_folder
    from noa.cli.session import now_ms
    from noa.storage.store_checks import StoreChecks
    from noa.storage.upkeep import Upkeep

    await journal.open()
    stores.push_async_callback(journal.close)
    upkeep = stores.enter_context(Upkeep(journal.path))
    artifacts, _ = artifact_folder(journal, home)
    checks = StoreChecks(journal, upkeep, await journal.runs(limit=None), artifacts, now_ms())
    return [
        await checks.abandoned(),
        await checks.histories(deep=deep),
        checks.statuses(),
        checks.children(),
        checks.signals(),
        checks.missing_artifacts(),
        checks.orphaned_artifacts(),
    ]


def _mend(finding: Finding) -> None:
    from noa.errors import NoaError

    assert finding.mend is not None
    try:
        finding.mended = finding.mend()
        finding.left = "" if finding.mended else "not all of it could be mended; a process may be using it. Repeat"
    except (NoaError, OSError) as error:
        finding.left = f"it could not be mended: {error}"


def _as_json(finding: Finding) -> dict[str, Any]:
    parts = {name: getattr(finding, name) for name in ("check", "what", "means", "items", "mending", "mended", "left")}
    return {**parts, "fixable": finding.mend is not None}


def _show(mended: list[Finding], left: list[Finding]) -> None:
    from noa.cli.text import plural

    for finding in mended:
        click.echo(f"{style('mended', 'green')}  {finding.what}")
        _show_items(finding)
    for finding in left:
        click.echo(f"{style('found', 'yellow')}   {finding.what}")
        _show_items(finding)
        click.echo(f"    {style(finding.means + '.', dim=True)}")
        if finding.left:
            click.echo(f"    {finding.left}")
        elif finding.mending:
            click.echo(f"    noa doctor --fix {finding.mending}")
    if not left:
        click.echo("everything else is in order" if mended else "everything is in order")
        return
    count = sum(finding.mend is not None for finding in left)
    can = f"; --fix mends {count}" if count and not mended else ""
    click.echo(f"{plural(len(left), 'problem')}{can}")


def _show_items(finding: Finding) -> None:
    for item in finding.items[:_SHOWN]:
        click.echo(f"    {item}")
    if len(finding.items) > _SHOWN:
        click.echo(f"    and {len(finding.items) - _SHOWN:,} more")
