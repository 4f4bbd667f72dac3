"""The engine: starts, resumes, cancels and awaits runs in one process. Each run is driven by its own `LiveRun`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from secrets import choice
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from noa.definitions import DICT_NAME, Evaluator, check_inputs, parse_plan, pinned_texts
from noa.engine.children import Children
from noa.engine.core import Core
from noa.engine.decide import Decider
from noa.engine.durations import Durations
from noa.engine.guards import Guards
from noa.engine.live import Running
from noa.engine.outputs import OutputKeeper
from noa.engine.ports import (
    Clock,
    Dispatcher,
    EventObserver,
    Learner,
    NoSecrets,
    RunWatch,
    Secrets,
    SystemClock,
    TaskObserver,
)
from noa.engine.reopening import why_not_reopened
from noa.engine.run import LiveRun
from noa.engine.state import RunState
from noa.errors import (
    DefinitionError,
    JournalError,
    OwnershipError,
    PluginError,
    RunKeyError,
    RunNotFoundError,
    RunStateError,
    UsageError,
)
from noa.model.events import Event, RunCreated, RunReopened, RunResumed
from noa.model.execution import Observation
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.plugin import ActionInfo, ArtifactStore, Journal, Lease, Mode, Registry

__all__ = ["Engine", "Running", "new_run_id"]

log = logging.getLogger("noa.engine")

LEASE_MS = 15_000
SIGNAL_POLL_S = 0.1
ADOPT_EVERY_S = 2.0
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_run_id(now_ms: int) -> RunId:
    """A new id: time of creation in UTC, then 30 random bits, such as `20261122-221530-k3f9x2`."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ms / 1000))
    return RunId(stamp + "-" + "".join(choice(_ALPHABET) for _ in range(6)))


