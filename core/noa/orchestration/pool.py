"""The replicas of one agent: which of them takes an attempt, and who waits in which order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from noa.errors import NoaError, UsageError
from noa.model.ids import RunId
from noa.orchestration.autoscaler import Autoscaler
from noa.orchestration.healer import BAD_ADDRESS_S, Healer
from noa.orchestration.holds import NOBODY, Hold, Holds
from noa.orchestration.places import Places
from noa.orchestration.room import Room
from noa.orchestration.status import AgentEvent, AgentState, AgentStatus
from noa.orchestration.supervisor import Supervisor
from noa.orchestration.waiters import Waiters
from noa.plugin import AgentDeclaration, AgentKind, AgentPools

__all__ = ["QUEUE_LIMIT", "NotSteerableError", "Pool", "QueueFullError", "ReplicaLimitError"]

QUEUE_LIMIT = 10_000
"""Attempts that may wait for one agent; `options.queue_limit` of the declaration changes it."""

_BEST_FIRST: tuple[AgentState, ...] = (
    "serving", "starting", "draining", "waiting_to_restart", "failed", "idle", "closed",
)  # fmt: skip


class QueueFullError(NoaError):
    """So many attempts wait for an agent that no more are taken. Nothing was executed."""

    code = "OVERLOADED"


class ReplicaLimitError(UsageError):
    """More replicas were asked for than the agent's declaration lets it have. Nothing was changed."""

    code = "REPLICA_LIMIT"


class NotSteerableError(UsageError):
    """The replicas of this agent are not the engine's to start and end. Nothing was changed."""

    code = "AGENT_NOT_STEERABLE"


