"""Where a run that is debugged stops: breakpoints and steps. Pure; part of the state, so it survives a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from noa.engine.nodes import TaskNode
from noa.model.plan import Expression

__all__ = ["Breakpoint", "Debugging", "Stepping"]

Stepping: TypeAlias = Literal["", "task", "stage"]


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Where to stop.

    Attributes:
        place: `stage/task` (for all its blocks), a path, or the name of a stage; `*` and `?` stand for any text.
        when: Stops only where this is true; `task` (name, stage, agent, action, inputs, attempt) is in its scope.
        once: Whether it is gone after it stopped once.
        on: Before the task begins, or after it failed and before the recovery chain is asked.
    """

    id: str
    place: str
    when: Expression | None = None
    once: bool = False
    on: Literal["start", "failure"] = "start"

    def matches(self, task: TaskNode) -> bool:
        """Whether it is about this task; its condition is another matter."""
        stage = task.stage.plan.name
        names = (task.path, f"{stage}/{task.plan.name}", f"{stage}.{task.plan.name}", stage)
        return any(fnmatchcase(name, self.place) for name in names)


@dataclass(slots=True)
class Debugging:
    """What the debugger wants of a run.

    Attributes:
        stepping: Stop at the next task that begins, or at the first one of a stage that was not begun before.
        until: Stop at this task; empty for none.
        begun: How many stages had begun when "stage" was asked for.
    """

    stepping: Stepping = ""
    until: Breakpoint | None = None
    begun: int = 0
    breakpoints: dict[str, Breakpoint] = field(default_factory=dict)

    def steps(self, task: TaskNode) -> bool:
        """Whether a step ends before this task."""
        return self.stepping == "task" or (self.stepping == "stage" and task.stage.ordinal > self.begun)

    def at(self, task: TaskNode, on: Literal["start", "failure"]) -> list[Breakpoint]:
        """The breakpoints about this task."""
        found = [point for point in self.breakpoints.values() if point.on == on and point.matches(task)]
        if on == "start" and self.until is not None and self.until.matches(task):
            found.append(self.until)
        return found

    def stopped(self, breakpoint_id: str) -> None:
        """It stopped: everything that would begin now stops too, until the person lets it go on."""
        point = self.breakpoints.get(breakpoint_id)
        if point is not None and point.once:
            del self.breakpoints[breakpoint_id]
        self.until = None
        self.stepping = "task"
