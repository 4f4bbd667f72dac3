"""`noa approvals`: what waits for a person, in all runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, settings_of

if TYPE_CHECKING:
    from noa.cli.people import Question
    from noa.cli.session import History, Store
    from noa.plugin import RunRecord

__all__ = ["command"]


@click.command(cls=NoaCommand, name="approvals", short_help="Show what waits for a person, in all runs.")
@click.argument("run", metavar="[RUN]", required=False)
@json_option
@plugin_option
@home_option
def command(run: str | None, *, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """Show everything that waits for a person: approvals, questions after failures, stops of a debugger, paused runs.

    Of each: since when, what it would do and with which inputs, what the definition wants you to see, who may answer
    and how many have, what counts when nobody comes in time, and the commands that answer. With RUN only that run and
    its sub-workflows; RUN is the id of a run, any beginning of it that is unique, or `latest`.

    \b
    Examples:
      noa approvals
      noa approvals latest
      noa approvals --json | jq -r '.[].answer_with'

    Runs that no process drives are shown, too: what is answered is kept, and counts once `noa resume RUN` goes on.
    """
    from noa.cli.session import open_store, run_async

    async def read() -> list[_Waiting]:
        async with open_store(settings_of(home, plugins)) as store:
            return [found for record in await _records(store, run) if (found := await _of(store, record)) is not None]

    waiting = run_async(read)
    if as_json:
        print_json([entry for found in waiting for entry in found.to_dicts()])
        return
    for found in waiting:
        for line in found.lines():
            click.echo(line)
    if not waiting:
        click.echo(f"run {run}: nothing waits for a person" if run else "nothing waits for a person")


class _Waiting:
    """What waits in one run.

    Attributes:
        root: Run that is resumed where no engine drives this one.
        kept: How much people said about it that no engine has taken yet.
    """

    def __init__(self, history: History, questions: list[Question], root: str, kept: int) -> None:
        self.history = history
        self.questions = questions
        self.root = root
        self.kept = kept

    def to_dicts(self) -> list[dict[str, Any]]:
        from noa.cli.session import is_driven

        record = self.history.record
        more = {"workflow": record.workflow, "root": self.root, "driven": is_driven(record), "kept": self.kept}
        return [{**question.to_dict(), **more} for question in self.questions]

    def lines(self) -> list[str]:
        from noa.cli.command import style
        from noa.cli.people import question_lines
        from noa.cli.session import is_driven, now_ms
        from noa.cli.text import plural

        record = self.history.record
        part = f", a sub-workflow of run {self.root}" if self.root != record.run_id else ""
        lines = [f"{style(record.workflow, bold=True)} (run {record.run_id}{part})"]
        for question in self.questions:
            lines += question_lines(question, now_ms())
        if not is_driven(record):
            lines.append(
                f"  no engine drives it: what you answer is kept, and counts once `noa resume {self.root}` goes on"
            )
        if self.kept:
            lines.append(
                f"  not taken yet: {plural(self.kept, 'word')} of people, which `noa audit {record.run_id}` shows"
            )
        return lines


async def _records(store: Store, run: str | None) -> list[RunRecord]:
    """The runs that are not over, oldest first; with a run, that one and what goes on below it."""
    from noa.cli.session import OVER

    records = [r for r in await store.journal.runs(status="running", limit=None) if r.status not in OVER]
    records.reverse()
    if run is None:
        return records
    root = (await store.find(run)).run_id
    parents = _parents(records)
    return [record for record in records if root in _line(record.run_id, parents)]


def _parents(records: list[RunRecord]) -> dict[str, str]:
    """Run of which each run is a sub-workflow."""
    return {record.run_id: record.parent.partition(":")[0] for record in records if record.parent}


def _line(run: str, parents: dict[str, str]) -> list[str]:
    """A run, the one that it is part of, and so on."""
    line = [run]
    while (run := parents.get(run, "")) and run not in line:
        line.append(run)
    return line


async def _of(store: Store, record: RunRecord) -> _Waiting | None:
    from noa.cli.asked import questions_in

    history = await store.history(record.run_id)
    questions = questions_in(history)
    if not questions:
        return None
    root = record
    while root.parent:
        root = await store.find(root.parent.partition(":")[0])
    taken = {getattr(event, "signal", "") for _, event in history.events}
    kept = [signal for signal in await store.journal.signals([record.run_id]) if signal.signal_id not in taken]
    return _Waiting(history, questions, root.run_id, len(kept))
