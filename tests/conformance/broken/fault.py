"""What a fault is, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from .actions import Actions
from .agent import ReferenceAgent
from .executions import Executions
from .launch import Launch
from .payloads import Payloads

__all__ = ["FAULTS", "Fault", "assemble", "fault"]

_Kind = TypeVar("_Kind")
Part = type[ReferenceAgent] | type[Actions] | type[Executions] | type[Launch] | type[Payloads]


@dataclass(frozen=True)
class Fault:
    """One rule of the contract that is broken.

    Args:
        name: The case's id, with `:variant` where a case has several faults.
        broken: The part of the reference agent that breaks it, which takes the place of the right one.
        says: Words that must stand in the message of the case that fails, in lower case.
        also: Other cases that fail because of it, each with the reason why no fault of this kind can spare them.
    """

    name: str
    broken: Part
    says: tuple[str, ...]
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def case(self) -> str:
        """The case that fails."""
        return self.name.partition(":")[0]


FAULTS: dict[str, Fault] = {}


def fault(name: str, *says: str, also: Mapping[str, str] | None = None) -> Callable[[Part], Part]:
    """Enter a broken part into the table."""

    def enter(broken: Part) -> Part:
        if name in FAULTS or not broken.__doc__:
            raise ValueError(f"fault {name}: each has a name of its own and a docstring that says what is wrong")
        FAULTS[name] = Fault(name, broken, says, also or {})
        return broken

    return enter


def assemble(name: str | None) -> ReferenceAgent:
    """The agent of this launch, with the fault of this name or without any."""
    broken = FAULTS[name].broken if name else object

    def part(kind: type[_Kind]) -> type[_Kind]:
        return cast("type[_Kind]", broken) if issubclass(broken, kind) else kind

    listen, token = part(Launch)().read()
    return part(ReferenceAgent)(
        listen, token, payloads=part(Payloads)(), work=part(Actions)(), executions=part(Executions)()
    )
