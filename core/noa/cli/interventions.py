"""What people say about a run at a second terminal: recorded durably, then judged by whoever drives the run.

Where a live engine drives it, its word is waited for. Where none does, what it will say is known from the journal: it
judges what was recorded, in that order, before it decides anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa.cli.actor import actor_of
from noa.cli.asked import questions_in
from noa.cli.command import NoaCommand, print_json
from noa.cli.session import OVER, History, Store, is_driven, now_ms, open_store, run_async
from noa.cli.signals import put_signal, wait_judged
from noa.definitions import agent_declaration
from noa.engine.signals import Known, judge
from noa.errors import RunStateError, UsageError
from noa.model.events import SignalApplied, SignalRefused
from noa.model.ids import TaskPath
from noa.plugin import ActionInfo, Registry, RunRecord, SignalRecord
from noa.runtime import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from noa.engine.state import RunState
    from noa.model.plan import Plan

__all__ = ["Target", "Wish", "intervene", "json_object", "known_of", "target_of"]

_WAIT_MS = 10_000
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants.

    Attributes:
        kind: Of the signal.
        done: What is said once it is so, such as "deploy/push: approved".
        subject: Task or stage; empty for the run.
        body: Of the signal.
        whole: Whether the run's sub-workflows that go on are meant, too.
    """

    kind: str
    done: str
    subject: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """The run that is meant, and what is meant in it.

    Attributes:
        root: The run that was named.
        history: That run, or a sub-workflow of it.
        subject: Task or stage; empty for the run.
    """

    root: History
    history: History
    subject: str = ""


def intervene(
    ctx: click.Context,
    settings: Settings,
    run: str,
    wish: Callable[[Store, list[History]], tuple[Target, Wish]],
    *,
    reason: str,
    as_json: bool,
) -> None:
    """Record what somebody wants, say what became of it, and end the command with 0, or with 1 where it was refused.

    Args:
        wish: Given the run and its sub-workflows that go on, the named run first, says what is wanted of which.
    """
    actor = actor_of(settings)

    async def say() -> dict[str, Any]:
        async with open_store(settings) as store:
            history = await store.history(run)
            _check_going(history)
            children = await store.children(history)
            target, wanted = wish(store, [history, *children])
            told = await _say(store, target, wanted, actor, reason)
            if wanted.whole and told["status"] != "refused":
                await _say_to(store, children, wanted, actor, reason)
            return told

    told = run_async(say)
    line = told.pop("line")
    if as_json:
        print_json(told)
    else:
        click.echo(line, err=told["status"] == "refused")
    ctx.exit(NoaCommand.FAILED if told["status"] == "refused" else NoaCommand.SUCCEEDED)


def target_of(histories: list[History], subject: str) -> Target:
    """The run, or its sub-workflow, that has this task or stage; the run itself where none has, for it to say so."""
    root = histories[0]
    having = [history for history in histories if _has(history, subject)]
    if len(having) > 1 and having[0] is not root:
        runs = ", ".join(history.record.run_id for history in having)
        raise UsageError(f"'{subject}' is in more than one sub-workflow: name one of the runs {runs}")
    return Target(root, having[0] if having else root, subject)


def _has(history: History, subject: str) -> bool:
    if history.state is not None:
        return TaskPath(subject) in history.state.tasks or subject in history.state.stages
    return history.view.task(TaskPath(subject)) is not None or subject in history.view.stages


def json_object(option: str, text: str, example: str) -> dict[str, Any]:
    """The JSON object that an option gives, as text or as @FILE.

    Raises:
        UsageError: It is none; the message shows the example.
    """
    where = option
    if text.startswith("@"):
        where = f"{option} {text}"
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"{where}: cannot be read: {reason}") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}:{error.lineno}:{error.colno}: not JSON: {error.msg}. Such as: {example}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a JSON object. Such as: {example}")
    return value


def known_of(registry: Registry, plan: Plan) -> Known:
    """What signals to a run may name, as far as it is known without starting an agent."""

    def action(agent: str, name: str) -> ActionInfo | None:
        declared = plan.agents.get(agent)
        declaration = agent_declaration(declared) if declared is not None else registry.agents.get(agent)
        kind = registry.agent_kinds.get(declaration.kind) if declaration is not None else None
        health = kind.describe(declaration) if kind is not None and declaration is not None else None
        return next((info for info in health.actions if info.name == name), None) if health is not None else None

    from noa.definitions.inputs import schema_problems

    return Known({*registry.agents, *plan.agents}, registry.modes, action, schema_problems)


