"""What the engine is given: who executes, what time it is. `noa.runtime` builds the real ones, tests their own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from noa.errors import SecretError
from noa.model.events import Event
from noa.model.execution import Assignment, Observation, Outcome
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.model.plan import Plan
from noa.plugin import Observe

if TYPE_CHECKING:
    from noa.engine.state import RunState

__all__ = [
    "Clock",
    "Dispatcher",
    "EventObserver",
    "Learner",
    "NoSecrets",
    "RunWatch",
    "Secrets",
    "SystemClock",
    "TaskObserver",
    "Timer",
]


class Dispatcher(Protocol):
    """Executes attempts. `noa.orchestration.AgentFactory` is the real one."""

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """The whole life of an attempt; failing work is a Failure, never an exception."""

    async def cancel(self, execution: ExecutionId, *, grace_s: float = 5.0, reason: str = "") -> None:
        """Have `execute` return Failure CANCELLED within the grace, whatever the agent does. Idempotent."""

    async def release(self, run: RunId, agents: Collection[str]) -> None:
        """Let these agents drop everything that they hold for a run. Bounded in time; never raises."""


class Timer(Protocol):
    """A call that was put off."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """Time and chance; the core gets them inside events only."""

    def now_ms(self) -> int:
        """UTC epoch milliseconds."""

    def call_at(self, due_ms: int, call: Callable[[], None]) -> Timer:
        """Make a call at a time, from the event loop; at once where it has passed."""

    def random(self) -> float:
        """0 to 1."""


class Secrets(Protocol):
    """Gives secrets and keeps them out of what is recorded. `noa.orchestration.SecretVault` is the real one."""

    def value(self, name: str) -> str:
        """A secret. Raises SecretError where it cannot be had."""

    def mask(self, text: str) -> str:
        """Text without secrets."""

    def mask_piece(self, text: str) -> tuple[str, str]:
        """A piece of text without secrets, and its end, not masked, where a secret may begin that goes on after it."""

    def mask_json(self, value: Any) -> Any:
        """JSON without secrets; the same object where nothing has to be masked."""


class NoSecrets:
    """No secret is known."""

    def value(self, name: str) -> str:
        raise SecretError(f"secret '{name}' is not set: this engine was given no secrets", secret=name)

    def mask(self, text: str) -> str:
        return text

    def mask_piece(self, text: str) -> tuple[str, str]:
        return text, ""

    def mask_json(self, value: Any) -> Any:
        return value


class RunWatch(Protocol):
    """Takes notes of one run. Quick, and never raises."""

    def event(self, event: Event) -> None:
        """An event of the run that is on disk."""

    def observed(self, task: TaskPath, attempt: int, seen: Observation, now_ms: int) -> None:
        """What is seen of an attempt."""

    def over(self, state: RunState) -> None:
        """The run is over."""


class Learner(Protocol):
    """Keeps what runs teach, and gives it to later ones. `noa.modes.JournalLearner` is the real one."""

    async def expected_ms(self, plan: Plan, *, child: bool) -> Mapping[str, int]:
        """How long the tasks of a run that is about to begin are expected to take, by `stage/task`; may be empty.

        Args:
            child: Whether it is a sub-workflow of another run.
        """

    def watch(self, plan: Plan, *, whole: bool) -> RunWatch:
        """What takes notes of a run; `whole` says whether it is seen from its first event on."""


class SystemClock:
    """The real clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def call_at(self, due_ms: int, call: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, (due_ms - self.now_ms()) / 1000), call)

    def random(self) -> float:
        return random.random()


EventObserver = Callable[[RunId, int, Event], None]
"""Called after an event is on disk: run, sequence number, event. Must be quick and must not raise."""

TaskObserver = Callable[[RunId, TaskPath, int, Observation], None]
"""Called for what is observed of an attempt: run, task, attempt, observation. Must be quick and must not raise."""
