"""The agent factory: takes an assignment through resources, a slot and the agent, and comes back with an outcome."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from noa.errors import AgentLostError, AgentStartError, InternalError, NoaError, UsageError
from noa.model.execution import Assignment, Outcome, Stage, Waiting
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.orchestration.attempt import Attempt
from noa.orchestration.healing import POISON_AFTER, Losses
from noa.orchestration.places import Places
from noa.orchestration.pool import Pool, QueueFullError
from noa.orchestration.resources import ResourceLedger
from noa.orchestration.room import Room
from noa.orchestration.sampling import Sampler
from noa.orchestration.status import AgentEvent, AgentStatus
from noa.orchestration.steering import Steering
from noa.orchestration.supervisor import Supervisor
from noa.orchestration.verdicts import at_deadline, execution_timeout, failure_of, queue_timeout
from noa.plugin import AgentConnection, AgentDeclaration, AgentHealth, ArtifactStore, Observe, Registry

__all__ = ["AgentFactory"]

log = logging.getLogger("noa.orchestration")

_RUNNING = Stage("running")
_QUEUED = Stage("queued")
_STARTING = Stage("starting_agent")
_STOP_GRACE_S = 5.0
_REST_S = 0.1
_REST_MAX_S = 30.0


class AgentFactory:
    """Turns declarations into supervised pools of agents, and assignments into outcomes.

    Belongs to one event loop. Nothing is started before an attempt needs it.

    Args:
        registry: Gives the agent kinds.
        declarations: Agents by name.
        runtime_dir: Private folder for sockets; made (mode 0700) when the first sidecar starts.
        log_dir: Folder for what agents print; made when the first sidecar starts.
        artifacts: Store for large payloads.
        resources: What attempts may use at once.
        on_event: Told what happens to replicas, and how many there are to be; must not raise.
        mask: Takes secrets out of what agents print.
        ready: Puts secrets into the declaration of an agent that is about to start; what is kept has marks only.
        may_begin: Asked before an attempt is given to an agent: None, or what must be awaited first and may raise.
        host: Processor cores (`cpu`) and bytes of memory (`memory`) that agents may use together; None asks the system,
            cgroups included. Where they are used up, a queue adds no replicas.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        declarations: Mapping[str, AgentDeclaration],
        runtime_dir: Path,
        log_dir: Path,
        artifacts: ArtifactStore,
        resources: ResourceLedger,
        on_event: Callable[[AgentEvent], None] | None = None,
        mask: Callable[[str], str] = str,
        ready: Callable[[AgentDeclaration], AgentDeclaration] | None = None,
        host: Mapping[str, float] | None = None,
        may_begin: Callable[[RunId], Awaitable[None] | None] | None = None,
    ) -> None:
        self._may_begin = may_begin
        self._registry = registry
        self._declarations = dict(declarations)
        places = Places(runtime_dir, log_dir, artifacts, mask)
        self._places = places if ready is None else places._replace(ready=ready)
        self._resources = resources
        self._on_event = on_event
        self._pools: dict[str, Pool] = {}
        self._attempts: dict[ExecutionId, Attempt] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._room = Room(lambda: [(pool.declaration, pool.replicas) for pool in self._pools.values()], host)
        self._losses = Losses()
        self._sampler = Sampler(self._replicas)
        self._steering = Steering(self._pool, self._status_of, self._declarations)
        self._closing = False

    # --- an attempt --------------------------------------------------------------------------------------------

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """Take an attempt through its whole life: resources, a slot, the agent's start where needed, the work.

        Never raises for anything that an agent or a resource does; that is a Failure. `timeouts.queue_ms` limits the
        wait before the work, `execution_ms` the work, `heartbeat_ms` the agent's silence; `total_ms`, over all
        attempts, is the engine's.

        Raises:
            asyncio.CancelledError: The task was cancelled. Resources and slot are given back; the agent was not told.
        """
        execution = assignment.execution_id
        task = asyncio.current_task()
        if task is None or execution in self._attempts:
            return Failure.of(InternalError(f"execution {execution} is going on already", execution=execution))
        attempt = self._attempts[execution] = Attempt(assignment, observe, task)
        other = False
        try:
            limits = assignment.timeouts
            if assignment.resources or limits.queue_ms is not None or limits.execution_ms is not None:
                outcome = await self._execute_limited(attempt)
            else:
                outcome = await self._on_agent(attempt)
        except asyncio.CancelledError:
            other = attempt.settle()
            if other or attempt.verdict is None:
                raise
            return attempt.verdict
        except NoaError as error:
            outcome = failure_of(error, assignment.agent)
        except Exception as error:  # foreign code: an agent kind of a plugin
            # The failure tells it to the person whose task it is; the traceback is for the plugin's author.
            log.warning("agent '%s': the connection failed: %r", assignment.agent, error)
            log.debug("agent '%s': the connection failed", assignment.agent, exc_info=error)
            outcome = Failure.of(InternalError(f"agent '{assignment.agent}': {type(error).__name__}: {error}"))
        finally:
            if attempt.forced:
                attempt.settle()
            del self._attempts[execution]
            attempt.end()
        return outcome if attempt.verdict is None else attempt.verdict

    async def _execute_limited(self, attempt: Attempt) -> Outcome:
        assignment = attempt.assignment
        queue_ms = assignment.timeouts.queue_ms
        timer = None
        if queue_ms is not None:
            loop = asyncio.get_running_loop()
            attempt.queue_until = loop.time() + queue_ms / 1000
            timer = loop.call_at(attempt.queue_until, self._queue_expired, attempt)
        try:
            if not assignment.resources:
                return await self._on_agent(attempt)
            return await self._with_resources(attempt)
        finally:
            if timer is not None:
                timer.cancel()

    async def _with_resources(self, attempt: Attempt) -> Outcome:
        demands, ledger = attempt.assignment.resources, self._resources
        if (refusal := ledger.refusal(demands)) is not None:
            return Failure("RESOURCE_IMPOSSIBLE", refusal, details={"demands": dict(demands)})
        attempt.ledger = ledger
        settled: asyncio.Future[None] | None = None

        def granted() -> None:
            if settled is not None and not settled.done():
                settled.set_result(None)

        ticket = ledger.request(demands, priority=attempt.assignment.priority, on_grant=granted)
        try:
            if not ticket.granted:
                settled = asyncio.get_running_loop().create_future()
                attempt.observe(Waiting("resource", ledger.blocking(demands)))
                await settled
            attempt.ledger = None
            return await self._on_agent(attempt)
        finally:
            ledger.release(ticket)

    async def _on_agent(self, attempt: Attempt) -> Outcome:
        assignment = attempt.assignment
        pool = self._pools.get(assignment.agent) or self._open(assignment.agent)
        while True:
            replica = pool.try_take() or await self._slot(attempt, pool)
            try:
                outcome = await self._work(attempt, replica)
            except AgentLostError as error:
                if "unsent" not in error.parts or attempt.verdict is not None:
                    return self._blamed(attempt, pool, replica, error)
                # Nobody was asked, so nothing failed: the attempt queues again, for whoever is there.
                if self._queue_over(attempt):
                    raise
                continue
            except NoaError as error:
                pool.worked(replica, assignment.idempotency_key, error.code)
                raise
            finally:
                if attempt.connection is not None:
                    replica.leave(attempt.connection)
                    attempt.connection = None
                pool.give(replica)
            self._worked(attempt, pool, replica, outcome)
            if type(outcome) is not Failure or outcome.code != "OVERLOADED" or attempt.verdict is not None:
                return outcome
            self._rest(attempt, pool, replica, outcome)
            if attempt.verdict is not None:
                return attempt.verdict

    def _worked(self, attempt: Attempt, pool: Pool, replica: Supervisor, outcome: Outcome) -> None:
        """Keep what became of an execution, for the judgement on its replica and on its task."""
        ended = outcome if attempt.verdict is None else attempt.verdict
        code = ended.code if type(ended) is Failure else ""
        if code not in ("CANCELLED", "OVERLOADED"):
            pool.worked(replica, attempt.assignment.idempotency_key, code)
            self._losses.acquit(attempt.assignment.idempotency_key)

    def _blamed(self, attempt: Attempt, pool: Pool, replica: Supervisor, error: AgentLostError) -> Failure:
        """The failure of an attempt whose agent went away: of the agent, or of a task that ends whichever runs it."""
        assignment, connection = attempt.assignment, attempt.connection
        together = replica.fell_with(connection) if connection is not None else 0
        failure = failure_of(error, assignment.agent)
        if not together or attempt.verdict is not None or pool.declaration.addresses:
            if not together:
                pool.worked(replica, assignment.idempotency_key, error.code)
            return failure
        limit = int(pool.declaration.options.get("poison_after", POISON_AFTER))
        task = assignment.idempotency_key
        if not limit or self._losses.add(task, time.monotonic(), together, replica.forgive) < limit:
            return failure
        lost = self._losses.convict(task)
        return Failure(
            "POISON_TASK",
            f"{assignment.task}: {lost} replicas of agent '{assignment.agent}' went away while they worked on it, so "
            f"it is not tried again. Last: {error.message}",
            details={"agent": assignment.agent, "action": assignment.action, "lost": lost},
        )

    async def _work(self, attempt: Attempt, replica: Supervisor) -> Outcome:
        if self._may_begin is not None and (unsure := self._may_begin(attempt.assignment.run_id)) is not None:
            await unsure
        connection = replica.connection
        assignment = attempt.assignment
        if connection is None:
            name = assignment.agent
            raise AgentLostError(f"agent '{name}' went away before the work began", agent=name, unsent=True)
        attempt.connection = connection
        replica.enter(connection)
        attempt.since = time.monotonic()
        attempt.observe(_RUNNING)
        limit_ms = assignment.timeouts.execution_ms
        if limit_ms is None:
            return await connection.execute(assignment, attempt.observe)
        timer = asyncio.get_running_loop().call_later(limit_ms / 1000, self._work_expired, attempt)
        try:
            outcome = await connection.execute(assignment, attempt.observe)
        finally:
            timer.cancel()
        if isinstance(outcome, Failure) and outcome.code == "DEADLINE_EXCEEDED":
            return at_deadline(assignment, outcome, time.monotonic() - attempt.since)
        return outcome

    async def _slot(self, attempt: Attempt, pool: Pool) -> Supervisor:
        def queued() -> None:
            attempt.observe(_QUEUED)
            attempt.observe(Waiting("agent", attempt.assignment.agent))

        attempt.pool = pool
        assignment = attempt.assignment
        if pool.started:
            queued()
            return await pool.take(assignment.priority, run=assignment.run_id)
        attempt.observe(_STARTING)
        return await pool.take(assignment.priority, on_queued=queued, run=assignment.run_id)

    def _rest(self, attempt: Attempt, pool: Pool, replica: Supervisor, refused: Failure) -> None:
        """An agent refused the work: it did nothing, so the attempt queues again, elsewhere first."""
        after_s = _REST_S if refused.retry_after_ms is None else refused.retry_after_ms / 1000
        pool.rest(replica, min(max(after_s, 0.01), _REST_MAX_S))
        self._queue_over(attempt)

    def _queue_over(self, attempt: Attempt) -> bool:
        """Whether an attempt that was not taken has queued for too long; that is then its verdict."""
        over = attempt.queue_until is not None and asyncio.get_running_loop().time() >= attempt.queue_until
        if over:
            attempt.verdict = queue_timeout(attempt)
        return over

    # --- ends --------------------------------------------------------------------------------------------------

    async def cancel(self, execution: ExecutionId, *, grace_s: float = _STOP_GRACE_S, reason: str = "") -> None:
        """Make an attempt end with CANCELLED, and return once `execute` has its outcome.

        Idempotent; nothing happens where the execution is not known. An agent that does not obey within the grace is
        left to itself.
        """
        attempt = self._attempts.get(execution)
        if attempt is None:
            return
        text = f"the execution was cancelled{f': {reason}' if reason else ''}"
        self._stop(attempt, Failure("CANCELLED", text), grace_s, reason)
        await attempt.wait_ended()

    def _stop(self, attempt: Attempt, verdict: Failure, grace_s: float, reason: str) -> None:
        if attempt.verdict is None:
            attempt.verdict = verdict
        if attempt.connection is None:
            if not attempt.forced:
                attempt.force()
        elif attempt.stopping is None:
            attempt.stopping = self._spawn(self._stop_on_agent(attempt, grace_s, reason))

    async def _stop_on_agent(self, attempt: Attempt, grace_s: float, reason: str) -> None:
        connection, execution = attempt.connection, attempt.assignment.execution_id
        if connection is None:
            return attempt.force()
        timer = asyncio.get_running_loop().call_later(grace_s, attempt.force)
        try:
            await connection.cancel(execution=execution, grace_s=grace_s, reason=reason)
            await attempt.wait_ended()
        except NoaError as error:
            log.warning("cancelling %s: %s", execution, error)
            if not attempt.over:
                attempt.force()
        finally:
            timer.cancel()

    def _queue_expired(self, attempt: Attempt) -> None:
        if attempt.connection is not None:
            return  # it works; if the agent refuses it, `_rest` looks again
        self._stop(attempt, queue_timeout(attempt), 0.0, "")

    def _work_expired(self, attempt: Attempt) -> None:
        self._stop(attempt, execution_timeout(attempt.assignment), _STOP_GRACE_S, "its time is over")

    async def release(self, run: RunId, agents: Collection[str], *, grace_s: float = _STOP_GRACE_S) -> None:
        """Tell every started replica of these agents to let go of everything that it holds for a run, then end the
        replicas that the run alone held.

        Each of the two within about the grace. What goes wrong is logged: a run that is over stays over.
        """
        pools = [pool for name, pool in self._pools.items() if name in agents]
        connections = [r.connection for pool in pools for r in pool.replicas if r.connection is not None]
        if connections:
            await self._release_on(connections, run, grace_s)
        ending = [self._spawn(replica.wait_retired()) for p in self._pools.values() for replica in p.run_over(run)]
        if ending:
            await asyncio.wait(ending, timeout=grace_s + 1.0)

    async def _release_on(self, connections: Collection[AgentConnection], run: RunId, grace_s: float) -> None:
        calls = [self._spawn(_release_by(connection, run, grace_s)) for connection in connections]
        _, late = await asyncio.wait(calls, timeout=grace_s + 1.0)
        for call in late:
            call.cancel()
            log.warning("run %s: an agent did not release it within %g s", run, grace_s)

    # --- agents ------------------------------------------------------------------------------------------------

    def add(self, declarations: Mapping[str, AgentDeclaration]) -> None:
        """Take further declarations, such as those of a definition.

        Raises:
            UsageError: A name is taken by another declaration; none was taken.
        """
        for name, declaration in declarations.items():
            known = self._declarations.get(name)
            if known is not None and replace(known, plugin="") != replace(declaration, plugin=""):
                origin = f"plugin '{known.plugin}'" if known.plugin else "another definition"
                raise UsageError(
                    f"agent '{name}' is declared twice with different content: already by {origin}. Rename one",
                    agent=name,
                )
        for name, declaration in declarations.items():
            self._declarations.setdefault(name, declaration)

    async def status(self) -> list[AgentStatus]:
        """Every declared agent now, by name."""
        return [self._status_of(name) for name in sorted(self._declarations)]

    def _status_of(self, name: str) -> AgentStatus:
        pool = self._pools.get(name)
        if pool is not None:
            return pool.status()
        declaration = self._declarations[name]
        return AgentStatus(
            name,
            declaration.kind,
            "idle",
            description=declaration.description,
            plugin=declaration.plugin,
            max_replicas=len(declaration.addresses) or max(1, declaration.min_replicas, declaration.max_replicas),
        )

    async def describe(self, name: str) -> AgentHealth:
        """Start an agent where needed, and ask it who it is.

        Raises:
            UsageError: It is not declared.
            AgentStartError: It cannot be started.
            AgentLostError: It does not answer.
        """
        if name not in self._declarations:
            raise UsageError(self._unknown(name), agent=name)
        pool = self._pool(name)
        connection = next((r.connection for r in pool.replicas if r.connection is not None), None)
        if connection is not None:
            return await connection.health()
        replica = await pool.take(0)
        try:
            if replica.connection is None:
                raise AgentLostError(f"agent '{name}' went away", agent=name)
            return await replica.connection.health()
        finally:
            pool.give(replica)

    def known(self, name: str) -> AgentHealth | None:
        """Who an agent is, as far as that is known without starting it now."""
        pool = self._pools.get(name)
        known = pool.status().health if pool is not None else None
        declaration = self._declarations.get(name)
        if known is not None or declaration is None:
            return known
        kind = self._registry.agent_kinds.get(declaration.kind)
        return kind.describe(declaration) if kind is not None else None

    def waiting(self, execution: ExecutionId) -> str:
        """What an attempt waits for, as a sentence for a person; empty where it is not known here."""
        attempt = self._attempts.get(execution)
        return attempt.describe() if attempt is not None else ""

    async def close(self, *, grace_s: float = _STOP_GRACE_S) -> None:
        """Cancel what goes on, drain and end every agent. Afterwards no process of them is left. Idempotent."""
        self._closing = True
        for attempt in list(self._attempts.values()):
            self._stop(attempt, Failure("CANCELLED", "the engine is being closed", retryable=True), grace_s, "closing")
        if self._attempts:
            await asyncio.gather(*(attempt.wait_ended() for attempt in list(self._attempts.values())))
        await self._sampler.close()
        await asyncio.gather(*(pool.close(grace_s=grace_s) for pool in self._pools.values()))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _pool(self, name: str) -> Pool:
        """The agent's pool. Raises UnknownAgentError, QueueFullError, AgentStartError."""
        return self._pools.get(name) or self._open(name)

    def _open(self, name: str) -> Pool:
        declaration = self._declarations.get(name)
        if declaration is None:
            raise UnknownAgentError(self._unknown(name), agent=name)
        if self._closing:
            raise QueueFullError("the engine is being closed", agent=name)
        kinds = self._registry.agent_kinds
        kind = kinds.get(declaration.kind)
        if kind is None:
            raise AgentStartError(
                f"agent '{name}': kind '{declaration.kind}' is not known. Known: {', '.join(kinds) or 'none'}",
                agent=name,
                permanent=True,
            )
        pool = self._pools[name] = Pool(declaration, kind, self._places, self._emit, self._room, self._steering)
        return pool

    def _unknown(self, name: str) -> str:
        known = sorted(self._declarations)
        near = difflib.get_close_matches(name, known, 1)
        hint = f". Did you mean '{near[0]}'?" if near else ""
        return f"agent '{name}' is not known. Known: {', '.join(known) or 'none'}{hint}"

    def _emit(self, event: AgentEvent) -> None:
        if event.pid is not None and event.state == "serving":
            self._sampler.begin()
        if self._on_event is not None:
            self._on_event(event)

    def _replicas(self) -> list[Supervisor]:
        return [replica for pool in self._pools.values() for replica in pool.replicas if replica.pid is not None]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class UnknownAgentError(UsageError):
    """An assignment names an agent that is not declared. Nothing was executed."""

    code = "UNKNOWN_AGENT"


async def _release_by(connection: AgentConnection, run: RunId, grace_s: float) -> None:
    # It tells itself what goes wrong: who waits for it may be gone by then, such as an engine that is being closed.
    try:
        await connection.cancel(run=run, grace_s=grace_s, reason="the run is over")
    except Exception as error:  # foreign code: an agent kind of a plugin
        log.warning("run %s: an agent could not release it: %s", run, error)
