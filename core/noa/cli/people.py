"""What people are asked: which tasks of a run and of its sub-workflows are held, and the command that answers each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from noa.cli.text import columns, duration, one_line, plural, short_json
from noa.engine.commands import Execute, SetTimer
from noa.engine.engine import Engine, Running
from noa.engine.nodes import TaskNode
from noa.engine.state import RunState
from noa.model.events import ANSWERS, Event, HoldKind, RunFinished
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId, TaskPath, execution_id

__all__ = ["People", "Question", "answer_command", "other_answers", "question_lines", "questions_of"]


_OWN_COMMANDS = frozenset({"approve", "reject"})
_UNPAUSE = "unpause"
_VALUE = 200
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about one held task or stage; without a task: that a paused run may go on.

    Attributes:
        text: As the definition puts it; may be empty.
        choices: Answers that are taken.
        since_ms: When it was asked, UTC epoch milliseconds.
        default: The answer that counts at `due_ms` where nobody gave one; empty where it waits for ever.
        failure: Of the attempt after which it was asked.
        kind: What asks: a recovery strategy, an approval, the debugger, somebody who paused the run.
        agent: That would be asked next; empty for a stage or a sub-workflow.
        action: What it would be asked for.
        inputs: With which, changes by people included; None for a stage.
        show: What the definition wants people to see.
        approvers: Who may answer; empty is anybody.
        barred: Who may not approve: who began the run, or changed the task.
        quorum: How many have to approve.
        approvals: Who did.
        changed_by: Who changed the inputs or the agent last; what is shown is as they left it.
    """

    run_id: RunId
    task: TaskPath
    text: str
    choices: tuple[str, ...]
    since_ms: int
    default: str = ""
    due_ms: int | None = None
    failure: Failure | None = None
    kind: HoldKind | Literal["paused"] = "ask"
    agent: str = ""
    action: str = ""
    inputs: Mapping[str, Any] | None = None
    show: Mapping[str, Any] = field(default_factory=dict)
    approvers: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    quorum: int = 1
    approvals: tuple[str, ...] = ()
    changed_by: str = ""

    @property
    def asks(self) -> tuple[object, ...]:
        """What makes it another question: not who approved so far, nor with which inputs it would go on."""
        return (self.run_id, self.task, self.kind, self.text, self.since_ms, self.approvers)

    @property
    def approves(self) -> bool:
        """Whether an approval is asked for."""
        return self.kind in ("approval", "policy")

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        import msgspec

        return {
            "run_id": self.run_id,
            "task": self.task or None,
            "kind": self.kind,
            "question": self.text,
            "choices": list(self.choices),
            "since_ms": self.since_ms,
            "default": self.default or None,
            "due_ms": self.due_ms,
            "failure": msgspec.to_builtins(self.failure) if self.failure is not None else None,
            "answer_with": answer_command(self.run_id, self.task, self.choices),
            "agent": self.agent or None,
            "action": self.action or None,
            "inputs": self.inputs,
            "show": self.show,
            "approvers": list(self.approvers),
            "barred": list(self.barred),
            "quorum": self.quorum,
            "approvals": list(self.approvals),
            "changed_by": self.changed_by or None,
        }


def answer_command(run: str, task: str, choices: tuple[str, ...]) -> str:
    """The command that gives the first of the choices, ready to be typed."""
    first = choices[0] if choices else "retry"
    if first in _OWN_COMMANDS:
        reason = " --reason TEXT" if first == "reject" else ""
        return f"noa {first} {run} {_quoted(task)}{reason}"
    if first == _UNPAUSE:
        return f"noa unpause {run}"
    if first == "continue":
        return f"noa debug --attach {run}"
    outputs = " --outputs '{}'" if first == "override" else ""
    return f"noa answer {run} {_quoted(task)} {first}{outputs}"


def other_answers(run: str, task: str, choices: tuple[str, ...]) -> str:
    """What else can be answered, such as `   (or: skip, fail)`; empty where there is nothing."""
    others = [answer_command(run, task, (choice,)) if choice in _OWN_COMMANDS else choice for choice in choices[1:]]
    return f"   (or: {', '.join(others)})" if others else ""


def _quoted(task: str) -> str:
    """A task of a block has brackets, which a shell would read as a pattern."""
    return f"'{task}'" if "[" in task or "~" in task else task


def questions_of(state: RunState) -> list[Question]:
    """What is asked in this run, in the order in which it was asked; not what its sub-workflows ask."""
    found = []
    for subject, node, hold in state.iter_holds():
        timer = state.pending.get(f"timer:hold:{subject}")
        due_ms = timer.due_ms if isinstance(timer, SetTimer) else None
        default = hold.on_timeout if due_ms is not None else ""
        choices = tuple(hold.choices) or ANSWERS
        barred = {state.actor} if hold.four_eyes else set()
        more: dict[str, Any] = {}
        if isinstance(node, TaskNode):
            if node.undoes is not None:
                choices = tuple(choice for choice in choices if choice != "rollback")
            barred |= {node.editor} if hold.four_eyes else set()
            inputs = {**(node.inputs or {}), **(node.edits or {})}
            what = node.action or node.plan.workflow or ""
            more = {"failure": node.failure, "agent": node.agent, "action": what, "inputs": inputs}
            more["changed_by"] = node.editor
        question = Question(
            run_id=state.run_id,
            task=TaskPath(subject),
            text=hold.question,
            choices=choices,
            since_ms=node.changed_ms if isinstance(node, TaskNode) else node.held_ms,
            default=default,
            due_ms=due_ms,
            kind=hold.kind,
            show=hold.show,
            approvers=tuple(hold.approvers),
            barred=tuple(sorted(barred - {""})),
            quorum=hold.quorum,
            approvals=node.approvals,
            **more,
        )
        found.append(question)
    if state.paused:
        text = f"{state.paused} has paused it, and nothing more begins"
        found.append(Question(state.run_id, TaskPath(""), text, (_UNPAUSE,), state.paused_ms, kind="paused"))
    return found


