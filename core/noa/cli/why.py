"""`noa why`: what a run is waiting for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noa.cli.session import History
    from noa.engine.why import Wait
    from noa.model.execution import Observation
    from noa.model.ids import TaskPath
    from noa.monitoring.progress import ProgressModel

__all__ = ["command"]

_SHOWN = 50
_Child: TypeAlias = "tuple[History, list[Wait]]"
"""A sub-workflow that goes on, and what it waits for."""


@click.command(cls=NoaCommand, name="why", short_help="Say what a run is waiting for.")
@run_argument
@json_option
@plugin_option
@home_option
def command(run: str, *, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """Say for each unfinished task of RUN what it waits for, and since when.

    That is another task, a slot, a resource, an agent, a timer, a person, or what must be undone before it. For what
    waits for a person, the command that answers is printed, too. Sub-workflows that go on are included.

    Also says whether any process drives the run; if none does, `noa resume RUN` goes on with it. Of a run that is over,
    it says how it ended. RUN is the id of a run, any beginning of it that is unique, or `latest`.

    \b
    Examples:
      noa why latest
      noa why 20261122-2215 --json
    """
    from noa.cli.session import is_driven, open_store, run_async

    async def read() -> tuple[History, list[Wait], bool, list[_Child]]:
        async with open_store(settings_of(home, plugins)) as store:
            history = await store.history(run)
            if history.view.finished_ms:
                return history, [], False, []
            driven = is_driven(history.record)
            for signal in await store.journal.signals([history.record.run_id]):
                if signal.kind == "cancel" and not history.view.cancelling:
                    history.view.cancelling = signal.reason or "cancelled"
            seen = await store.seen(history) if driven else {}
            children = []
            for child in await store.children(history):
                at = await store.seen(child) if is_driven(child.record) else {}
                children.append((child, _waits(child, at, driven=is_driven(child.record))))
            return history, _waits(history, seen, driven=driven), driven, children

    history, waits, driven, children = run_async(read)
    if as_json:
        print_json(_dict(history, waits, driven, children))
    else:
        for line in _lines(history, waits, driven, children):
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
            if task.held is not None:
                reason = f"is held for a person: {task.held.question or 'what is to be done?'}"
                held = task.held
                waits.append(Wait(task.path, stage.name, "person", reason, (), held.since_ms, choices=held.choices))
            elif not task.over:
                was = f"is not over (attempt {task.attempt})"
                away = "" if driven else "; its engine went away"
                since_ms = task.started_ms or None
                waits.append(Wait(task.path, stage.name, "work" if driven else "engine", was + away, (), since_ms))
    return waits


def _dict(history: History, waits: list[Wait], driven: bool, children: list[_Child]) -> dict[str, Any]:
    from noa.cli.summary import failure_dict

    view = history.view
    return {
        "run_id": view.run_id,
        "workflow": view.workflow,
        "status": view.status,
        "phase": view.phase,
        "driven": driven,
        "owner": history.record.owner if driven else "",
        "cancel_reason": view.cancelling or None,
        "mode": view.mode,
        "paused_by": view.paused or None,
        "problem": history.problem,
        "waits": [_wait_dict(history, wait) for wait in waits],
        "sub_workflows": [
            {
                "run_id": child.view.run_id,
                "workflow": child.view.workflow,
                "parent": child.record.parent,
                "waits": [_wait_dict(child, wait) for wait in found],
            }
            for child, found in children
        ],
        "failure": failure_dict(view.failure),
        "left": view.left,
    }


def _wait_dict(history: History, wait: Wait) -> dict[str, Any]:
    from dataclasses import asdict

    from noa.cli.people import answer_command

    found = asdict(wait)
    if wait.choices:
        found["answer_with"] = answer_command(history.view.run_id, wait.subject, wait.choices)
    return found


def _lines(history: History, waits: list[Wait], driven: bool, children: list[_Child]) -> list[str]:
    from noa.cli.session import now_ms
    from noa.cli.text import duration, one_line

    view = history.view
    run = view.run_id
    if view.finished_ms:
        return _over(history)
    lines = [f"{view.workflow} (run {run}) is not over after {duration(view.duration_ms(now_ms()))}{_phase(view)}"]
    if driven:
        host, *_ = history.record.owner.split(":")
        lines[0] += f"; it is driven by a live process on {host}"
    else:
        option = "" if not history.problem else " --plugin FILE.py"
        only_people = history.state is not None and history.state.waiting
        lines.append(_undriven(run, view.cancelling, option, only_people=only_people))
    if view.rollback is not None and view.rollback.failure is not None:
        lines.append(f"  it is rolled back because of {one_line(str(view.rollback.failure), 300)}")
    if history.problem:
        lines.append(
            "  only what its events tell; to know more, name the plugins with which it was begun by --plugin FILE.py "
            f"({one_line(history.problem, 150)})"
        )
    if view.paused:
        lines.append(f"  {one_line(view.paused)} has paused it, and nothing more begins until `noa unpause {run}`")
    lines += _wait_lines(history, waits, driven)
    for child, found in children:
        lines.append(f"  sub-workflow {child.view.workflow} (run {child.view.run_id})")
        lines += [f"  {line}" for line in _wait_lines(child, found, driven)]
    return lines


def _over(history: History) -> list[str]:
    from noa.cli.remarks import ended
    from noa.cli.summary import failure_lines, not_as_planned_lines, rollback_lines
    from noa.cli.text import duration

    view = history.view
    took = duration(view.finished_ms - view.created_ms)
    degraded = ", degraded," if view.degraded else ""
    lines = [f"{view.workflow} (run {view.run_id}) waits for nothing: it {ended(view.status)}{degraded} after {took}"]
    lines += failure_lines(view.failure) if view.failure is not None else []
    lines += not_as_planned_lines(view)
    lines += rollback_lines(view)
    if view.status in ("failed", "rollback_failed"):
        what = "tries again what failed" if view.status == "failed" else "goes on undoing what is left"
        lines.append(f"  `noa retry {view.run_id}` {what}")
    return lines


def _phase(view: ProgressModel) -> str:
    """What the run is about, where that is more than to go on."""
    if view.rollback is not None:
        return f", and is being rolled back ({view.rollback.done} of {view.rollback.total} done)"
    return " (degraded)" if any(task.degraded for task in view.iter_tasks()) else ""


def _wait_lines(history: History, waits: list[Wait], driven: bool) -> list[str]:
    from noa.cli.command import style
    from noa.cli.people import answer_command, other_answers
    from noa.cli.session import now_ms
    from noa.cli.text import duration

    now = now_ms()
    run = history.view.run_id
    lines = []
    for wait in waits[:_SHOWN]:
        since = (
            ""
            if wait.since_ms is None or " since " in wait.reason
            else f" (since {duration(max(0, now - wait.since_ms))})"
        )
        lines.append(f"  {style(wait.subject, bold=True)} {wait.reason}{since}")
        if wait.choices:
            others = other_answers(run, wait.subject, wait.choices)
            lines.append(f"    answer with: {answer_command(run, wait.subject, wait.choices)}{others}")
    if len(waits) > _SHOWN:
        lines.append(f"  and {len(waits) - _SHOWN:,} more; --json has all")
    return lines


def _undriven(run: str, cancelling: str, option: str, *, only_people: bool) -> str:
    from noa.cli.text import one_line

    if cancelling:
        return (
            f"  no engine drives this run, and its cancellation is recorded ({one_line(cancelling)}): "
            f"finish it with `noa resume {run}{option}`"
        )
    if only_people:
        return f"  no engine drives this run: answer what is asked, then go on with `noa resume {run}{option}`"
    return (
        f"  no engine drives this run: go on with `noa resume {run}{option}`, or end it with `noa cancel {run}{option}`"
    )
