"""The replicas of one agent: which of them takes an attempt, and who waits in which order."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from noa.errors import NoaError
from noa.orchestration.status import AgentEvent, AgentState, AgentStatus
from noa.orchestration.supervisor import Supervisor
from noa.plugin import AgentDeclaration, AgentKind, ArtifactStore

__all__ = ["QUEUE_LIMIT", "Pool", "QueueFullError"]

QUEUE_LIMIT = 10_000
"""Attempts that may wait for one agent; `options.queue_limit` of the declaration changes it."""

_BEST_FIRST: tuple[AgentState, ...] = ("serving", "starting", "waiting_to_restart", "failed", "idle", "closed")


class QueueFullError(NoaError):
    """So many attempts wait for an agent that no more are taken. Nothing was executed."""

    code = "OVERLOADED"


class Pool:
    """An agent: its replicas and its queue. Replicas start when the first attempt needs one.

    Args:
        declaration: Of the agent.
        kind: How it is reached.
        places: Folders and store for the connections: (runtime_dir, log_dir, artifacts).
        emit: Takes what happens to replicas.
    """

    def __init__(
        self,
        declaration: AgentDeclaration,
        kind: AgentKind,
        places: tuple[Path, Path, ArtifactStore],
        emit: Callable[[AgentEvent], None],
    ) -> None:
        self.declaration = declaration
        self.closed = False
        most = len(declaration.addresses) or max(1, declaration.min_replicas, declaration.max_replicas)
        self._least = len(declaration.addresses) or max(1, declaration.min_replicas)
        self._queue_limit = int(declaration.options.get("queue_limit", QUEUE_LIMIT))
        self._waiting: dict[int, OrderedDict[int, asyncio.Future[Supervisor]]] = {}
        self._untold: dict[int, Callable[[], None]] = {}
        self._count = 0
        self._numbers = 0
        self._wake: asyncio.TimerHandle | None = None
        self.replicas = [
            Supervisor(declaration, index, kind, places, changed=self._changed, emit=emit) for index in range(most)
        ]
        self._only = self.replicas[0] if most == 1 else None

    @property
    def started(self) -> bool:
        """Whether any replica has a connection."""
        return any(replica.connection is not None for replica in self.replicas)

    def try_take(self) -> Supervisor | None:
        """A slot of the least loaded replica that has one free, at once; None where nobody before must be passed."""
        if self._count:
            return None
        only = self._only
        if only is not None:
            if only.connection is None or (only.capacity and only.in_flight >= only.capacity) or only.resting_until:
                return None if only.connection is None or not self._free(only) else self._use(only)
            only.in_flight += 1
            return only
        return self._least_loaded()

    async def take(self, priority: int, on_queued: Callable[[], None] | None = None) -> Supervisor:
        """Wait for a slot, by priority and then in order of arrival; starts replicas where they are needed.

        Args:
            priority: Higher goes first.
            on_queued: Called, at most once, when the agent has started and there is no slot for this one yet; must
                not raise.

        Raises:
            QueueFullError: Too many wait already.
            AgentStartError: No replica can be started; with what its start said.
        """
        if self.closed:
            raise QueueFullError(f"agent '{self.declaration.name}' is being closed")
        self._ensure()
        if (taken := self.try_take()) is not None:
            return taken
        if not any(replica.hopeful for replica in self.replicas):
            raise self._start_error()
        if self._count >= self._queue_limit:
            raise QueueFullError(
                f"{self._count:,} attempts wait for agent '{self.declaration.name}' already, which is the limit: "
                "lower max_parallel, raise max_replicas, or raise options.queue_limit of the agent",
                agent=self.declaration.name,
                limit=self._queue_limit,
            )
        return await self._wait(priority, on_queued)

    def give(self, replica: Supervisor) -> None:
        """Give a slot back."""
        replica.in_flight -= 1
        if self._count:
            self._dispatch()

    def rest(self, replica: Supervisor, seconds: float) -> None:
        """A replica said that it is overloaded: leave it alone for a while."""
        replica.resting_until = time.monotonic() + seconds
        self._wake_at(seconds)

    def status(self) -> AgentStatus:
        """What the agent is now."""
        states = [replica.state for replica in self.replicas]
        best = min(states, key=_BEST_FIRST.index)
        known = next((replica.health for replica in self.replicas if replica.health is not None), None)
        return AgentStatus(
            name=self.declaration.name,
            kind=self.declaration.kind,
            state=best,
            waiting=self._count,
            replicas=tuple(replica.status() for replica in self.replicas),
            health=known,
            description=self.declaration.description,
            plugin=self.declaration.plugin,
        )

    def describe_wait(self) -> str:
        """What an attempt in the queue waits for, as a sentence for a person."""
        name = self.declaration.name
        serving = [replica for replica in self.replicas if replica.state == "serving"]
        if not serving:
            why = next((r.error.message for r in self.replicas if r.error is not None), "")
            return f"waits for agent '{name}' to start" + (f" (before: {why})" if why else "")
        if all(replica.resting_until for replica in serving):
            return f"waits for agent '{name}', which says that it is overloaded; {self._count} wait"
        busy = sum(replica.in_flight for replica in serving)
        return f"waits for a free slot of agent '{name}': {busy} executions go on, {self._count} wait"

    async def close(self, *, grace_s: float) -> None:
        """End all replicas; who still waits gets an error. Idempotent."""
        self.closed = True
        if self._wake is not None:
            self._wake.cancel()
        self._fail_waiting(QueueFullError(f"agent '{self.declaration.name}' is being closed"))
        await asyncio.gather(*(replica.close(grace_s=grace_s) for replica in self.replicas))

    async def _wait(self, priority: int, on_queued: Callable[[], None] | None) -> Supervisor:
        self._numbers += 1
        number = self._numbers
        slot: asyncio.Future[Supervisor] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(-priority, OrderedDict())[number] = slot
        self._count += 1
        if on_queued is not None:
            self._untold[number] = on_queued
        self._scale_up()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.give(slot.result())
            else:
                self._forget(-priority, number)
            raise

    def _forget(self, key: int, number: int) -> None:
        queue = self._waiting.get(key)
        if queue is not None and queue.pop(number, None) is not None:
            self._count -= 1
            self._untold.pop(number, None)
            if not queue:
                del self._waiting[key]

    def _dispatch(self) -> None:
        while self._count:
            replica = self._least_loaded()
            if replica is None:
                return
            key = min(self._waiting)
            queue = self._waiting[key]
            number, slot = next(iter(queue.items()))
            self._forget(key, number)
            if slot.done():
                replica.in_flight -= 1
            else:
                slot.set_result(replica)

    def _least_loaded(self) -> Supervisor | None:
        best = None
        for replica in self.replicas:
            if replica.connection is None or not self._free(replica):
                continue
            if best is None or replica.in_flight < best.in_flight:
                best = replica
        return self._use(best) if best is not None else None

    def _free(self, replica: Supervisor) -> bool:
        if replica.resting_until:
            if replica.resting_until > time.monotonic():
                return False
            replica.resting_until = 0.0
        return not replica.capacity or replica.in_flight < replica.capacity

    def _use(self, replica: Supervisor) -> Supervisor:
        replica.in_flight += 1
        return replica

    def _ensure(self) -> None:
        for replica in self.replicas[: self._least]:
            if not replica.hopeful:
                replica.begin()

    def _scale_up(self) -> None:
        """One more replica, where all that serve are busy and none is on its way."""
        if any(replica.hopeful and replica.state != "serving" for replica in self.replicas):
            return
        for replica in self.replicas:
            if replica.state == "idle":
                replica.begin()
                return

    def _changed(self) -> None:
        if self._count and not any(replica.hopeful for replica in self.replicas):
            self._fail_waiting(self._start_error())
        elif self._count:
            self._dispatch()
            if self._count and all(r.state == "serving" or not r.hopeful for r in self.replicas):
                self._scale_up()
            if self._untold and self.started:
                self._tell_queued()

    def _tell_queued(self) -> None:
        untold, self._untold = self._untold, {}
        for tell in untold.values():
            tell()

    def _start_error(self) -> NoaError:
        failed = [replica for replica in self.replicas if replica.error is not None]
        return failed[-1].start_error() if failed else self.replicas[0].start_error()

    def _fail_waiting(self, error: NoaError) -> None:
        waiting, self._waiting, self._count = self._waiting, {}, 0
        self._untold.clear()
        for queue in waiting.values():
            for slot in queue.values():
                if not slot.done():
                    slot.set_exception(error)

    def _wake_at(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._wake is None or self._wake.when() > loop.time() + seconds or self._wake.when() <= loop.time():
            if self._wake is not None:
                self._wake.cancel()
            self._wake = loop.call_later(seconds, self._woken)

    def _woken(self) -> None:
        self._wake = None
        resting = [r.resting_until - time.monotonic() for r in self.replicas if r.resting_until]
        left = [seconds for seconds in resting if seconds > 0]
        if left:
            self._wake_at(min(left))
        self._dispatch()
