"""`noa audit`: who decided what about a run, and whether its history is what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.decisions import Decided
    from noa.cli.session import Store
    from noa.plugin import RunRecord

__all__ = ["command"]

_VALUE = 160


@click.command(cls=NoaCommand, name="audit", short_help="Show who decided what about a run; verify its history.")
@run_argument
@click.option("--verify", is_flag=True, help="Check instead that the events are those that were written.")
@click.option("--people", is_flag=True, help="Only what people decided.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    *,
    verify: bool,
    people: bool,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Show every decision about RUN in order: who, when, what, why, and what was before and after.

    Those of people (approvals, interventions, cancellations, changes of mode, what was refused) and those that were
    made without one: holds and their timeouts, recovery chains, conditions, rollbacks, engines that took the run over.
    The decisions about its sub-workflows are among them, and what was recorded while no engine ran.

    \b
    Examples:
      noa audit latest
      noa audit latest --people
      noa audit 20261122-2215 --json
      noa audit 20261122-2215 --verify

    With --verify each event is checked against the hash that was written with it and that includes the one before. The
    first event that was changed, removed or moved is named. Who writes all later hashes anew as well is not found out.
    What is cut off the end of a run that goes on shows once its engine has noted that end, every few seconds.

    RUN is the id of a run, any beginning of it that is unique, or `latest`.

    Exit codes: 0 done, 1 something was tampered with, 2 there is no such run.
    """
    from noa.cli.session import open_store, run_async

    async def read() -> list[Decided]:
        async with open_store(settings_of(home, plugins)) as store:
            return await _decided(store, await _family(store, run))

    async def check() -> list[dict[str, Any]]:
        async with open_store(settings_of(home, plugins)) as store:
            return [await _verified(store, record) for record in await _family(store, run)]

    if verify:
        checked = run_async(check)
        _print_checked(checked, as_json=as_json)
        ctx.exit(NoaCommand.FAILED if any(one["tampered"] for one in checked) else NoaCommand.SUCCEEDED)
    found = [decided for decided in run_async(read) if decided.person or not people]
    if as_json:
        print_json([decided.to_dict() for decided in found])
    else:
        for line in _lines(found):
            click.echo(line)


async def _family(store: Store, run: str) -> list[RunRecord]:
    """The run and its sub-workflows, also those that are over; the run first."""
    root = await store.find(run)
    below: dict[str, list[RunRecord]] = {}
    for record in await store.journal.runs(limit=None):
        if record.parent:
            below.setdefault(record.parent.partition(":")[0], []).append(record)
    found = [root]
    for record in found:  # grows meanwhile
        found += reversed(below.get(record.run_id, []))
    return found


async def _decided(store: Store, records: list[RunRecord]) -> list[Decided]:
    from noa.cli.decisions import decisions, recorded

    found: list[Decided] = []
    for record in records:
        history = await store.history(record.run_id)
        told = decisions(history.events, history.plan)
        taken = {decided.signal for decided in told}
        waiting = [signal for signal in await store.journal.signals([record.run_id]) if signal.signal_id not in taken]
        found += [*told, *map(recorded, waiting)]
    return sorted(found, key=lambda decided: decided.at_ms)  # stable: in a run as they were recorded


def _lines(found: list[Decided]) -> list[str]:
    from noa.cli.command import style
    from noa.cli.text import one_line, timestamp

    lines = []
    root = found[0].run_id if found else ""
    width = min(24, max((len(decided.by) for decided in found), default=0))
    for decided in found:
        by = style(decided.by.ljust(width), bold=decided.person, dim=not decided.person)
        where = f" (run {decided.run_id})" if decided.run_id != root else ""
        where += f" (in run {decided.of})" if decided.of else ""
        number = f"{decided.seq:>5}" if decided.seq else "    -"
        lines.append(f"{number}  {timestamp(decided.at_ms)}  {by}  {one_line(decided.what, 300)}{where}")
        rest = " " * (len(number) + 2)
        if decided.reason:
            lines.append(f"{rest}why     {one_line(decided.reason, 500)}")
        if decided.refused:
            lines.append(f"{rest}{style('refused', 'yellow')} {one_line(decided.refused, 500)}")
        lines += [f"{rest}{line}" for line in _change(decided)]
    return lines


def _change(decided: Decided) -> list[str]:
    """What was before, and what is after, where that says more than the words do."""
    from noa.cli.text import short_json

    lines = []
    if decided.before not in (None, ""):
        lines.append(f"before  {short_json(decided.before, _VALUE)}")
    if decided.after not in (None, "", {}):
        lines.append(f"after   {short_json(decided.after, _VALUE)}")
    return lines


async def _verified(store: Store, record: RunRecord) -> dict[str, Any]:
    """Whether the history of a run is what was written, and what the first event is that is not."""
    run = record.run_id
    tampered = await store.journal.verify(run)
    what = await _event(store, record, tampered) if tampered is not None else None
    return {"run_id": run, "workflow": record.workflow, "events": record.last_seq, "tampered": tampered, "event": what}


async def _event(store: Store, record: RunRecord, seq: int) -> str:
    """What is found now in the place of an event."""
    import msgspec

    from noa.cli.text import timestamp
    from noa.errors import JournalError

    try:
        found = await store.journal.read(record.run_id, after=seq - 1, limit=1)
    except JournalError:
        return "cannot be read"
    if not found or found[0][0] != seq:
        return "is missing"
    fields = msgspec.to_builtins(found[0][1])
    subject = fields.get("task") or fields.get("stage") or fields.get("subject") or ""
    return f"{fields['type']}{f' {subject}' if subject else ''} of {timestamp(found[0][1].at_ms)}"


def _print_checked(checked: list[dict[str, Any]], *, as_json: bool) -> None:
    from noa.cli.command import style
    from noa.cli.text import plural

    if as_json:
        print_json(checked)
        return
    for one in checked:
        run = f"{one['workflow']} (run {one['run_id']})"
        if one["tampered"] is None:
            click.echo(f"{run}: {plural(one['events'], 'event')}, all as they were written")
            continue
        missing = one["event"] in ("is missing", "cannot be read")
        how = one["event"] if missing else f"is not what was written; now there is {one['event']}"
        click.echo(f"{style('tampered', 'red')}: {run}: event {one['tampered']} {how}")