def _check_going(history: History) -> None:
    if history.view.finished_ms:
        run = history.record.run_id
        how = history.view.status.replace("_", " ")
        raise RunStateError(f"run {run} is over ({how}): nothing can be changed about it", run=run)


async def _say(store: Store, target: Target, wish: Wish, actor: str, reason: str) -> dict[str, Any]:
    record, root = target.history.record, target.root.record
    expected = "" if is_driven(record) else await _refused_on_resume(store, target.history, wish, actor, reason)
    signal = await put_signal(store.journal, record.run_id, wish.kind, reason=reason, actor=actor, body=dict(wish.body))
    told: dict[str, Any] = {
        "run_id": record.run_id,
        "kind": wish.kind,
        "subject": wish.subject or None,
        "actor": actor,
        "signal": signal,
    }

    def became(status: str, line: str, refused: str = "") -> dict[str, Any]:
        return {**told, "status": status, "refused": refused or None, "line": line}

    if expected:
        line = f"refused: {expected}. No engine drives the run; it will record that once one goes on with it"
        return became("refused", line, expected)
    if not is_driven(record):
        return became("recorded", _kept(wish, root.run_id))
    judged = await _judged(store, record, signal)
    if isinstance(judged, SignalApplied):
        return became("applied", await _done(store, target, wish))
    if isinstance(judged, SignalRefused):
        return became("refused", f"refused: {judged.why}", judged.why)
    now = await store.journal.run(record.run_id)
    if now.status in OVER:
        why = f"the run was over before it could be taken: it {now.status.replace('_', ' ')}"
        return became("refused", f"refused: {why}", why)
    if not is_driven(now):
        return became("recorded", _kept(wish, root.run_id))
    line = f"recorded; the process that drives run {root.run_id} has not taken it yet. See: noa audit {record.run_id}"
    return became("recorded", line)


async def _judged(store: Store, record: RunRecord, signal: str) -> SignalApplied | SignalRefused | None:
    """What the engine that drives a run says; None where it says nothing in time, or is gone."""
    until_ms = now_ms() + _WAIT_MS
    while True:
        journal, run = store.journal, record.run_id
        judged = await wait_judged(journal, run, signal, after=record.last_seq, timeout_s=_LOOK_S)
        if judged is not None or now_ms() > until_ms:
            return judged
        now = await journal.run(run)
        if now.status in OVER or not is_driven(now):  # it may have said so just before
            return await wait_judged(journal, run, signal, after=record.last_seq, timeout_s=0)


async def _say_to(store: Store, children: list[History], wish: Wish, actor: str, reason: str) -> None:
    """Say the same to sub-workflows, where it changes something."""
    for child in children:
        if await _refused_on_resume(store, child, wish, actor, reason):
            continue
        run, body = child.record.run_id, dict(wish.body)
        signal = await put_signal(store.journal, run, wish.kind, reason=reason, actor=actor, body=body)
        if is_driven(child.record):
            await _judged(store, child.record, signal)


def _kept(wish: Wish, root: str) -> str:
    return f"recorded: {wish.done}. No engine drives the run: it counts once `noa resume {root}` goes on"


async def _done(store: Store, target: Target, wish: Wish) -> str:
    """What is said of a wish that came true; of an approval, whether others have to approve, too."""
    if wish.kind == "approve":
        asked = questions_in(await store.history(target.history.record.run_id))
        for question in asked:
            if question.task == wish.subject:
                count = f"{len(question.approvals)} of {question.quorum}"
                return f"{wish.done}, {count}: others have to approve, too"
    return wish.done


async def _refused_on_resume(store: Store, history: History, wish: Wish, actor: str, reason: str) -> str:
    """Why the engine that goes on with the run will refuse this; empty where it will not, or where that is not known.

    What was recorded before, and no engine took yet, is judged first.
    """
    state = history.state
    if state is None or history.plan is None:
        return ""
    known = known_of(store.registry, history.plan)
    run = history.record.run_id
    for earlier in await store.journal.signals([run]):
        _fold(state, earlier, known)
    wanted = SignalRecord("", run, wish.kind, actor, reason, dict(wish.body), now_ms())
    judged = judge(state, wanted, now_ms(), known)
    return judged.why if isinstance(judged, SignalRefused) else ""


def _fold(state: RunState, signal: SignalRecord, known: Known) -> None:
    event = judge(state, signal, now_ms(), known)
    if event is not None:
        state.apply(event)
