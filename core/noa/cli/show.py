"""`noa show`: one run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from noa.cli.session import History
    from noa.monitoring.progress import ProgressModel, StageView, TaskView

__all__ = ["command"]

_SHOWN = 100
"""Tasks of a stage that are printed; those that did not succeed first."""


@click.command(cls=NoaCommand, name="show", short_help="Show one run: its stages, tasks, inputs and outputs.")
@run_argument
@json_option
@plugin_option
@home_option
def command(run: str, *, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """Show RUN: its status, inputs, stages and tasks with their attempts and durations, failures and outputs.

    RUN is the id of a run, any beginning of it that is unique, or `latest`.

    \b
    Examples:
      noa show latest
      noa show 20261122-2215 --json
    """
    from noa.cli.session import open_store, run_async

    async def read() -> History:
        async with open_store(settings_of(home, plugins)) as store:
            history = await store.history(run)
            if not history.view.finished_ms:
                await store.watch_now(history)
            return history

    history = run_async(read)
    if as_json:
        print_json(_dict(history))
    else:
        for line in _lines(history):
            click.echo(line)


def _dict(history: History) -> dict[str, Any]:
    from noa.cli.summary import failure_dict

    view = history.view
    return {
        "run_id": view.run_id,
        "workflow": view.workflow,
        "version": view.version,
        "status": view.status,
        "degraded": view.degraded,
        "cancel_reason": view.cancelling or None,
        "created_at_ms": view.created_ms,
        "finished_at_ms": view.finished_ms or None,
        "owner": history.record.owner,
        "resumed": view.resumed,
        "mode": view.mode,
        "paused_by": view.paused or None,
        "key": view.key or None,
        "forked_from": view.forked_from or None,
        "forked_at": view.forked_at or None,
        "inputs": view.inputs,
        "outputs": view.outputs,
        "output_uri": view.output_uri,
        "failure": failure_dict(view.failure),
        "stages": [_stage_dict(stage, history) for stage in view.stages.values()],
        "rollback": _stage_dict(view.rollback, history) if view.rollback is not None else None,
        "left": view.left,
        "interventions": [
            {
                "at_ms": done.at_ms,
                "actor": done.actor,
                "what": done.what,
                "task": done.task or None,
                "reason": done.reason,
                "refused": done.refused or None,
            }
            for done in view.interventions
        ],
    }


def _stage_dict(stage: StageView, history: History) -> dict[str, Any]:
    from noa.cli.summary import failure_dict

    return {
        "name": stage.name,
        "type": stage.type,
        "status": stage.status,
        "started_at_ms": stage.started_ms or None,
        "finished_at_ms": stage.finished_ms or None,
        "failure": failure_dict(stage.failure),
        "tasks": [_task_dict(task, history) for task in stage.tasks.values()],
    }


def _task_dict(task: TaskView, history: History) -> dict[str, Any]:
    from noa.cli.summary import failure_dict

    node = history.state.tasks.get(task.path) if history.state is not None else None
    return {
        "path": task.path,
        "agent": task.agent,
        "action": task.action,
        "status": task.status,
        "attempts": task.attempt,
        "duration_ms": task.duration_ms(task.finished_ms) if task.finished_ms else None,
        "outputs": node.outputs if node is not None else None,
        "failure": failure_dict(task.failure),
        "degraded": task.degraded,
        "reason": task.reason or None,
        "fallback": task.fallback or None,
        "taken_from": task.taken_from or None,
        "taken_made_at_ms": task.taken_made_ms or None,
        "question": task.held.question if task.held is not None else None,
        **({"undoes": task.undoes} if task.undoes else {}),
    }


def _lines(history: History) -> list[str]:
    from noa.cli.command import style
    from noa.cli.session import now_ms
    from noa.cli.summary import failure_lines, output_files
    from noa.cli.text import columns, duration, one_line, short_json, timestamp

    view, now = history.view, now_ms()
    status = view.phase.replace("_", " ") + (" (degraded)" if _is_degraded(view) else "")
    head = [
        ["run", view.run_id],
        ["workflow", f"{view.workflow} {view.version}".strip()],
        ["status", status],
        ["started", timestamp(view.created_ms)],
        ["mode", view.mode],
        *([["paused by", one_line(view.paused)]] if view.paused and not view.finished_ms else []),
        *([["key", one_line(view.key)]] if view.key else []),
        *([["forked from", f"run {view.forked_from} at event {view.forked_at}"]] if view.forked_from else []),
        ["took" if view.finished_ms else "going on for", duration(view.duration_ms(now))],
    ]
    if view.cancelling and view.status in ("cancelled", "running"):
        head.append(["reason" if view.finished_ms else "cancelling", one_line(view.cancelling)])
    if view.resumed:
        head.append(["resumed", f"{view.resumed} times" if view.resumed > 1 else "once"])
    head += [[f"input {name}", short_json(value)] for name, value in view.inputs.items()]
    lines = columns(head)
    if history.problem:
        lines.append(
            "note: agents and waiting tasks are not shown, as the definition cannot be read now. Give the plugins"
        )
        lines.append(f"      with which it was begun by --plugin FILE.py. {one_line(history.problem, 150)}")
    lines.append("")
    for stage in view.stages.values():
        lines += _stage_lines(stage, now)
    if view.rollback is not None:
        lines += _stage_lines(view.rollback, now)
        if view.left:
            left = ", ".join(view.left[:_SHOWN])
            lines.append(f"  {style('left', 'red')}: {left} could not be undone; go on with: noa retry {view.run_id}")
    lines += list(_people_lines(view))
    if view.failure is not None:
        lines += ["", *failure_lines(view.failure, "")]
    if view.outputs:
        lines += ["", "outputs"]
        lines += columns([[f"  {name}", short_json(value)] for name, value in view.outputs.items()])
    files = output_files(view.output_uri)
    if files:
        lines += ["", "files", *(f"  {path.as_uri()}" for path in files)]
    if not view.finished_ms:
        lines += ["", f"what it waits for: noa why {view.run_id}"]
    return lines


def _is_degraded(view: ProgressModel) -> bool:
    return view.degraded or any(task.degraded for task in view.iter_tasks())


def _stage_lines(stage: StageView, now: int) -> list[str]:
    from noa.cli.command import style
    from noa.cli.remarks import remark
    from noa.cli.text import columns, duration, one_line

    took = f"  {duration(stage.duration_ms(now))}" if stage.started_ms else ""
    why = f"  ({one_line(stage.reason)})" if stage.reason else ""
    lines = [f"{style(stage.name, bold=True)}  {_status(stage.status)}{took}{why}"]
    rows = []
    shown = list(stage.tasks.values())
    if len(shown) > _SHOWN:  # stable: what is amiss comes first
        shown = sorted(shown, key=lambda task: task.status == "succeeded" and not task.remarkable)[:_SHOWN]
    for task in shown:
        what = f"{task.agent} · {task.action}" if task.agent else task.action
        attempts = f"attempt {task.attempt}" if task.attempt > 1 else ""
        took = duration(task.duration_ms(now)) if task.started_ms else ""
        status = "undone" if task.undoes and task.status == "succeeded" else task.status.replace("_", " ")
        rows.append([f"  {task.undoes or task.path}", status, took, what, attempts, remark(task, now)])
    lines += columns(rows)
    if len(stage.tasks) > len(shown):
        lines.append(f"  and {len(stage.tasks) - len(shown):,} more; --json has all")
    return lines


def _people_lines(view: ProgressModel) -> Iterator[str]:
    """What people did about the run."""
    from noa.cli.remarks import intervention
    from noa.cli.text import clock_time

    if view.interventions:
        yield ""
        yield "people"
    for done in view.interventions:
        yield f"  {clock_time(done.at_ms)}  {intervention(done)}"


def _status(status: str) -> str:
    from noa.cli.command import style

    colors = {"succeeded": "green", "failed": "red", "running": "cyan", "cancelled": "yellow", "held": "yellow"}
    return style(status.replace("_", " "), colors.get(status))