class Pool:
    """An agent: its replicas and its queue. Replicas start when the first attempt needs one, or a run asks for them.

    Replicas are wanted in the order of their numbers: where n are wanted, those are the first n.

    Args:
        declaration: Of the agent.
        kind: How it is reached.
        places: For the connections.
        emit: Takes what happens to replicas.
        room: What the host has for more replicas.
        pools: For agents that steer others.
    """

    def __init__(
        self,
        declaration: AgentDeclaration,
        kind: AgentKind,
        places: Places,
        emit: Callable[[AgentEvent], None],
        room: Room,
        pools: AgentPools | None = None,
    ) -> None:
        self.declaration = declaration
        self.closed = False
        most = len(declaration.addresses) or max(1, declaration.min_replicas, declaration.max_replicas)
        self._holds = Holds(len(declaration.addresses) or max(1, declaration.min_replicas))
        self._queue_limit = int(declaration.options.get("queue_limit", QUEUE_LIMIT))
        self._waiters = Waiters()
        self._watchers: list[asyncio.Future[None]] = []
        self._turn = 0
        self._wake: asyncio.TimerHandle | None = None
        self.replicas = [
            Supervisor(declaration, index, kind, places, changed=self._changed, emit=emit, pools=pools)
            for index in range(most)
        ]
        self._healer = Healer(declaration, self.replicas)
        self._scaler: Autoscaler | None = None
        if Autoscaler.scales(declaration, most):
            self._scaler = Autoscaler(
                declaration, self.replicas, self._holds, self._waiters, room=room, resize=self._resize,
                tell=lambda text: emit(AgentEvent(declaration.name, -1, "scaled", text)),
            )  # fmt: skip
        self._only = self.replicas[0] if most == 1 and self._scaler is None else None

    @property
    def started(self) -> bool:
        """Whether any replica has a connection."""
        return any(replica.connection is not None for replica in self.replicas)

    def try_take(self) -> Supervisor | None:
        """A slot of the least loaded replica that has one free, at once; None where nobody before must be passed."""
        if self._waiters.count:
            return None
        only = self._only
        if only is not None:
            if only.state != "serving" or (only.capacity and only.in_flight >= only.capacity) or only.resting_until:
                return None if only.connection is None or not self._free(only) else self._use(only)
            only.in_flight += 1
            return only
        return self._least_loaded()

    async def take(
        self, priority: int, on_queued: Callable[[], None] | None = None, *, run: RunId = NOBODY
    ) -> Supervisor:
        """Wait for a slot, by priority and then in order of arrival; starts replicas where they are needed.

        Args:
            priority: Higher goes first.
            run: For whose task.
            on_queued: Called, at most once, when the agent has started and there is no slot for this one yet; must
                not raise.

        Raises:
            QueueFullError: Too many wait already.
            AgentStartError: No replica can be started; with what its start said.
        """
        if self.closed:
            raise QueueFullError(f"agent '{self.declaration.name}' is being closed")
        self._ensure(run)
        if (taken := self.try_take()) is not None:
            return taken
        if not any(replica.hopeful for replica in self.replicas):
            raise self._start_error()
        if self._waiters.count >= self._queue_limit:
            raise QueueFullError(
                f"{self._waiters.count:,} attempts wait for agent '{self.declaration.name}' already, which is the "
                "limit: lower max_parallel, raise max_replicas, or raise options.queue_limit of the agent",
                agent=self.declaration.name,
                limit=self._queue_limit,
            )
        return await self._wait(priority, on_queued, run)

    def give(self, replica: Supervisor) -> None:
        """Give a slot back."""
        replica.in_flight -= 1
        if self._scaler is not None:
            self._scaler.gave()
        if replica.state == "draining":
            replica.end_if_drained()
        if self._waiters.count:
            self._dispatch()

    def rest(self, replica: Supervisor, seconds: float) -> None:
        """A replica said that it is overloaded: leave it alone for a while, and then give it no more than it took."""
        replica.resting_until = time.monotonic() + seconds
        replica.believe_less()
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
            waiting=self._waiters.count,
            replicas=tuple(replica.status() for replica in self.replicas),
            health=known,
            description=self.declaration.description,
            plugin=self.declaration.plugin,
            held=self._holds.held,
            max_replicas=len(self.replicas),
            scaling=self._scaler.describe() if self._scaler is not None else "",
        )

    def describe_wait(self) -> str:
        """What an attempt in the queue waits for, as a sentence for a person."""
        name = self.declaration.name
        serving = [replica for replica in self.replicas if replica.state == "serving"]
        if not serving:
            why = next((r.error.message for r in self.replicas if r.error is not None), "")
            return f"waits for agent '{name}' to start" + (f" (before: {why})" if why else "")
        if all(replica.resting_until for replica in serving):
            return f"waits for agent '{name}', which says that it is overloaded; {self._waiters.count} wait"
        busy = sum(replica.in_flight for replica in serving)
        return f"waits for a free slot of agent '{name}': {busy} executions go on, {self._waiters.count} wait"

    def worked(self, replica: Supervisor, task: str, code: str) -> None:
        """How an execution of a task (its idempotency key) ended on a replica: the code of its failure, or empty."""
        if self._healer.worked(replica, task, code):
            self.rest(replica, BAD_ADDRESS_S)

    # --- steering ----------------------------------------------------------------------------------------------

    async def hold(self, run: RunId, replicas: int, *, keep: bool | None, exactly: bool, wait: bool) -> None:
        """Let a run hold at least, or exactly, so many replicas; see `AgentPools.spawn` and `scale`.

        Args:
            keep: Whether they stay when the run is over; None leaves it as it is.
        """
        self._check_steerable(replicas)
        before = self._holds.of(run)
        if before is not None:
            replicas = replicas if exactly else max(replicas, before.replicas)
            keep = before.keep if keep is None else keep
        self._holds.hold(run, Hold(replicas, bool(keep)))
        if exactly:
            self._holds.need_no_more(run)
        wanted = self.replicas[: max(replicas, self.declaration.min_replicas)]
        for replica in wanted:
            replica.begin()
        ending = self._shrink() if exactly else []
        if not wait:
            return
        try:
            await self._until_serving(wanted, run)
        except NoaError:
            self._holds.hold(run, before)
            self._shrink()
            raise
        await _until_retired(ending)

    async def let_go(self, run: RunId, *, kept: bool = False, wait: bool = True) -> None:
        """End what only this run wants, and with `kept` what runs that are over asked to stay."""
        self._check_steerable()
        for one in (run, NOBODY) if kept else (run,):
            self._holds.hold(one, None)
            self._holds.need_no_more(one)
        ending = self._shrink()
        if wait:
            await _until_retired(ending)

    def run_over(self, run: RunId) -> list[Supervisor]:
        """A run is over: end what it alone held; the replicas that are still ending."""
        held = run in self._holds
        self._holds.over(run)
        return self._shrink() if held else []

    def _check_steerable(self, replicas: int = 1) -> None:
        declaration = self.declaration
        if declaration.addresses:
            raise NotSteerableError(
                f"agent '{declaration.name}' runs elsewhere ({', '.join(declaration.addresses)}): noa neither starts "
                "nor ends it. Declare it with a command to have it started here",
                agent=declaration.name,
            )
        if not 1 <= replicas <= len(self.replicas):
            raise ReplicaLimitError(
                f"agent '{declaration.name}' may have 1 to {len(self.replicas)} replicas, {replicas} were asked for: "
                "ask for fewer, or raise max_replicas of its declaration (in a definition: replicas.max of the agent)",
                agent=declaration.name,
                max_replicas=len(self.replicas),
                replicas=replicas,
            )

    def _shrink(self) -> list[Supervisor]:
        """Retire what nobody wants any more; those that are not over yet."""
        if self._scaler is not None:
            self._scaler.changed()
        wanted = max(self._holds.wanted, self._holds.least if self._waiters.count else 0)
        for replica in self.replicas[wanted:]:
            replica.retire()
        return [replica for replica in self.replicas[wanted:] if replica.state == "draining"]

    async def _until_serving(self, wanted: list[Supervisor], run: RunId) -> None:
        while any(replica.state != "serving" for replica in wanted):
            failed = next((replica for replica in wanted if replica.hopeless), None)
            if failed is not None:
                raise failed.start_error()
            if self._holds.wanted < len(wanted) or run not in self._holds:
                return  # they were let go meanwhile
            change = asyncio.get_running_loop().create_future()
            self._watchers.append(change)
            await change

    def _tell_watchers(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def close(self, *, grace_s: float) -> None:
        """End all replicas; who still waits gets an error. Idempotent."""
        self.closed = True
        if self._scaler is not None:
            self._scaler.close()
        if self._wake is not None:
            self._wake.cancel()
        self._waiters.fail(QueueFullError(f"agent '{self.declaration.name}' is being closed"))
        closing = asyncio.gather(*(replica.close(grace_s=grace_s) for replica in self.replicas))
        await asyncio.sleep(0)  # each of them says that it is closed before it waits for anything
        self._tell_watchers()
        await closing

    async def _wait(self, priority: int, on_queued: Callable[[], None] | None, run: RunId) -> Supervisor:
        slot: asyncio.Future[Supervisor] = asyncio.get_running_loop().create_future()
        waiter = self._waiters.add(slot, priority=priority, run=run, since=time.monotonic(), on_queued=on_queued)
        if self._scaler is not None:
            self._scaler.queued()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.give(slot.result())
            else:
                self._waiters.remove(waiter)
            raise

    def _dispatch(self) -> None:
        while self._waiters.count:
            replica = self._least_loaded()
            if replica is None:
                return
            slot = self._waiters.take_first().slot
            if slot.done():
                self._unuse(replica)
            else:
                slot.set_result(replica)

    def _least_loaded(self) -> Supervisor | None:
        best = None
        for replica in self._in_turn():
            if replica.connection is None or not self._free(replica):
                continue
            if best is None or replica.in_flight < best.in_flight:
                best = replica
        if best is None:
            return None
        self._turn = best.index + 1
        return self._use(best)

    def _in_turn(self) -> list[Supervisor]:
        """Who is asked first where several are as little loaded: addresses take turns; of the replicas that are
        started here the first ones take the work, so that the others may end."""
        replicas, turn = self.replicas, self._turn
        return replicas[turn:] + replicas[:turn] if self.declaration.addresses else replicas

    def _free(self, replica: Supervisor) -> bool:
        if replica.state != "serving":
            return False
        if replica.resting_until:
            if replica.resting_until > time.monotonic():
                return False
            replica.resting_until = 0.0
        return not replica.capacity or replica.in_flight < replica.capacity

    def _use(self, replica: Supervisor) -> Supervisor:
        replica.in_flight += 1
        if self._scaler is not None:
            self._scaler.took()
        return replica

    def _unuse(self, replica: Supervisor) -> None:
        replica.in_flight -= 1
        if self._scaler is not None:
            self._scaler.gave()

    def _ensure(self, run: RunId) -> None:
        for replica in self.replicas[: self._holds.least]:
            if not replica.hopeful:
                self._begin(replica, run)

    def _resize(self, replicas: int, starts: int, run: RunId) -> None:
        """Have so many replicas, beside what runs hold, and start at most so many of those that are missing: because
        a task of this run needs them."""
        if replicas > (before := self._holds.wanted):
            self._holds.need(run, replicas)
        elif replicas < before:
            self._holds.need_at_most(replicas)
            self._shrink()
        missing = [replica for replica in self.replicas[:replicas] if not replica.hopeful]
        for replica in missing[:starts]:
            replica.begin()

    def _begin(self, replica: Supervisor, run: RunId) -> None:
        """Start a replica because a task needs it."""
        if run not in self._holds:
            self._holds.need(run, replica.index + 1)
        replica.begin()

    def _changed(self) -> None:
        if self._watchers:
            self._tell_watchers()
        if self._waiters.count and not any(map(self._promises, self.replicas)):
            self._waiters.fail(self._start_error())
        elif self._waiters.count:
            self._dispatch()
            if self._scaler is not None and self._waiters.count:
                self._scaler.queued()
            if self.started:
                self._waiters.tell_queued()

    def _promises(self, replica: Supervisor) -> bool:
        # Addresses are tried again for ever: where all of them failed at their last try, waiting is told so.
        return replica.hopeful and not (self.declaration.addresses and replica.failing)

    def _start_error(self) -> NoaError:
        failed = [replica for replica in self.replicas if replica.error is not None]
        return failed[-1].start_error() if failed else self.replicas[0].start_error()

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


async def _until_retired(replicas: list[Supervisor]) -> None:
    for replica in replicas:
        await replica.wait_retired()
