"""`noa why`: what a run is waiting for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.session import History, Store
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
    from noa.cli.session import now_ms, open_store, run_async
    from noa.engine.why import explain_wait
    from noa.errors import DefinitionError

    async def read() -> tuple[History, list[Wait], bool]:
        async with open_store(settings_of(home, plugins)) as store:
            history = await store.history(run)
            if history.view.finished_ms:
                return history, [], False
            if history.state is None:
                raise DefinitionError(
                    f"the definition of run {history.record.run_id} cannot be read now. Give the plugins with which it "
                    f"was begun by --plugin FILE.py:\n{history.problem}"
                )
            driven = _driven(history, now_ms())
            seen = await _seen(store, history) if driven else {}
            return history, explain_wait(history.state, now_ms(), seen, driven=driven), driven

    history, waits, driven = run_async(read)
    if as_json:
        print_json(_dict(history, waits, driven))
    else:
        for line in _lines(history, waits, driven):
            click.echo(line)


def _driven(history: History, now_ms: int) -> bool:
    """Whether a live engine holds the run's lease."""
    from noa.storage import is_dead

    record = history.record
    return bool(record.owner) and record.lease_until_ms > now_ms and not is_dead(record.owner)


async def _seen(store: Store, history: History) -> dict[TaskPath, Observation]:
    """The latest Stage or Waiting of each task that has an attempt going on."""
    from noa.model.execution import Stage, Waiting
    from noa.model.ids import TaskPath

    assert history.state is not None
    found: dict[TaskPath, Observation] = {}
    running = {task.path: task.attempt for task in history.state.iter_running()}
    if not (store.home / "observations.db").is_file():
        return found
    async with store.observations() as observations:
        after = 0
        while batch := observations.read(history.record.run_id, after_id=after):
            for entry in batch:
                after = entry.id
                task = TaskPath(entry.task)
                if running.get(task) == entry.attempt and isinstance(entry.observation, Stage | Waiting):
                    found[task] = entry.observation
    return found


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
        "waits": [asdict(wait) for wait in waits],
        "failure": failure_dict(view.failure),
    }


def _lines(history: History, waits: list[Wait], driven: bool) -> list[str]:
    from noa.cli.command import style
    from noa.cli.session import now_ms
    from noa.cli.summary import failure_lines
    from noa.cli.text import duration

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
        lines.append(f"  no engine drives this run: go on with `noa resume {run}`, or end it with `noa cancel {run}`")
    for wait in waits[:_SHOWN]:
        lines.append(f"  {style(wait.subject, bold=True)} {wait.reason}")
    if len(waits) > _SHOWN:
        lines.append(f"  and {len(waits) - _SHOWN:,} more; --json has all")
    return lines
