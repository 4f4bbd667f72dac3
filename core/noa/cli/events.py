"""`noa events`: what happened in a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand, home_option, json_option, run_argument, settings_of

if TYPE_CHECKING:
    from noa.model.events import Event

__all__ = ["command"]

_POLL_S = 0.2


@click.command(cls=NoaCommand, name="events", short_help="Print what happened in a run, in order.")
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run is over.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only events of this type; repeatable.")
@json_option
@home_option
def command(run: str, *, follow: bool, types: tuple[str, ...], as_json: bool, home: str | None) -> None:
    """Print the events of RUN: number, time, type, what it is about.

    The events are the run: its state is made from them, and they are its audit log. RUN is the id of a run, any
    beginning of it that is unique, or `latest`.

    \b
    Examples:
      noa events latest
      noa events latest --follow
      noa events latest --type attempt_failed --type recovery_chosen
      noa events latest --json | jq .type

    With --json each event is one JSON object on a line of its own.
    """
    import asyncio

    from noa.cli.session import OVER, open_store, run_async
    from noa.model.events import RunFinished

    _check_types(types)

    async def print_all() -> None:
        async with open_store(settings_of(home)) as store:
            record = await store.find(run)
            after = 0
            while True:
                batch = await store.journal.read(record.run_id, after=after)
                for seq, event in batch:
                    _print(seq, event, types, as_json=as_json)
                    after = seq
                if not follow or (batch and isinstance(batch[-1][1], RunFinished)):
                    return
                if not batch and (await store.journal.run(record.run_id)).status in OVER:
                    return
                await asyncio.sleep(_POLL_S)

    run_async(print_all)


def _check_types(types: tuple[str, ...]) -> None:
    from typing import get_args

    from noa.errors import UsageError
    from noa.model.events import Event

    known = sorted(kind.__struct_config__.tag for kind in get_args(Event))
    for name in types:
        if name not in known:
            raise UsageError(f"--type '{name}' is not known. Known: {', '.join(known)}")


def _print(seq: int, event: Event, types: tuple[str, ...], *, as_json: bool) -> None:
    import json

    import msgspec

    from noa.cli.text import one_line, timestamp

    fields = msgspec.to_builtins(event)
    kind = fields.pop("type")
    if types and kind not in types:
        return
    if as_json:
        click.echo(json.dumps({"seq": seq, "type": kind, **fields}, ensure_ascii=False))
        return
    at_ms = fields.pop("at_ms")
    subject = fields.pop("task", None) or fields.pop("stage", None) or fields.pop("run_id", "")
    rest = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    click.echo(
        f"{seq:>6}  {timestamp(at_ms)}.{at_ms % 1000:03d}  {kind:<17}  {one_line(f'{subject} {rest}'.strip(), 300)}"
    )