class Engine:
    """Runs workflows. Give it its collaborators; `noa.Runtime` builds them.

    Args:
        registry: Stage types and recovery strategies.
        journal: Open.
        dispatcher: Executes attempts.
        artifacts: For outputs that are too large for the journal.
        owner: Names this engine in leases; unlike any other's.
        clock: Real time unless a test says else.
        on_event: Told of each event after it is on disk.
        on_observation: Told of what is seen of attempts.
        secrets: Gives the secrets that inputs pass on, and masks them in what comes back.
        action: What is known of an action of an agent, for checking what people put in its place.
        prepare: Told of a plan before a run of it begins or goes on here; declares its agents and pools.
        learner: Keeps what runs teach, and gives it to later ones; None is for neither.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        journal: Journal,
        dispatcher: Dispatcher,
        artifacts: ArtifactStore,
        owner: str,
        clock: Clock | None = None,
        on_event: EventObserver | None = None,
        on_observation: TaskObserver | None = None,
        secrets: Secrets | None = None,
        action: Callable[[str, str], ActionInfo | None] | None = None,
        prepare: Callable[[Plan], None] | None = None,
        learner: Learner | None = None,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._dispatcher = dispatcher
        self._clock = clock or SystemClock()
        self._outputs = OutputKeeper(artifacts)
        self._on_event = _guarded(on_event) if on_event is not None else (lambda _run, _seq, _event: None)
        self._on_observation = on_observation or (lambda _run, _task, _attempt, _seen: None)
        self._secrets = secrets or NoSecrets()
        self._action = action
        self._prepare = prepare or (lambda _plan: None)
        self._learner = learner
        self._lease_ms = lease_ms
        self._evaluator = Evaluator()
        self._guards = Guards()
        self._durations = Durations()
        self._owner = owner
        self._live: dict[RunId, Running] = {}
        self._children = Children(self)
        self._not_adopted: set[RunId] = set()
        self._resuming: WeakValueDictionary[RunId, asyncio.Lock] = WeakValueDictionary()
        self._keeper: asyncio.Task[None] | None = None
        self._sure_until_ms = 0  # until when all leases certainly hold that were there when they were last renewed

    @property
    def owner(self) -> str:
        """How this engine is named in leases."""
        return self._owner

    @property
    def count(self) -> int:
        """How many runs go on here."""
        return len(self._live)

    def running(self, run: RunId) -> Running | None:
        """The run, where it is going on here."""
        return self._live.get(run)

    async def start(
        self,
        plan: Plan,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: RunId | None = None,
        actor: str = "",
        output_uri: str | Callable[[RunId], str] = "",
        parent: str = "",
        key: str = "",
        mode: str = "",
        expected_ms: Mapping[str, int] | None = None,
    ) -> Running:
        """Begin a run; returns once its first event is on disk.

        Args:
            key: Of which there is one run at most in the store.
            mode: Mode of execution; empty is the definition's.
            expected_ms: How long tasks are expected to take, by `stage/task`; what could start is ordered by it. None
                is what was learned.

        Raises:
            UsageError: The mode is not known.
            InputError: The inputs do not fit; no run was created.
            RunKeyError: A run was started under this key before; `same` says whether with the same definition and
                inputs.
            ConflictError: A run of this id exists.
            JournalError: The store failed.
        """
        given = self._checked(plan, inputs or {}, kept=bool(parent))
        self._prepare(plan)
        if expected_ms is None and self._learner is not None:
            expected_ms = await self._learner.expected_ms(plan, child=bool(parent))
        now_ms = self._clock.now_ms()
        run = run_id or new_run_id(now_ms)
        texts = pinned_texts(plan)
        hashes = {name: _sha256(text) for name, text in texts.items()}
        created = RunCreated(
            at_ms=now_ms,
            run_id=run,
            workflow=plan.name,
            version=plan.version,
            definitions=hashes,
            inputs=given,
            mode=mode or plan.mode,
            debugs=self._mode(mode or plan.mode).debugs,
            expected_ms=dict(expected_ms or {}),
            actor=actor,
            parent=parent,
            output_uri=output_uri(run) if callable(output_uri) else output_uri,
            key=key,
        )
        core = self._core(plan)
        events, effects = core.advance(created)
        try:
            lease = await self._journal.create(
                run,
                created,
                owner=self._owner,
                lease_ms=self._lease_ms,
                texts={hashes[name]: text for name, text in texts.items()},
            )
        except RunKeyError as error:
            raise await self._key_taken(error, created) from None
        self._on_event(run, 1, created)
        return self._drive(core, lease, 1, events[1:], effects, created)

    def _core(self, plan: Plan) -> Core:
        return Core(RunState(plan), Decider(self._registry, self._evaluator, self._durations, self._action))

    def _mode(self, name: str) -> Mode:
        modes = self._registry.modes
        if name not in modes:
            raise UsageError(f"mode '{name}' is not known. Known: {', '.join(sorted(modes))}", mode=name)
        return modes[name]

    async def _key_taken(self, error: RunKeyError, wanted: RunCreated) -> RunKeyError:
        (_, found), *_ = await self._journal.read(RunId(error.run_id), limit=1)
        assert isinstance(found, RunCreated)
        differs = [
            what
            for what, same in (
                ("another definition", found.definitions == wanted.definitions),
                ("other inputs", found.inputs == wanted.inputs),
            )
            if not same
        ]
        how = f"with {' and '.join(differs)}" if differs else "with the same definition and inputs"
        return RunKeyError(
            f"run {found.run_id} was started under the key '{wanted.key}' before, {how}",
            run_id=found.run_id,
            key=wanted.key,
            same=not differs,
        )

    def _checked(self, plan: Plan, inputs: Mapping[str, Any], *, kept: bool) -> dict[str, Any]:
        """The inputs of a run; with `kept`, what is kept by reference is checked as the value that it was."""
        if not kept:
            return check_inputs(plan, inputs)
        whole = self._outputs.whole(dict(inputs))
        checked = check_inputs(plan, whole)
        return checked | {name: value for name, value in inputs.items() if whole[name] is not value}

    async def resume(self, run: RunId, *, plan: Plan | None = None) -> Running:
        """Go on with a run that no live engine owns; a run that goes on here already is returned as it is.

        Args:
            plan: Its plan where the caller has it; else it is compiled from the pinned text.

        Raises:
            RunNotFoundError: No such run.
            RunStateError: It is over.
            OwnershipError: Another live engine owns it.
            DefinitionError: A plugin that it needs is missing now.
        """
        run = (await self._journal.run(run)).run_id
        one_at_a_time = self._resuming.setdefault(run, asyncio.Lock())
        async with one_at_a_time:
            return self._live.get(run) or await self._take_over(run, plan)

    async def reopen(
        self,
        run: RunId,
        *,
        from_task: str = "",
        rollback: bool = False,
        actor: str = "",
        reason: str = "",
        plan: Plan | None = None,
    ) -> Running:
        """Go on with a run that is over: what failed is tried again, what succeeded is kept.

        A run of which a rollback stopped half way is undone further.

        Args:
            from_task: Path of a task that is done again though it succeeded, with all that depends on it.
            rollback: Undo the run by its compensations instead.

        Raises:
            RunNotFoundError: No such run.
            RunStateError: It is not over, or in no state in which that makes sense; the message says what does.
            OwnershipError: Another live engine owns it.
        """
        run = (await self._journal.run(run)).run_id
        if run in self._live:
            raise RunStateError(f"run {run} goes on here: it is not over", run=run)
        asked = RunReopened(
            at_ms=self._clock.now_ms(), actor=actor, reason=reason, from_task=TaskPath(from_task), rollback=rollback
        )
        async with self._resuming.setdefault(run, asyncio.Lock()):
            return await self._take_over(run, plan, asked)

    async def fork(
        self,
        run: RunId,
        *,
        at: int,
        inputs: Mapping[str, Any] | None = None,
        actor: str = "",
        output_uri: Callable[[RunId], str] | None = None,
        plan: Plan | None = None,
    ) -> Running:
        """Begin a new run that shares the first `at` events of another one, which stays as it is.

        The shared past counts as if it had ended just now, so that no time limit is over at once. What it did belongs
        to the other run: a rollback of the new one does not undo it.

        Args:
            at: Sequence number of the last event that is shared, from 1.
            inputs: That are changed; only what is resolved after that event sees them.

        Raises:
            RunNotFoundError: No such run.
            UsageError: It has no such event, or that event ends it.
            InputError: The inputs do not fit.
        """
        record = await self._journal.run(run)
        history = [event for _, event in await self._journal.read(record.run_id, limit=max(at, 1))]
        created = history[0]
        assert isinstance(created, RunCreated)
        if not 1 <= at <= len(history):
            raise UsageError(f"run {record.run_id} has events 1 to {record.last_seq}, not {at}", run=record.run_id)
        plan = plan or await self.pinned_plan(created)
        self._prepare(plan)
        now_ms = self._clock.now_ms()
        new = new_run_id(now_ms)
        created = msgspec.structs.replace(
            created,
            run_id=new,
            actor=actor,
            inputs=self._checked(plan, {**created.inputs, **(inputs or {})}, kept=True),
            parent="",
            key="",
            output_uri=output_uri(new) if output_uri is not None else created.output_uri,
            forked_from=record.run_id,
            forked_at=at,
        )
        past = _shifted([created, *history[1:]], to_ms=now_ms)
        core = self._core(plan)
        core.replay(past)
        if core.state.finished:
            raise UsageError(f"event {at} ends run {record.run_id}; name an earlier one", run=record.run_id, at=at)
        if core.state.undoing is not None:
            raise UsageError(
                f"at event {at} run {record.run_id} is being undone, which only that run can do; name an event before "
                "rollback_started",
                run=record.run_id,
                at=at,
            )
        texts = {sha: await self._journal.text(sha) for sha in created.definitions.values()}
        lease = await self._journal.create(
            new, past[0], owner=self._owner, lease_ms=self._lease_ms, texts=texts, past=past[1:]
        )
        resumed = RunResumed(at_ms=now_ms, owner=self._owner, fence=lease.fence)
        core.state.apply(resumed)
        events, effects = core.outstanding(now_ms)
        return self._drive(core, lease, at, [resumed, *events], effects)

    async def adopt(self) -> list[Running]:
        """Take over every run of the store that is not over and that no live engine drives; those that go on now.

        One that cannot be resumed here, such as for a missing plugin, is left alone; the log says why.
        """
        adopted: list[Running] = []
        for record in await self._journal.abandoned():
            if record.run_id in self._live:
                continue
            try:
                adopted.append(await self.resume(record.run_id))
            except (OwnershipError, RunStateError, RunNotFoundError):
                continue  # somebody else was quicker
            except (DefinitionError, PluginError, UsageError, JournalError) as error:
                if record.run_id not in self._not_adopted:
                    self._not_adopted.add(record.run_id)
                    log.warning("run %s cannot be taken over here: %s", record.run_id, error)
        return adopted

    async def keep_adopting(self, adopted: Callable[[Running], None], *, every_s: float = ADOPT_EVERY_S) -> None:
        """Take over abandoned runs until this is cancelled."""
        while True:
            try:
                for running in await self.adopt():
                    adopted(running)
            except JournalError as error:
                log.warning("the journal did not answer: %s", error)
            await asyncio.sleep(every_s)

    async def _take_over(self, run: RunId, plan: Plan | None, reopened: RunReopened | None = None) -> Running:
        lease = await self._journal.acquire(run, owner=self._owner, lease_ms=self._lease_ms)
        try:
            with _no_collection():
                history = await self._journal.read(run)
                created = history[0][1]
                assert isinstance(created, RunCreated)
                if plan is None:
                    plan = await self.pinned_plan(created)
                self._prepare(plan)
                core = self._core(plan)
                core.replay(event for _, event in history)
            self._mode(core.state.mode)  # without it nobody would say what is held
            if reopened is not None:
                _check_reopened(core.state, reopened)
            elif core.state.finished:
                status = core.state.status
                raise RunStateError(f"run {run} is over: it {_PAST.get(status, status)}", run=run, status=status)
        except BaseException:
            with contextlib.suppress(JournalError):
                await self._journal.release(lease)
            raise
        # The clock may have been put back since: what the run waits for must not begin later by that much.
        now_ms = max(self._clock.now_ms(), history[-1][1].at_ms)
        first: list[Event] = [RunResumed(at_ms=now_ms, owner=self._owner, fence=lease.fence)]
        core.state.apply(first[0])
        # What people said while nobody drove the run counts before anything is executed again.
        for signal in await self._journal.signals([run]):
            first += core.recorded(signal, now_ms)
        if reopened is not None:
            first.append(_continued(core.state, reopened, now_ms))
            core.state.apply(first[-1])
        events, effects = core.outstanding(now_ms)
        return self._drive(core, lease, history[-1][0], [*first, *events], effects)

    async def pinned_plan(self, created: RunCreated) -> Plan:
        """The plan of a run, compiled from the texts that were pinned when it began."""
        texts = {name: await self._journal.text(sha) for name, sha in created.definitions.items()}
        text = texts[""]
        if text.startswith("{"):  # most likely JSON, which is read in a fifth of the time
            with contextlib.suppress(DefinitionError):
                return parse_plan(text, DICT_NAME, registry=self._registry, base=None, texts=texts)
        return parse_plan(text, created.workflow, registry=self._registry, base=None, texts=texts)

    async def close(self) -> None:
        """Stop driving. Runs that are not over stay as they are on disk, and their leases are given up."""
        tasks = [running.task for running in self._live.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        for running in list(self._live.values()):  # cancelled before it took its first step: nothing let go for it
            with contextlib.suppress(JournalError):
                await self._journal.release(running.live.lease)
        self._live.clear()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def folded(self, run: RunId, plan: Plan | None = None) -> RunState:
        """The state of any run of the store as its journal has it; nothing is taken over or changed."""
        history = await self._journal.read(run)
        created = history[0][1]
        assert isinstance(created, RunCreated)
        state = RunState(plan or await self.pinned_plan(created))
        for _, event in history:
            state.apply(event)
        return state

    # --- driving

    def _drive(
        self,
        core: Core,
        lease: Lease,
        seq: int,
        events: list[Event],
        effects: list[Any],
        created: RunCreated | None = None,
    ) -> Running:
        """Drive a run from here on; `created` is the first event of one that begins."""
        on_event, on_observation, watch = self._on_event, self._on_observation, None
        if self._learner is not None:
            watch = self._learner.watch(core.state.plan, whole=created is not None)
            on_event, on_observation = _watched(watch, on_event, on_observation, self._clock)
            if created is not None:
                watch.event(created)
        live = LiveRun(
            core=core,
            lease=lease,
            seq=seq,
            journal=self._journal,
            dispatcher=self._dispatcher,
            clock=self._clock,
            outputs=self._outputs,
            sub_workflows=self._children,
            secrets=self._secrets,
            guards=self._guards,
            durations=self._durations,
            on_event=on_event,
            on_observation=on_observation,
        )
        run = live.run_id

        async def drive() -> RunState:
            try:
                await live.drive(events, effects)
                if watch is not None:
                    watch.over(live.state)
            finally:
                if self._live.get(run) is running:
                    del self._live[run]
                with contextlib.suppress(JournalError):
                    await self._journal.release(lease)
            return live.state

        running = Running(live, asyncio.get_running_loop().create_task(drive(), name=f"noa-run-{run}"))
        running.task.add_done_callback(_retrieve)
        self._live[run] = running
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._keep(), name="noa-keeper")
        return running

    async def _keep(self) -> None:
        """Renew leases and pick up signals, while anything runs."""
        renewed_ms = self._clock.now_ms()
        look = True
        while self._live:
            try:
                if await self._journal.changed() or look:
                    look = await self._apply_signals()
                if self._clock.now_ms() - renewed_ms > self._lease_ms / 3:
                    renewed_ms = self._clock.now_ms()
                    await self._renew()
            except JournalError as error:
                log.warning("the journal did not answer: %s", error)
            await asyncio.sleep(SIGNAL_POLL_S)

    async def _renew(self) -> None:
        sure_until_ms = self._clock.now_ms() + self._lease_ms
        lost = await self._journal.renew(
            [running.live.lease for running in self._live.values()], lease_ms=self._lease_ms
        )
        self._sure_until_ms = sure_until_ms
        for run in lost:
            running = self._live.get(run)
            if running is not None:
                running.live.lose(OwnershipError(f"run {run} is driven by another engine now; this one stops", run=run))

    def confirm(self, run: RunId) -> Awaitable[None] | None:
        """Before an attempt is given to an agent: None where the run is certainly ours, else what makes it certain.

        An engine that was stopped for longer than its lease must not begin what still queues in it.

        Raises (awaited):
            OwnershipError: Another engine has taken the run over.
        """
        running = self._live.get(run)
        if running is None or self._clock.now_ms() < max(running.live.lease.until_ms, self._sure_until_ms):
            return None
        return self._confirmed(running)

    async def _confirmed(self, running: Running) -> None:
        while True:
            try:
                await self._renew()
            except JournalError as error:
                log.warning("the journal did not answer: %s", error)
                await asyncio.sleep(SIGNAL_POLL_S)
                continue
            if running.live.lost is not None:
                raise running.live.lost
            return

    async def _apply_signals(self) -> bool:
        """Hand signals to their runs. One is marked in a later round, when its event is in the journal: look again?"""
        again = False
        for signal in await self._journal.signals(list(self._live)):
            running = self._live.get(signal.run_id)
            if running is None:
                continue
            if signal.signal_id not in running.state.signals:
                running.live.post(signal)
                again = True
            else:
                await self._journal.mark_signal(signal.signal_id, running.live.seq)
        return again


_PAST = {"cancelled": "was cancelled", "rolled_back": "was undone", "rollback_failed": "was undone in part"}


def _check_reopened(state: RunState, asked: RunReopened) -> None:
    if not state.finished:
        raise RunStateError(
            f"run {state.run_id} is not over; go on with it: noa resume {state.run_id}",
            run=state.run_id,
            status=state.status,
        )
    why = why_not_reopened(state.status, asked.from_task, state.tasks, rollback=asked.rollback)
    if why:
        raise RunStateError(f"run {state.run_id} cannot be reopened: {why}", run=state.run_id, status=state.status)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector: nothing that a plan and a history are made of is garbage, and to look for some
    takes as long as all the rest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _shifted(events: Sequence[Event], *, to_ms: int) -> list[Event]:
    """Events moved in time, so that the last one happened at a time and all are as far apart as they were."""
    by_ms = to_ms - events[-1].at_ms
    return [msgspec.structs.replace(event, at_ms=event.at_ms + by_ms) for event in events]


def _continued(state: RunState, asked: RunReopened, at_ms: int) -> RunReopened:
    """A rollback that stopped half way can only go on."""
    half = state.status == "rollback_failed"
    return msgspec.structs.replace(asked, at_ms=at_ms, rollback=asked.rollback or half)


def _guarded(observer: EventObserver) -> EventObserver:
    """An observer that cannot end a run: what it raises is logged."""

    def observe(run: RunId, seq: int, event: Event) -> None:
        try:
            observer(run, seq, event)
        except Exception:  # foreign code; the run goes on whatever it does
            log.exception("an observer raised at event %d of run %s", seq, run)

    return observe


def _watched(
    watch: RunWatch, on_event: EventObserver, on_observation: TaskObserver, clock: Clock
) -> tuple[EventObserver, TaskObserver]:
    """Observers that tell a watch too."""

    def event_too(run: RunId, seq: int, event: Event) -> None:
        watch.event(event)
        on_event(run, seq, event)

    def observation_too(run: RunId, task: TaskPath, attempt: int, seen: Observation) -> None:
        watch.observed(task, attempt, seen, clock.now_ms())
        on_observation(run, task, attempt, seen)

    return event_too, observation_too


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _retrieve(task: asyncio.Task[Any]) -> None:
    # A run that nobody awaits must not end in "exception was never retrieved"; its journal has the truth.
    if not task.cancelled():
        task.exception()
