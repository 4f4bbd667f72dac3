"""Where the tasks of a definition stand in its text: what a line, or a name that a person types, means. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from noa.errors import UsageError
from noa.model.plan import Plan

__all__ = ["Place", "at_line", "named", "places"]


@dataclass(frozen=True, slots=True)
class Place:
    """A task of the definition; `line` and `column` count from 1."""

    stage: str
    task: str
    line: int
    column: int

    @property
    def name(self) -> str:
        """`stage/task`, by which it is meant in all blocks of its stage."""
        return f"{self.stage}/{self.task}"


def places(plan: Plan) -> list[Place]:
    """The tasks of a definition in the order of its text."""
    found = [
        Place(name, task.name, task.position.line, task.position.column)
        for name, stage in plan.stages.items()
        for template in stage.templates.values()
        for task in template.tasks
    ]
    return sorted(found, key=lambda place: (place.line, place.column))


def at_line(plan: Plan, line: int) -> Place | None:
    """The task in whose text a line is, or the first one after it; None where there is none."""
    found = [place for place in places(plan) if place.line]
    before = [place for place in found if place.line <= line]
    if before:
        own = next(place for place in before if place.line == before[-1].line)
        if _is_inside(plan.source.splitlines(), before[-1], line):
            return own
    return next((place for place in found if place.line >= line), None)


def _is_inside(lines: list[str], place: Place, line: int) -> bool:
    if line == place.line:
        return True
    text = lines[place.line : line]
    if len(text) != line - place.line or _is_empty(text[-1]):
        return False
    return all(_is_empty(one) or len(one) - len(one.lstrip()) >= place.column - 1 for one in text)


def _is_empty(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def named(plan: Plan, text: str) -> str:
    """The place that a person means by `stage.task`, `stage/task`, a stage, a task, a line, FILE:LINE or a pattern.

    Raises:
        UsageError: Nothing is there, or more than one thing may be meant.
    """
    line = text.rpartition(":")[2]
    if line.isdigit():
        place = at_line(plan, int(line))
        if place is None:
            raise UsageError(f"there is no task at line {line} of {plan.source_name} or after it")
        return place.name
    known = list(dict.fromkeys(place.name for place in places(plan)))
    alike = text.replace(".", "/")
    exact = [name for name in known if name == text or name.replace(".", "/") == alike]
    if exact:
        return exact[0]
    if text in plan.stages or any(sign in text for sign in "*?["):
        return text
    tasks = [name for name in known if name.rpartition("/")[2] == text]
    if len(tasks) == 1:
        return tasks[0]
    if tasks:
        raise UsageError(f"'{text}' may be {' or '.join(tasks)}: name the stage, too")
    near = difflib.get_close_matches(alike, [*known, *plan.stages], 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    shown = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
    raise UsageError(f"'{text}' is no task or stage of the definition. Tasks: {shown}.{hint}")