def question_lines(question: Question, now_ms: int, indent: str = "  ") -> list[str]:
    """A question for people: what it is about, why, how to answer, what happens if nobody does."""
    asked = one_line(question.text, 500) or "what is to be done?"
    since = duration(max(0, now_ms - question.since_ms))
    subject = question.task or f"run {question.run_id}"
    lines = [f"{indent}{subject} waits for a person since {since}: {asked}"]
    if question.failure is not None:
        lines.append(f"{indent}  failed with   {one_line(str(question.failure), 300)}")
    if question.approves:
        lines += [f"{indent}  {line}" for line in _approval_lines(question)]
    more = other_answers(question.run_id, question.task, question.choices)
    lines.append(f"{indent}  answer with   {answer_command(question.run_id, question.task, question.choices)}{more}")
    if question.due_ms is not None:
        left = duration(max(0, question.due_ms - now_ms))
        lines.append(f"{indent}  otherwise     '{question.default}' counts in {left}")
    return lines


def _approval_lines(question: Question) -> list[str]:
    """What would be done, what the definition shows of it, and who may approve."""
    lines = []
    if question.inputs is not None:
        what = f"'{question.action}' by agent '{question.agent}', " if question.agent else ""
        what = what or (f"sub-workflow '{question.action}', " if question.action else "")
        lines.append(f"does          {what}inputs {short_json(question.inputs, _VALUE)}")
    shown = list(question.show.items())
    rows = columns([[name, short_json(value, _VALUE)] for name, value in shown[:_SHOWN]])
    lines += [f"{'shows' if not number else '':<14}{row}" for number, row in enumerate(rows)]
    if len(shown) > _SHOWN:
        lines.append(f"{'':<14}and {plural(len(shown) - _SHOWN, 'more value')}; noa approvals --json has all")
    if question.changed_by:
        lines.append(f"changed       by {question.changed_by}")
    who = ", ".join(question.approvers) or "anybody"
    barred = [name for name in question.barred if not question.approvers or name in question.approvers]
    who += f" but {' and '.join(barred)}" if barred else ""
    done = f" ({', '.join(question.approvals)})" if question.approvals else ""
    if question.quorum > 1 or done:
        who += f"; {len(question.approvals)} of {question.quorum} did{done}"
    if question.approvers or question.barred or question.quorum > 1:
        lines.append(f"may approve   {who}")
    return lines


class People:
    """Watches a run that goes on in this process, with its sub-workflows, for tasks that wait for a person.

    Args:
        asked: Told of all open questions whenever they change.
        alone: Told when nothing but people moves the run on.
    """

    def __init__(self, *, asked: Callable[[list[Question]], None], alone: Callable[[], None]) -> None:
        self._asked = asked
        self._alone = alone
        self._engine: Engine | None = None
        self._root: Running | None = None
        self._children: dict[ExecutionId, RunId] = {}
        self._holding: set[RunId] = set()
        self._told: list[Question] = []

    @property
    def questions(self) -> list[Question]:
        """What is asked now."""
        return self._told

    def attend(self, engine: Engine, root: Running) -> None:
        """Begin to watch this run."""
        self._engine, self._root = engine, root
        self._look(root.run_id)

    def on_event(self, run: RunId, event: Event) -> None:
        """Something happened in a run of this process."""
        if self._engine is None:
            return
        if isinstance(event, RunFinished):
            self._holding.discard(run)
        self._look(run)

    def _look(self, run: RunId) -> None:
        assert self._engine is not None
        assert self._root is not None
        running = self._engine.running(run)
        if running is not None:
            state = running.state
            if state.parent:
                self._children[ExecutionId(state.parent)] = run
            if _holds(state):
                self._holding.add(run)
            else:
                self._holding.discard(run)
        if not self._holding and not self._told:
            return
        found = [
            question
            for holder in sorted(self._holding)
            if (held := self._engine.running(holder)) is not None
            for question in questions_of(held.state)
        ]
        if found != self._told:
            self._told = found
            self._asked(found)
        if found and self._waits(self._root.state):
            self._alone()

    def _waits(self, state: RunState) -> bool:
        """Whether nothing but people (and the time that they have) moves this run on."""
        waits = _holds(state)
        for command in state.pending.values():
            if isinstance(command, SetTimer):
                if command.timer.startswith(("retry:", "hedge:")):
                    return False
            elif isinstance(command, Execute) and self._child_waits(state, command):
                waits = True
            else:
                return False
        return waits

    def _child_waits(self, state: RunState, command: Execute) -> bool:
        assert self._engine is not None
        run = self._children.get(execution_id(state.run_id, command.task, command.attempt))
        child = self._engine.running(run) if run is not None else None
        return child is not None and self._waits(child.state)


def _holds(state: RunState) -> bool:
    """Whether somebody has to say something, be it that a paused run goes on."""
    return bool(state.held or state.held_stages or state.paused)
