"""The class that an agent author writes, and the mark of its actions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, overload

from noa.errors import PluginError

__all__ = ["Agent", "Marked", "action", "marked_actions"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__noa_action__"


@dataclass(frozen=True, slots=True)
class Marked:
    """What `@action` says about a method."""

    name: str
    description: str
    idempotent: bool


class Agent:
    """Something that executes actions. Write a subclass with `@action` methods; its constructor takes no arguments.

    Optional hooks, each sync (called in a thread) or async:

    * `load(self)` prepares the agent before it takes work, such as loading a model. Health says STARTING meanwhile;
      what it raises makes the agent NOT_SERVING with that message.
    * `on_release(self, run_id)` gives up everything that is held for a run, which is over. Called for every run that
      ends, also one that this agent never saw. May return how many things it released; where it raises, that is
      logged and counts as one.
    """

    name: ClassVar[str] = ""
    """Name that the agent gives itself. Required."""

    version: ClassVar[str] = "0"
    """Version of the agent."""

    language: ClassVar[str] = "python"
    """Language that it is written in."""

    capacity: ClassVar[int] = 0
    """Executions that can go on at once; 0 means no limit, except that at most `min(32, cores + 4)` sync ones have a
    thread and more wait for one."""

    load: ClassVar[Callable[..., Any] | None] = None
    on_release: ClassVar[Callable[..., Any] | None] = None


@overload
def action(function: F, /) -> F: ...
@overload
def action(*, name: str = "", description: str = "", idempotent: bool = False) -> Callable[[F], F]: ...
def action(
    function: F | None = None, /, *, name: str = "", description: str = "", idempotent: bool = False
) -> F | Callable[[F], F]:
    """Mark a method of an Agent as something that it can be asked for.

    The annotated parameters are the inputs and the annotated result is the outputs (a dict, TypedDict, pydantic model
    or dataclass; None means none); JSON Schemas come from both. A parameter annotated with `Context` gets the
    execution. A parameter named `inputs` of an object type takes the whole input object, `**inputs` takes every field
    that no other parameter takes. Fields that no parameter takes are ignored. A sync method runs in a thread.

    Args:
        function: The method, where the decorator stands without parentheses.
        name: As tasks name it; the method's name where empty.
        description: One sentence for a person; the docstring's first line where empty.
        idempotent: Whether doing it twice with the same inputs has the same effect as once.
    """

    def mark(target: F) -> F:
        doc = (inspect.getdoc(target) or "").strip().split("\n", 1)[0]
        setattr(target, _MARK, Marked(name or target.__name__, description or doc, idempotent))
        return target

    return mark if function is None else mark(function)


def marked_actions(agent: Agent) -> dict[str, tuple[Marked, Callable[..., Any]]]:
    """The actions of an agent by name: their marks and bound methods, in the order of their definition.

    Raises:
        PluginError: It has no name, no action, or two of one name.
    """
    kind = type(agent)
    if not agent.name:
        raise PluginError(f"agent class {kind.__qualname__} has no name: set the class attribute `name`", plugin="")
    found: dict[str, tuple[Marked, Callable[..., Any]]] = {}
    attributes = {key: None for base in reversed(kind.__mro__) for key in vars(base)}
    for attribute in attributes:
        mark = getattr(inspect.getattr_static(kind, attribute, None), _MARK, None)
        if not isinstance(mark, Marked):
            continue
        if mark.name in found:
            raise PluginError(f"agent '{agent.name}' has two actions named '{mark.name}'", plugin="", agent=agent.name)
        found[mark.name] = (mark, getattr(agent, attribute))
    if not found:
        raise PluginError(
            f"agent '{agent.name}' ({kind.__qualname__}) has no action: mark a method with @action",
            plugin="",
            agent=agent.name,
        )
    return found
