"""`noa answer`: say how a task goes on that waits for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import NoaCommand, home_option, json_option, plugin_option, print_json, run_argument, settings_of

if TYPE_CHECKING:
    from noa.cli.people import Question
    from noa.cli.session import History, Store
    from noa.plugin import Registry

__all__ = ["command"]

_WAIT_S = 10.0


@click.command(cls=NoaCommand, name="answer", short_help="Say how a task goes on that waits for a person.")
@run_argument
@click.argument("said", metavar="[TASK] [CHOICE]", nargs=-1)
@click.option("--outputs", metavar="JSON|@FILE", help="With the choice override: the outputs that the task is to have.")
@click.option("--reason", default="", metavar="TEXT", help="Why; stands in the run's events.")
@json_option
@plugin_option
@home_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    said: tuple[str, ...],
    *,
    outputs: str | None,
    reason: str,
    as_json: bool,
    plugins: tuple[str, ...],
    home: str | None,
) -> None:
    """Answer for TASK of RUN, which is held: CHOICE is retry, skip, override, fail or rollback.

    Without CHOICE the tasks that are held are listed, with what is asked, since when, and which answers are taken. TASK
    may be left out where only one is held. Tasks of the run's sub-workflows are listed and answered, too.

    \b
    Examples:
      noa answer latest
      noa answer latest retry
      noa answer 20261122-2215 pay/charge skip --reason "paid by hand"
      noa answer latest pay/charge override --outputs '{"receipt": "R-17"}'
      noa answer latest pay/charge override --outputs @receipt.json

    The answer is recorded durably before anything else. A live process that drives the run takes it within a moment;
    where there is none, it counts as soon as `noa resume RUN` goes on. RUN is the id of a run, any beginning of it that
    is unique, or `latest`.

    Exit codes: 0 the answer was taken or recorded, 1 it was refused, 2 the call is wrong or nothing is asked.
    """
    from noa.cli.actor import actor_of
    from noa.cli.session import open_store, run_async

    settings = settings_of(home, plugins)
    actor = actor_of(settings)

    async def answer() -> dict[str, Any]:
        async with open_store(settings) as store:
            histories = await _histories(store, run)
            questions = [question for history in histories for question in _asked(history)]
            if not said:
                return _listed(histories[0], questions, as_json=as_json)
            question, choice = _chosen(histories[0], questions, said)
            body: dict[str, Any] = {"task": question.task, "choice": choice}
            if choice == "override":
                body["outputs"] = _outputs(outputs, question)
                _check_outputs(store.registry, next(h for h in histories if h.record.run_id == question.run_id), body)
            elif outputs is not None:
                _refuse(f"--outputs goes with the choice override, not with '{choice}'")
            return await _put(store, histories, question, body, reason, actor)

    told = run_async(answer)
    if as_json:
        print_json(told)
    else:
        for line in told.pop("lines", []):
            click.echo(line)
    ctx.exit(NoaCommand.FAILED if told.get("refused") else NoaCommand.SUCCEEDED)


def _refuse(text: str) -> None:
    from noa.errors import UsageError

    raise UsageError(text)


async def _histories(store: Store, run: str) -> list[History]:
    """The run and its sub-workflows that go on."""
    from noa.cli.session import plugin_needed
    from noa.errors import RunStateError, UsageError

    history = await store.history(run)
    run_id = history.record.run_id
    if history.view.finished_ms:
        how = history.view.status.replace("_", " ")
        raise RunStateError(f"run {run_id} is over ({how}): nothing of it waits for an answer", run=run_id)
    if history.state is None:
        raise plugin_needed(run_id, UsageError(history.problem))
    return [history, *await store.children(history)]


def _asked(history: History) -> list[Question]:
    from noa.cli.people import questions_of

    if history.state is None:
        return []
    return [question for question in questions_of(history.state) if question.kind in ("ask", "failure")]


def _listed(history: History, questions: list[Question], *, as_json: bool) -> dict[str, Any]:
    from noa.cli.people import question_lines
    from noa.cli.session import is_driven, now_ms

    run = history.record.run_id
    driven = is_driven(history.record)
    if as_json:
        return {"run_id": run, "driven": driven, "questions": [question.to_dict() for question in questions]}
    if not questions:
        return {"lines": [f"run {run}: no task waits for a person. What it waits for: noa why {run}"]}
    lines = [line for question in questions for line in question_lines(question, now_ms(), "")]
    if not driven:
        lines.append(f"no process drives the run: an answer is recorded, and counts once `noa resume {run}` goes on")
    return {"lines": lines}


def _chosen(history: History, questions: list[Question], said: tuple[str, ...]) -> tuple[Question, str]:
    """Which question is answered, and how.

    Raises:
        UsageError: That is not said, or not among what is asked.
    """
    from noa.errors import UsageError
    from noa.model.events import ANSWERS

    run = history.record.run_id
    held = ", ".join(question.task for question in questions) or "none"
    if len(said) > 2:
        raise UsageError(f"expected `noa answer {run} [TASK] CHOICE`, got more: {' '.join(said[2:])}")
    if not questions:
        raise UsageError(f"run {run}: no task waits for a person. What it waits for: noa why {run}", run=run)
    tasks = {question.task for question in questions}
    if len(said) == 1 and said[0] in tasks:
        choices = next(", ".join(q.choices) for q in questions if q.task == said[0])
        raise UsageError(f"say how '{said[0]}' goes on: noa answer {run} {said[0]} CHOICE, one of {choices}")
    path, choice = said if len(said) == 2 else ("", said[0])
    if choice not in ANSWERS:
        raise UsageError(f"choice '{choice}' is not known. Known: {', '.join(ANSWERS)}")
    if not path and len(questions) > 1:
        raise UsageError(f"run {run}: more than one task waits for a person; name one of {held}")
    for question in questions:
        if not path or question.task == path:
            if choice not in question.choices:
                raise UsageError(f"'{choice}' is not among the answers for {question.task}: {_or(question.choices)}")
            return question, choice
    raise UsageError(f"run {run}: task '{path}' does not wait for a person. Tasks that do: {held}", run=run)


def _or(choices: tuple[str, ...]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _outputs(text: str | None, question: Question) -> dict[str, Any]:
    """The JSON object that --outputs gives."""
    from noa.cli.interventions import json_object
    from noa.errors import UsageError

    example = f"""noa answer {question.run_id} {question.task} override --outputs '{{"field": 1}}'"""
    if text is None:
        raise UsageError(f"the choice override needs the outputs that the task is to have: {example}")
    return json_object("--outputs", text, example)


def _check_outputs(registry: Registry, history: History, body: dict[str, Any]) -> None:
    """Refuse outputs that the action itself would not be let give, where its schema is known without starting it."""
    from noa.cli.interventions import known_of
    from noa.definitions import schema_problems
    from noa.errors import UsageError

    assert history.state is not None
    task = history.state.tasks[body["task"]]
    action = known_of(registry, history.state.plan).action(task.agent, task.action)
    problems = schema_problems(action.output_schema, body["outputs"]) if action is not None else []
    if problems:
        told = "; ".join(problems[:5])
        raise UsageError(
            f"--outputs do not fit what action '{task.action}' of agent '{task.agent}' gives: {told}. Nothing was "
            "recorded"
        )


async def _put(
    store: Store, histories: list[History], question: Question, body: dict[str, Any], reason: str, actor: str
) -> dict[str, Any]:
    from noa.cli.session import is_driven
    from noa.cli.signals import put_signal, wait_judged
    from noa.model.events import SignalRefused

    root = histories[0].record
    record = next(h.record for h in histories if h.record.run_id == question.run_id)
    signal = await put_signal(store.journal, question.run_id, "answer", reason=reason, actor=actor, body=body)
    told: dict[str, Any] = {"run_id": question.run_id, "task": question.task, "choice": body["choice"]}
    if not is_driven(record):
        line = f"recorded: '{body['choice']}' for {question.task}; `noa resume {root.run_id}` goes on with it"
        return {**told, "status": "recorded", "refused": None, "lines": [line]}
    judged = await wait_judged(store.journal, question.run_id, signal, after=record.last_seq, timeout_s=_WAIT_S)
    if isinstance(judged, SignalRefused):
        return {**told, "status": "refused", "refused": judged.why, "lines": [f"refused: {judged.why}"]}
    if judged is None:
        line = (
            f"recorded: '{body['choice']}' for {question.task}; the process that drives run {root.run_id} has not "
            f"taken it yet. See what became of it: noa why {root.run_id}"
        )
        return {**told, "status": "recorded", "refused": None, "lines": [line]}
    return {**told, "status": "applied", "refused": None, "lines": [f"{question.task}: '{body['choice']}' is taken"]}
