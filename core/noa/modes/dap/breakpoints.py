"""Breakpoints as an editor sets them: whole lists, by lines of the definition, by names, on failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa.errors import NoaError
from noa.model.plan import Plan
from noa.modes.debugger import Debugger, check_breakpoint
from noa.modes.places import at_line, named

__all__ = ["Breakpoints", "Wanted"]

FAILURE = "failure"
LINES = "line:"


@dataclass(slots=True)
class Wanted:
    """A breakpoint that an editor set.

    Attributes:
        number: By which the editor knows it.
        line: Line of the definition for which it was set, from 1; 0 for one by name.
        text: Name for which it was set.
        place: Where it is in the run; empty as long as that is not known, and where it makes no sense.
        message: Why it is not verified.
    """

    number: int
    line: int = 0
    text: str = ""
    when: str = ""
    on_failure: bool = False
    place: str = ""
    real_line: int = 0
    message: str = ""

    @property
    def name(self) -> str:
        """Its id in the run."""
        return f"editor-{self.number}"

    @property
    def means(self) -> tuple[int, str, str, bool]:
        """What the editor said of it."""
        return self.line, self.text, self.when, self.on_failure

    def resolve(self, plan: Plan) -> None:
        """Find its place in a definition."""
        self.place, self.message = "", ""
        try:
            if self.line:
                place = at_line(plan, self.line)
                if place is None:
                    self.message = "there is no task at this line or after it"
                    return
                found, self.real_line = place.name, place.line
            else:
                found = "*" if self.text in ("", "*") else named(plan, self.text)
            check_breakpoint(plan, found, when=self.when, on_failure=self.on_failure)
            self.place = found
        except NoaError as error:
            self.message = error.message


@dataclass(slots=True)
class Breakpoints:
    """All that the editor wants, by where it comes from: "line:PATH", "name", "failure"."""

    plan: Plan | None = None
    groups: dict[str, list[Wanted]] = field(default_factory=dict)
    _last: int = 0

    def set(self, group: str, said: list[Mapping[str, Any]], refused: str = "") -> tuple[list[Wanted], list[Wanted]]:
        """Put a list in the place of the one before.

        Args:
            said: Fields of `Wanted`.
            refused: Why none of them can be verified; empty where they can.

        Returns:
            All of them in the same order, and those that are gone.
        """
        before = {point.means: point for point in self.groups.get(group, [])}
        now: list[Wanted] = []
        for fields in said:
            point = Wanted(0, **fields)
            known = before.pop(point.means, None)
            if known is not None:
                point = known
            else:
                self._last += 1
                point.number = self._last
            if refused:
                point.place, point.message = "", refused
            elif self.plan is None:
                point.message = "not known before the definition is read"
            else:
                point.resolve(self.plan)
            now.append(point)
        self.groups[group] = now
        return now, list(before.values())

    def read(self, plan: Plan, refused: Callable[[str], str]) -> list[Wanted]:
        """The definition is known now; the breakpoints that could not be verified before.

        Args:
            refused: Given the path of a file, why its lines are not those of the definition; empty where they are.
        """
        self.plan = plan
        waiting = []
        for group, points in self.groups.items():
            path = group.removeprefix(LINES)
            why = refused(path) if path != group else ""
            for point in points:
                if why:
                    point.message = why
                else:
                    point.resolve(plan)
                waiting.append(point)
        return waiting

    def named(self, name: str) -> Wanted | None:
        """The breakpoint of an id in the run."""
        return next((p for points in self.groups.values() for p in points if p.name == name), None)

    async def apply(self, bug: Debugger, gone: list[Wanted]) -> None:
        """Make those of the run what they are to be."""
        for point in gone:
            if point.name in bug.breakpoints:
                await bug.clear(point.name)
        for points in self.groups.values():
            for point in points:
                if point.place and point.name not in bug.breakpoints:
                    await bug.break_at(point.place, when=point.when, on_failure=point.on_failure, name=point.name)
