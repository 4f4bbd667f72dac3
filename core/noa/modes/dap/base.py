"""What a session consists of: what it knows, and how it speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from noa.errors import NoaError, UsageError
from noa.model.ids import RunId
from noa.model.plan import Plan
from noa.modes.dap.breakpoints import Breakpoints
from noa.modes.dap.variables import Handles
from noa.modes.debugger import Debugger

__all__ = ["Arguments", "Body", "Debugged", "OpenRuns", "Runs", "SessionBase", "Wish", "told", "whole"]

Arguments: TypeAlias = Mapping[str, Any]

Body: TypeAlias = dict[str, Any] | None

RUN_THREAD = 1

SOURCE = 1


class Debugged(Protocol):
    """A run that is debugged; `before` is the mode to give back."""

    @property
    def debugger(self) -> Debugger:
        """The run."""

    @property
    def before(self) -> str:
        """Its mode without a debugger."""

    @property
    def how(self) -> str:
        """How it came to be debugged."""


class Runs(Protocol):
    """Where runs are begun and found."""

    def load(self, program: str) -> Plan:
        """Compile a definition."""

    async def begin(self, plan: Plan, inputs: Mapping[str, Any], *, mode: str = "debug") -> Debugged:
        """Begin a run."""

    async def attach(self, run: str) -> Debugged:
        """Stop a run that goes on, or look at one that is over."""

    def observed(self, run: RunId, *, after_id: int = 0) -> Sequence[Any]:
        """What was observed of a run's tasks since: records with `id`, `task` and `observation`."""

    def text_of(self, path: str) -> str | None:
        """Text of a file; None where there is none."""

    async def close(self) -> None:
        """Let go of everything; runs that are not over stay as they are."""


OpenRuns: TypeAlias = Callable[[str | None, Sequence[str], bool], Awaitable[Runs]]
"""Opens the store: its folder (None is the usual one), plugin files, and whether it must exist already."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What `launch` or `attach` asked for."""

    kind: str
    inputs: Mapping[str, Any]
    run: str
    program: str
    stop_on_entry: bool
    stop_at_end: bool
    debugs: bool


class SessionBase:
    """One editor; see `noa.modes.dap.session.Session`."""

    def __init__(self, send: Callable[[dict[str, Any]], None], open_runs: OpenRuns) -> None:
        self.over = False
        self._send = send
        self._open = open_runs
        self._seq = 0
        self._handles = Handles()
        self._points = Breakpoints()
        self._threads: dict[str, int] = {}
        self._lines, self._columns = 1, 1
        self._runs: Runs | None = None
        self._plan: Plan | None = None
        self._wish: Wish | None = None
        self._target: Debugged | None = None
        self._moving: asyncio.Task[None] | None = None
        self._pausing = False
        self._entered = False
        self._observed_id = 0
        self._ever = False
        self._after: list[Callable[[], None]] = []

    def _message(self, kind: str, **fields: Any) -> None:
        self._seq += 1
        self._send({"seq": self._seq, "type": kind, **fields})

    def _event(self, event: str, **body: Any) -> None:
        self._message("event", event=event, **body_of(body))

    def _fail(self, seq: int, command: str, why: str) -> None:
        body = {"error": {"id": 1, "format": "{why}", "variables": {"why": why}, "showUser": True}}
        self._message("response", request_seq=seq, command=command, success=False, message=why, body=body)

    def _say(self, text: str, category: str = "console") -> None:
        self._event("output", category=category, output=f"{text}\n")

    @property
    def _bug(self) -> Debugger:
        if self._target is None:
            raise UsageError("the run has not begun")
        return self._target.debugger

    @property
    def _goes(self) -> bool:
        """Whether the run itself can be moved on; else we move through its past."""
        return self._bug.live and not self._bug.state.finished

    def _subject(self, arguments: Arguments) -> str:
        number = arguments.get("threadId")
        return next((name for name, thread in self._threads.items() if thread == number), "")

    def _thread(self, subject: str) -> int:
        return self._threads.setdefault(subject, len(self._threads) + RUN_THREAD + 1) if subject else RUN_THREAD

    def _source(self) -> dict[str, Any]:
        assert self._plan is not None
        path = self._wish.program if self._wish is not None else ""
        name = self._plan.source_name.rpartition("/")[2]
        if path and self._runs is not None and self._runs.text_of(path) == self._plan.source:
            return {"name": path.rpartition("/")[2], "path": path}
        return {"name": name, "sourceReference": SOURCE, "origin": "the definition with which the run began"}


def body_of(body: Body) -> dict[str, Any]:
    return {"body": body} if body else {}


def told(error: Exception) -> str:
    problems = getattr(error, "problems", None)
    if problems:
        from noa.definitions import explain

        return explain(problems)
    return error.message if isinstance(error, NoaError) else str(error)


def whole(arguments: Arguments, name: str, default: int) -> int:
    """A number from 0 among the arguments. Raises UsageError."""
    value = arguments.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"'{name}' is a number from 0, not {str(value)[:60]!r}")
    return value
