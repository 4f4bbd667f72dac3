"""`noa why`: what a run is waiting for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noa.cli.session import History
    from noa.engine.why import Wait
    from noa.model.execution import Observation
    from noa.model.ids import TaskPath

__all__ = ["command"]

_SHOWN = 50


@click.command(cls=NoaCommand, name="why", short_help="Say what a run is waiting for.")
@run_argument
@json_option
@plugin_option
@home_option
def command(run: str, *, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """Say for each unfinished task of RUN what it waits for: another task, a slot, a resource, an agent, a timer.

    Also says whether any process drives the run; if none does, `noa resume RUN` goes on with it. Of a run that is over,
    it says how it ended. RUN is the id of a run, any beginning of it that is unique, or `latest`.

    \b
    Examples:
      noa why latest
      noa why 20261122-2215 --json
    """
    from noa.cli.session import is_driven, open_store, run_async

    async def read() -> tuple[History, list[Wait], bool]:
        async with open_store(settings_of(home, plugins)) as store:
            history = await store.history(run)
            if history.view.finished_ms:
                return history, [], False
            driven = is_driven(history.record)
            for signal in await store.journal.signals([history.record.run_id]):
                if signal.kind == "cancel" and not history.view.cancelling:
                    history.view.cancelling = signal.reason or "cancelled"
            seen = await store.seen(history) if driven else {}
            return history, _waits(history, seen, driven=driven), driven

    history, waits, driven = run_async(read)
    if as_json:
        print_json(_dict(history, waits, driven))
    else:
        for line in _lines(history, waits, driven):
            click.echo(line)


def _waits(history: History, seen: Mapping[TaskPath, Observation], *, driven: bool) -> list[Wait]:
    from noa.cli.session import now_ms
    from noa.engine.why import explain_wait

    if history.state is None:
        return _from_events(history, driven=driven)
    return explain_wait(history.state, now_ms(), seen, driven=driven)


def _from_events(history: History, *, driven: bool) -> list[Wait]:
    """What the events alone tell, where the definition cannot be read: tasks that began and are not over."""
    from noa.engine.why import Wait

    waits = []
    for stage in history.view.stages.values():
        for task in stage.tasks.values():
            if not task.over:
                was = f"is not over (attempt {task.attempt})"
                away = "" if driven else "; its engine went away"
                since_ms = task.started_ms or None
                waits.append(Wait(task.path, stage.name, "work" if driven else "engine", was + away, (), since_ms))
    return waits


def _dict(history: History, waits: list[Wait], driven: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from noa.cli.summary import failure_dict

    view = history.view
    return {
        "run_id": view.run_id,
        "workflow": view.workflow,
        "status": view.status,
        "driven": driven,
        "owner": history.record.owner if driven else "",
        "cancel_reason": view.cancelling or None,
        "problem": history.problem,
        "waits": [asdict(wait) for wait in waits],
        "failure": failure_dict(view.failure),
    }


def _lines(history: History, waits: list[Wait], driven: bool) -> list[str]:
    from noa.cli.command import style
    from noa.cli.session import now_ms
    from noa.cli.summary import failure_lines
    from noa.cli.text import duration, one_line

    view = history.view
    run = view.run_id
    if view.finished_ms:
        took = duration(view.finished_ms - view.created_ms)
        lines = [f"{view.workflow} (run {run}) waits for nothing: it {view.status.replace('_', ' ')} after {took}"]
        return lines + (failure_lines(view.failure) if view.failure is not None else [])
    lines = [f"{view.workflow} (run {run}) is not over after {duration(view.duration_ms(now_ms()))}"]
    if driven:
        host, *_ = history.record.owner.split(":")
        lines[0] += f"; it is driven by a live process on {host}"
    else:
        lines.append(_undriven(run, view.cancelling, "" if not history.problem else " --plugin FILE.py"))
    if history.problem:
        lines.append(
            "  only what its events tell; to know more, name the plugins with which it was begun by --plugin FILE.py "
            f"({one_line(history.problem, 150)})"
        )
    for wait in waits[:_SHOWN]:
        lines.append(f"  {style(wait.subject, bold=True)} {wait.reason}")
    if len(waits) > _SHOWN:
        lines.append(f"  and {len(waits) - _SHOWN:,} more; --json has all")
    return lines


def _undriven(run: str, cancelling: str, option: str) -> str:
    from noa.cli.text import one_line

    if cancelling:
        return (
            f"  no engine drives this run, and its cancellation is recorded ({one_line(cancelling)}): "
            f"finish it with `noa resume {run}{option}`"
        )
    return (
        f"  no engine drives this run: go on with `noa resume {run}{option}`, or end it with `noa cancel {run}{option}`"
    )
