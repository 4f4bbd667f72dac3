"""Keeps one replica of an agent going: start on need, restart with backoff, give up on a crash loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from noa.errors import AgentError, AgentMismatchError, AgentStartError, NoaError
from noa.orchestration.healing import Record
from noa.orchestration.places import Places
from noa.orchestration.status import AgentEvent, AgentState, ReplicaStatus
from noa.plugin import (
    AgentConnection,
    AgentContext,
    AgentDeclaration,
    AgentHealth,
    AgentKind,
    AgentPools,
)

__all__ = ["CRASH_LIMIT", "CRASH_WINDOW_S", "Supervisor"]

log = logging.getLogger("noa.orchestration")

CRASH_LIMIT = 5
CRASH_WINDOW_S = 60.0
"""An agent that went away so often within this time is failed until the window is over."""

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
_RETIRE_GRACE_S = 5.0
_NEAR_LIMIT, _FAR_FROM_LIMIT = 0.9, 0.7
"""Of its memory limit: an idle replica that grew from below the second to above the first is replaced."""

_DISBELIEF_S = 5.0
"""How long an agent that refused work gets no more than it took, whatever it announces."""


class Supervisor:
    """One replica.

    Args:
        declaration: Of the agent.
        index: Which replica, from 0.
        kind: How the agent is reached.
        places: For the connections.
        changed: Called after every change of state.
        emit: Takes what happened.
        pools: For agents that steer others.

    Attributes:
        state: Where it is.
        connection: The live connection; None unless serving or draining.
        health: What the agent last said of itself.
        in_flight: Executions that the pool gave it.
        capacity: Executions at once; 0 means no limit. What it announced, or less for a while after it refused work.
        resting_until: Monotonic seconds until which it said that it is overloaded.
        error: Why it last failed.
        failing: Whether its last start failed and nothing came of it since.
        serving_since: Monotonic seconds at which its last start succeeded.
        record: What came of its last executions.
    """

    def __init__(
        self,
        declaration: AgentDeclaration,
        index: int,
        kind: AgentKind,
        places: Places,
        *,
        changed: Callable[[], None],
        emit: Callable[[AgentEvent], None],
        pools: AgentPools | None = None,
    ) -> None:
        self.index = index
        self.state: AgentState = "idle"
        self.connection: AgentConnection | None = None
        self.health: AgentHealth | None = None
        self.in_flight = 0
        self.capacity = 0
        self.resting_until = 0.0
        self.error: NoaError | None = None
        self.failing = False
        self.serving_since = 0.0
        self.record = Record()
        self.starts = 0
        self.cpu_percent = 0.0
        self.memory_bytes = 0
        self._declaration = declaration
        self._kind = kind
        self._places = places
        self._changed = changed
        self._emit = emit
        self._pools = pools
        self._crashes: deque[float] = deque()
        self._starting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._announced = 0
        self._disbelief: asyncio.TimerHandle | None = None
        self._leaving: set[AgentConnection] = set()
        self._users: dict[int, int] = {}
        self._fallen: tuple[AgentConnection, int] | None = None
        self._memory_at_first = 0
        self._ending: asyncio.Task[None] | None = None
        self._retired: asyncio.Future[None] | None = None

    @property
    def hopeful(self) -> bool:
        """Whether waiting for it makes sense: it serves, or a start is under way."""
        return self.state == "serving" or self._starting is not None

    @property
    def hopeless(self) -> bool:
        """Whether it did not start, or went away too often, or is closed, and no start is under way."""
        return not self.hopeful and (self.failing or self.state in ("failed", "closed"))

    @property
    def pid(self) -> int | None:
        """Its process, where it has one."""
        return self.connection.pid if self.connection is not None else None

    def status(self) -> ReplicaStatus:
        """What it is now."""
        return ReplicaStatus(
            replica=self.index,
            state=self.state,
            in_flight=self.in_flight,
            capacity=self.capacity,
            pid=self.pid,
            cpu_percent=self.cpu_percent,
            memory_bytes=self.memory_bytes,
            restarts=max(0, self.starts - 1),
            message=self.error.message if self.error is not None and self.state != "serving" else "",
            language=self.health.language if self.health is not None else "",
            version=self.health.version if self.health is not None else "",
        )

    def begin(self) -> None:
        """Start it, unless it serves, is being started, was closed or is failed for now; no more draining then."""
        if self.state == "draining" and self.connection is not None:
            self._serve_again()
            return
        if self._starting is not None or self.state in ("serving", "closed") or self._given_up():
            return
        if self.state in ("draining", "idle"):
            self.state = "starting"
            self._tell_retired()
        self._starting = asyncio.get_running_loop().create_task(self._start(), name=f"start {self._name}")

    def enter(self, connection: AgentConnection) -> None:
        """An execution begins on a connection of this replica."""
        self._users[id(connection)] = self._users.get(id(connection), 0) + 1

    def leave(self, connection: AgentConnection) -> None:
        """An execution on a connection ended; the last one that was waited for lets it end."""
        left = self._users[id(connection)] - 1
        if left:
            self._users[id(connection)] = left
            return
        del self._users[id(connection)]
        if connection in self._leaving:
            self._leaving.discard(connection)
            self._spawn(self._close(connection, _RETIRE_GRACE_S))

    def fell_with(self, connection: AgentConnection) -> int:
        """How many executions went on when this connection was lost; 0 where it was not."""
        return self._fallen[1] if self._fallen is not None and self._fallen[0] is connection else 0

    def forgive(self) -> None:
        """The last time that it went away was not its fault: that does not count towards giving it up."""
        if self._crashes:
            self._crashes.pop()
        if self.state == "failed" and not self._given_up():
            self.state = "idle"
            self.begin()

    def replace(self, reason: str) -> bool:
        """Have another take its place at once; it ends what it does first. Whether that was done: it must serve, and
        must not have gone away so often that nothing would be started in its place."""
        connection = self.connection
        if self.state != "serving" or connection is None or self._given_up():
            return False
        log.warning("agent %s is replaced: %s", self._name, reason)
        self._tell("draining", f"it is replaced: {reason}")
        self.connection = None
        if self._users.get(id(connection)):
            self._leaving.add(connection)
        else:
            self._spawn(self._close(connection, _RETIRE_GRACE_S))
        self.record.clear()
        self.state = "starting"
        self.begin()
        self._changed()
        return True

    def sampled(self, cpu_percent: float, memory_bytes: int) -> None:
        """What its process takes now. One that does nothing and is about to reach its memory limit is replaced before
        it is killed in the middle of something; not one that needs as much from its start."""
        self.cpu_percent, self.memory_bytes = cpu_percent, memory_bytes
        self._memory_at_first = self._memory_at_first or memory_bytes
        limit = self._declaration.resources.get("memory", 0.0)
        if (
            self.in_flight
            or not memory_bytes > _NEAR_LIMIT * limit > 0
            or self._memory_at_first > _FAR_FROM_LIMIT * limit
        ):
            return
        self.replace(f"it does nothing, and its memory grew to {100 * memory_bytes / limit:.0f} % of its limit")

    def retire(self) -> None:
        """Take nothing new and end once nothing is in flight; then idle, and may begin again. Idempotent."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            self.state = "draining"
            self._ending = self._spawn(self._start_called_off(starting, self._ending))
        elif self.state == "serving":
            self.state = "draining"
            self._tell("draining", "")
            self.end_if_drained()
        elif self.state == "waiting_to_restart":
            self.state = "idle"

    def end_if_drained(self) -> None:
        """End it where it is draining and nothing is in flight any more."""
        connection = self.connection
        if self.state == "draining" and connection is not None and not self.in_flight:
            self.connection = None
            self._ending = self._spawn(self._end(connection, _RETIRE_GRACE_S))

    async def wait_retired(self) -> None:
        """Wait until it is not draining any more: it has ended, or is wanted again."""
        while self.state == "draining":
            if self._retired is None or self._retired.done():
                self._retired = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._retired)

    async def close(self, *, grace_s: float) -> None:
        """Drain and end; nothing is left running. Idempotent."""
        self.state = "closed"
        if self._disbelief is not None:
            self._disbelief.cancel()
        self._tell_retired()
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        connection, self.connection = self.connection, None
        retiring, self._leaving = self._leaving, set()
        await asyncio.gather(*(self._close(old, grace_s) for old in retiring))
        if connection is not None:
            await self._close(connection, grace_s)
            self._tell("closed", "")
        if self._closing:
            await asyncio.wait(self._closing)

    @property
    def _name(self) -> str:
        return f"{self._declaration.name}-{self.index}"

    @property
    def _persistent(self) -> bool:
        # What others run is tried again for ever: its end and its return are not ours to decide.
        return bool(self._declaration.addresses)

    def _given_up(self) -> bool:
        if isinstance(self.error, AgentMismatchError):
            return True
        return not self._persistent and len(self._recent_crashes()) >= CRASH_LIMIT

    def _recent_crashes(self) -> deque[float]:
        horizon = time.monotonic() - CRASH_WINDOW_S
        while self._crashes and self._crashes[0] < horizon:
            self._crashes.popleft()
        return self._crashes

    def _backoff_s(self) -> float:
        crashes = self._recent_crashes()
        if not crashes:
            return 0.0
        delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(len(crashes) - 1, 10))
        return max(0.0, crashes[-1] + delay - time.monotonic())

    async def _end(self, connection: AgentConnection, grace_s: float) -> None:
        await self._close(connection, grace_s)
        self._ended()

    async def _start_called_off(self, starting: asyncio.Task[None], before: asyncio.Task[None] | None) -> None:
        await asyncio.wait([starting] if before is None else [starting, before])
        self._ended()

    def _ended(self) -> None:
        if self._ending is not asyncio.current_task():
            return
        self._ending = None
        if self.state == "draining" and self._starting is None:
            self.state = "idle"
            self._tell("idle", "retired")
            self._tell_retired()
            self._changed()

    def _serve_again(self) -> None:
        self.state = "serving"
        self._tell("serving", "wanted again")
        self._tell_retired()
        self._changed()

    def _tell_retired(self) -> None:
        if self._retired is not None and not self._retired.done():
            self._retired.set_result(None)

    async def _start(self) -> None:
        if self._ending is not None:
            await asyncio.wait([self._ending])
        delay = self._backoff_s()
        if delay:
            self.state = "waiting_to_restart"
            await asyncio.sleep(delay)
        self.state = "starting"
        self.starts += 1
        self._tell("starting", "")
        connection: AgentConnection | None = None
        try:
            connection = self._connect()
            health = await connection.start()
        except asyncio.CancelledError:
            if connection is not None:
                await self._close(connection, 0.0)
            raise
        except NoaError as error:
            self._start_failed(error)
        except Exception as error:  # foreign code: an agent kind of a plugin
            log.warning("agent %s: the agent kind '%s' failed: %r", self._name, self._kind.name, error)
            log.debug("agent %s: the agent kind '%s' failed", self._name, self._kind.name, exc_info=error)
            self._start_failed(AgentStartError(
                f"agent '{self._declaration.name}': kind '{self._kind.name}' failed: {type(error).__name__}: {error}",
                agent=self._declaration.name,
            ))  # fmt: skip
        else:
            self._serve(connection, health)

    def _connect(self) -> AgentConnection:
        runtime_dir, log_dir, artifacts, mask, ready = self._places
        made: list[AgentConnection] = []

        def lost(reason: str) -> None:
            if made and self.connection is made[0]:
                self._lost(made[0], reason)
            elif made and made[0] in self._leaving:
                self._leaving.discard(made[0])
                self._spawn(self._close(made[0], _RETIRE_GRACE_S))

        def heard(health: AgentHealth) -> None:
            if made and self.connection is made[0]:
                self._heard(made[0], health)

        context = AgentContext(runtime_dir, log_dir, artifacts, lost, self._pools, heard, mask)
        made.append(self._kind.connect(ready(self._declaration), self.index, context))
        return made[0]

    def _serve(self, connection: AgentConnection, health: AgentHealth) -> None:
        self._starting = None
        self.connection, self.health, self.error, self.failing = connection, health, None, False
        self.capacity = self._announced = self._capacity_of(health)
        self.serving_since = time.monotonic()
        self.cpu_percent, self.memory_bytes, self._memory_at_first = 0.0, 0, 0
        self.record.clear()
        self.state = "serving"
        self._tell("serving", f"{health.name} {health.version} ({health.language})")
        self._changed()

    def _capacity_of(self, health: AgentHealth) -> int:
        announced, wanted = health.capacity, self._declaration.capacity
        return announced if wanted is None else min(wanted, announced) if announced else wanted

    def _heard(self, connection: AgentConnection, health: AgentHealth) -> None:
        """What the agent says of itself while it serves."""
        self.health = health
        if health.status == "draining":
            if self.state == "serving":
                self._leave(connection, health.message)
            return
        if (announced := self._capacity_of(health)) != self._announced:
            self.capacity = self._announced = announced
            self._changed()

    def believe_less(self) -> None:
        """It refused work: what is in flight is all that it takes, for a while."""
        self.capacity = max(1, self.in_flight)
        if self._disbelief is None:
            self._disbelief = asyncio.get_running_loop().call_later(_DISBELIEF_S, self._believe_again)

    def _believe_again(self) -> None:
        self._disbelief = None
        self.capacity = self._announced
        self._changed()

    def _leave(self, connection: AgentConnection, message: str) -> None:
        """An agent that drains on its own account ends what it does; another takes its place at once."""
        reason = f"Health says DRAINING{f': {message}' if message else ''}"
        self._tell("draining", reason)
        self.connection = None
        self._leaving.add(connection)
        self._replace(reason)

    def _start_failed(self, error: NoaError) -> None:
        self._starting = None
        self._crashes.append(time.monotonic())
        self.error, self.failing = error, True
        self.state = "failed" if self._given_up() else "waiting_to_restart"
        self._tell(self.state, error.message)
        self._changed()
        if self._persistent:
            self.begin()

    def _lost(self, connection: AgentConnection, reason: str) -> None:
        self.connection = None
        self._fallen = (connection, self._users.get(id(connection), 0))
        self._tell("lost", reason)
        if self.state == "draining":
            self._ending = self._spawn(self._end(connection, 0.0))
            return
        self._spawn(self._close(connection, 0.0))
        self._replace(reason)

    def _replace(self, reason: str) -> None:
        """Start another in place of one that goes away, unless too many went away."""
        self._crashes.append(time.monotonic())
        self.error = AgentError(f"agent '{self._declaration.name}' went away: {reason}")
        if self.state == "closed":
            return
        if self._given_up():
            self.state = "failed"
            self._tell("failed", self.give_up_text())
        else:
            self.state = "waiting_to_restart"
            self.begin()
        self._changed()

    def start_error(self) -> NoaError:
        """Why it cannot take work, as the error for executions that need it."""
        if isinstance(self.error, AgentMismatchError):
            return self.error
        if self.error is not None and self._given_up():
            return AgentStartError(self.give_up_text(), agent=self._declaration.name, **_without_agent(self.error))
        return self.error or AgentStartError(f"agent '{self._declaration.name}' is {self.state}")

    def give_up_text(self) -> str:
        """Why it is failed."""
        crashes = self._recent_crashes()
        wait_s = max(0.0, crashes[0] + CRASH_WINDOW_S - time.monotonic()) if crashes else 0.0
        return (
            f"agent '{self._declaration.name}' failed {len(crashes)} times within {CRASH_WINDOW_S:.0f} s and is not "
            f"started again for {wait_s:.0f} s. Last: {self.error.message if self.error else 'unknown'}"
        )

    async def _close(self, connection: AgentConnection, grace_s: float) -> None:
        try:
            await connection.close(grace_s=grace_s)
        except Exception:  # foreign code: an agent kind of a plugin
            log.exception("agent %s: closing it failed", self._name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _tell(self, state: AgentState | Literal["lost"], detail: str) -> None:
        self._emit(AgentEvent(self._declaration.name, self.index, state, detail, self.pid))


def _without_agent(error: NoaError) -> dict[str, object]:
    return {key: value for key, value in error.parts.items() if key != "agent"}
