"""What a case is, what it may need, and how it says that the agent did something else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from noa.testing.conformance.bench import Bench

__all__ = ["CASES", "Case", "CaseResult", "NotApplicable", "Status", "Unreachable", "Violation", "case", "expect"]

Status: TypeAlias = Literal["passed", "failed", "skipped"]


class Violation(Exception):
    """The agent did not do what the contract requires. The text says what was seen instead, as a sentence."""


class Unreachable(Violation):
    """The agent could not be launched or dialled, or did not come to serve. The text says what was seen."""


class NotApplicable(Exception):
    """The case does not apply to this agent. The text says why."""


def expect(holds: bool, seen: str) -> None:
    """Raise Violation with what was seen where something does not hold."""
    if not holds:
        raise Violation(seen)


@dataclass(frozen=True, slots=True)
class Case:
    """Something that the contract requires, and the function that looks whether it holds.

    Attributes:
        id: Group and name, such as "execute.terminal"; also in `agents/CONTRACT.md`.
        requirement: What must hold, in one sentence.
        advice: What to change where it does not, and which part of `agents/CONTRACT.md` says so.
        needs: What must be there, else the case is skipped: "command" (the agent was launched, not dialled), "files"
            (it runs on this machine), "work" (an action that ends well: `echo` or one given by the caller), "echo" or a
            field of it such as "echo.sleep_s".
        function: Returns where it holds; raises Violation or NotApplicable.
    """

    id: str
    requirement: str
    advice: str
    needs: tuple[str, ...]
    function: Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case came out.

    Attributes:
        id: Of the case.
        status: passed, failed, or skipped where it does not apply.
        message: failed: what was seen and what the contract requires; skipped: why.
        advice: failed: what to change.
        seconds: How long it took.
    """

    id: str
    status: Status
    message: str = ""
    advice: str = ""
    seconds: float = 0.0


CASES: dict[str, Case] = {}
"""All cases by id, in the order in which they are run."""


def case(
    name: str, requirement: str, *, advice: str, needs: str = ""
) -> Callable[[Callable[[Bench], Awaitable[None]]], Callable[[Bench], Awaitable[None]]]:
    """Register a function as the case of this id; `needs` are words separated by spaces."""

    def register(function: Callable[[Bench], Awaitable[None]]) -> Callable[[Bench], Awaitable[None]]:
        if name in CASES:
            raise ValueError(f"case {name} is there twice")
        CASES[name] = Case(name, requirement, advice, tuple(needs.split()), function)
        return function

    return register
