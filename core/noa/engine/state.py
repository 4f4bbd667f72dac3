"""The state of one run: the fold of its events. `apply` is the only place where anything is decided.

No clock, no I/O, no randomness: time and jitter arrive inside events. The cost of an event does not grow with the run:
counters and indexes, no scans (but for ending a stage early, which looks once at each task that it ends).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from noa.engine import interventions
from noa.engine.commands import (
    AdvanceStage,
    CancelAttempt,
    ChooseRecovery,
    CloseStage,
    Command,
    Execute,
    FinishRun,
    LookUp,
    OpenStage,
    SetTimer,
    StartTask,
)
from noa.engine.debugging import Debugging
from noa.engine.holds import escalated, rejected
from noa.engine.nodes import BlockNode, StageNode, TaskNode, TaskStatus
from noa.engine.reopening import Reset, reset_of
from noa.engine.rollback import Undoing, effects_of, how_undone, undo_plan
from noa.engine.wiring import Fields, extend, merge, visible
from noa.errors import InternalError
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    Block,
    BlocksOpened,
    CancelRequested,
    Complete,
    Event,
    Fail,
    Hold,
    HoldResolved,
    LateResult,
    Recall,
    Recalled,
    RecoveryChosen,
    Retry,
    Rollback,
    RollbackStarted,
    RunCreated,
    RunFinished,
    RunReopened,
    RunResumed,
    RunStatus,
    SignalApplied,
    SignalRefused,
    Skip,
    StageFinished,
    StageHeld,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskHeld,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath, compensation_path, task_path
from noa.model.plan import Plan

__all__ = ["RunState", "last_outputs_key"]

_BAD: frozenset[str] = frozenset({"failed", "blocked", "cancelled"})


def last_outputs_key(workflow: str, task: TaskNode) -> str:
    """The key under which the outputs with which a task last succeeded are kept, in whichever run."""
    return f"last:{workflow}/{task.path}"


class RunState:
    """One run. Fold events with `apply`; read the rest.

    Attributes:
        plan: What is run.
        pending: Commands that have no outcome yet, by key. Resume issues them again.
        tasks: Tasks of all blocks that were opened, by path.
        stages: By name, in the order of the file.
        cancelled: Why the run is being ended early, or empty.
        forced: Whether cleanup is ended too: it was cancelled a second time.
        signals: Ids of the signals that were applied or refused.
        agents: Agents that were asked for anything.
        held: Tasks that wait for a person, in the order in which they began to; `held_stages` are stages that do.
        mode: Its mode of execution now.
        actor: Who began it.
        paused: Who wants that nothing more begins, else empty.
        debugging: Breakpoints and steps.
        undo_wanted: Whether the run is to be undone once its stages are over.
        undoing: The rollback, once it began.
        left: Tasks that could not be undone, once the run is over.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_id = RunId("")
        self.status: RunStatus = "pending"
        self.inputs: dict[str, Any] = {}
        self.output_uri = ""
        self.parent = ""
        self.outputs: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.degraded = False
        self.cancelled = ""
        self.cancel_requested = False
        self.signals: set[str] = set()
        self.agents: set[str] = set()
        self.forced = False
        self.held: dict[TaskPath, TaskNode] = {}
        self.held_stages: dict[str, StageNode] = {}
        self.mode = "auto"
        self.actor = ""
        self.paused = ""
        self.debugging = Debugging()
        self.undo_wanted = False
        self.undoing: Undoing | None = None
        self.left: list[TaskPath] = []
        self.created_ms = 0
        self.finished_ms = 0
        self.now_ms = 0
        self.stages = {name: StageNode(stage) for name, stage in plan.stages.items()}
        self.tasks: dict[TaskPath, TaskNode] = {}
        self.pending: dict[str, Command] = {}
        self.open_stages = len(self.stages)
        self.begun_stages = 0
        self.counts: dict[str, int] = {}
        self.wires_implicitly = any(
            task.inputs is None and task.agent
            for stage in plan.stages.values()
            for template in stage.templates.values()
            for task in template.tasks
        )
        self._timed_out = False
        self._earlier: dict[TaskPath, TaskNode] = {}
        self._owing: dict[TaskPath, TaskNode] = {}
        self._active = 0
        self._ready: list[tuple[int, int, TaskNode]] = []
        self._order = 0
        self._waiters: dict[str, dict[str | None, list[TaskNode]]] = {}
        self._out: list[Command] = []
        self._ended: deque[TaskNode] = deque()

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.finished_ms > 0

    @property
    def waiting(self) -> bool:
        """Whether nothing but a person (or the time that one has) moves the run on."""
        return bool(self.held or self.held_stages or self.paused) and all(
            isinstance(command, SetTimer) for command in self.pending.values()
        )

    def apply(self, event: Event) -> list[Command]:
        """Fold one event in and say what is wanted next.

        Raises:
            InternalError: The event cannot follow what came before it; the journal is damaged or noa has a fault.
        """
        self.now_ms = event.at_ms
        self._out = []
        try:
            _APPLY[type(event)](self, event)
        except KeyError as error:
            raise InternalError(f"event {event!r} names {error}, which this run does not have") from error
        return self._out

    def accepts(self, task: TaskPath, attempt: int) -> bool:
        """Whether an outcome of this attempt is still waited for; a late one is recorded and not applied."""
        node = self.tasks.get(task)
        return node is not None and attempt in node.live and node.status in {"running", "cancelling"}

    def looks_up(self, task: TaskPath, attempt: int) -> bool:
        """Whether the store's answer about kept outputs is still waited for."""
        command = self.pending.get(task)
        return isinstance(command, LookUp) and command.attempt == attempt

    def iter_named(self, stage: str, task: str) -> Iterator[TaskNode]:
        """The tasks of this name in a stage, one for each block that has one, in the order in which blocks opened."""
        for block in self.stages[stage].blocks:
            node = self.tasks.get(task_path(stage, block, task))
            if node is not None:
                yield node

    def iter_holds(self) -> Iterator[tuple[str, TaskNode | StageNode, Hold]]:
        """What waits for a person: path of the task or name of the stage, its node, and its hold."""
        for path, task in self.held.items():
            if task.hold is not None:
                yield path, task, task.hold
        for name, stage in self.held_stages.items():
            if stage.hold is not None:
                yield name, stage, stage.hold

    def iter_running(self) -> Iterator[TaskNode]:
        """Tasks of which an attempt is going on."""
        seen: set[TaskPath] = set()
        for command in list(self.pending.values()):
            if isinstance(command, Execute | CancelAttempt) and command.task not in seen:
                seen.add(command.task)
                yield self.tasks[command.task]

    # --- runs

    def _run_created(self, event: RunCreated) -> None:
        self.run_id = RunId(event.run_id)
        self.inputs = event.inputs
        self.output_uri = event.output_uri
        self.parent = event.parent
        self.set_mode(event.mode, debugs=event.debugs)
        self.actor = event.actor
        self.created_ms = event.at_ms
        self.status = "running"
        if self.plan.timeout_ms is not None:
            self._emit(SetTimer("run", event.at_ms + self.plan.timeout_ms))
        for stage in self.stages.values():
            if stage.unmet == 0:
                self._consider(stage)

    def _run_resumed(self, event: RunResumed) -> None:
        pass

    def _cancel_requested(self, event: CancelRequested) -> None:
        if event.signal and event.signal in self.signals:
            return
        self.forced = self.cancel_requested or self._timed_out
        self.cancel_requested = True
        self.undo_wanted = self.undo_wanted or self.plan.on_failure == "rollback"
        self.signals.add(event.signal)
        self._end_early(event.reason or "cancelled")
        if self.forced and self.undoing is not None:
            self._stop_undoing(event.reason or "cancelled")

    def _run_finished(self, event: RunFinished) -> None:
        self.status = event.status
        self.outputs = event.outputs
        self.failure = event.failure
        self.degraded = event.degraded
        self.left = event.left
        self.finished_ms = event.at_ms
        self.pending.clear()

    def _end_early(self, reason: str) -> None:
        """End what goes on. Stages with `run_on: always` still clean up, unless the run was cancelled before."""
        self.cancelled = self.cancelled or reason
        for stage in self.stages.values():
            if stage.status == "running":
                self._close(stage, reason)
            elif stage.status == "held":
                self._let_open(stage)

    def _signal_applied(self, event: SignalApplied) -> None:
        self.signals.add(event.signal)
        interventions.APPLIED[event.kind](self, event)

    def _signal_refused(self, event: SignalRefused) -> None:
        self.signals.add(event.signal)

    # --- rollback: what undoes a task is a task beside it

    def _undo(self, reason: str) -> None:
        """The run is to be undone: end what goes on, so that it can begin."""
        self.undo_wanted = True
        self._end_early(reason)

    def _rollback_started(self, event: RollbackStarted) -> None:
        self.pending.pop("run", None)
        self.undo_wanted = True
        self.failure = event.failure or self.failure
        self.undoing = Undoing.of(self.stages, self.tasks, self._owing.values(), self.plan.children)
        if not self.forced:
            self._begin_undoing(self.undoing.first())
        self._maybe_undone()

    def _begin_undoing(self, tasks: Iterable[TaskNode]) -> None:
        assert self.undoing is not None
        for task in tasks:
            if task.undo is None:
                plan = undo_plan(task, self.plan.children)
                assert plan is not None
                task.undo = TaskNode(plan, compensation_path(task.path), task.block, task.index)
                task.undo.undoes = task
                task.undo.effects = effects_of(task)
                self.tasks[task.undo.path] = task.undo
                self._count("pending", 1)
            else:
                self._set(task.undo, "pending")
                task.undo.reset()
            self.undoing.open += 1
            self._queue(task.undo)
            self._pump(task.stage)

    def _undo_settled(self, task: TaskNode) -> None:
        """A compensation is over: what had to wait for it may be undone, where it went well."""
        assert self.undoing is not None
        assert task.undoes is not None
        self.undoing.open -= 1
        if task.status in ("succeeded", "skipped"):
            task.effects.pop()
            task.redone += 1
            ready = [task.undoes] if task.effects else self.undoing.undone(task.undoes)
            if not self.forced:
                self._begin_undoing(ready)
        self._pump(task.stage)
        self._maybe_undone()

    def _maybe_undone(self) -> None:
        if self.undoing is not None and self.undoing.open == 0 and "run" not in self.pending:
            self._emit(FinishRun())

    def _stop_undoing(self, reason: str) -> None:
        assert self.undoing is not None
        for task in list(self.undoing.left.values()):
            if task.undo is not None:
                self._cancel(task.undo, reason)

    # --- reopening

    def _run_reopened(self, event: RunReopened) -> None:
        self.status = "running"
        self.finished_ms = 0
        self.outputs = {}
        self.left = []
        self.cancelled = ""
        self.cancel_requested = self.forced = self._timed_out = False
        self.undoing = None
        self.undo_wanted = event.rollback
        if event.rollback:
            self._emit(FinishRun())
            return
        self.failure = None
        if self.plan.timeout_ms is not None:
            self._emit(SetTimer("run", event.at_ms + self.plan.timeout_ms))
        self._begin_again(reset_of(self.stages, self.tasks, event.from_task))

    def _begin_again(self, reset: Reset) -> None:
        """Count everything anew, since much of it is no longer what it was; then let go on what can."""
        again = {self.tasks[path].stage.plan.name for path in reset.tasks}
        for name in reset.stages:
            self._forget(self.stages[name])
            self.stages[name] = StageNode(self.plan.stages[name])
        for task in reset.tasks.values():
            self._reset_task(task)
        self._active, self._ready, self._waiters = 0, [], {}
        self.counts = {}
        for task in self.tasks.values():
            self._count(task.status, 1)
        self.degraded = any(task.degraded for task in self.tasks.values())
        for name in again:
            self._reset_stage(self.stages[name])
        self.open_stages = sum(1 for stage in self.stages.values() if not stage.terminal)
        for name in again:
            self._go_on(self.stages[name])
        for name in reset.stages:
            stage = self.stages[name]
            before = [self.stages[other] for other in stage.plan.depends_on]
            stage.unmet = sum(1 for other in before if not other.terminal)
            stage.doomed = any(other.status in _BAD for other in before)
            if stage.unmet == 0:
                self._consider(stage)
        if self.open_stages == 0:
            self._emit(FinishRun())

    def _forget(self, stage: StageNode) -> None:
        for block in stage.blocks.values():
            for task in block.tasks:
                self._begin_anew(task)
                self._earlier[task.path] = task
                if task.effects:
                    self._owing[task.path] = task
                del self.tasks[task.path]

    def _reset_task(self, task: TaskNode) -> None:
        child = task.attempt if task.plan.workflow is not None and not task.done else 0
        self._begin_anew(task)
        task.child = child
        task.status = "pending"

    def _begin_anew(self, task: TaskNode) -> None:
        """Forget what became of a task, but for what has to be undone all the same."""
        task.effects = effects_of(task) if how_undone(task, self.plan.children) is not None else []
        task.redone += task.done
        task.reset()

    def _reset_stage(self, stage: StageNode) -> None:
        stage.status = "running"
        stage.closing, stage.failure, stage.given, stage.read = "", None, None, {}
        stage.active, stage.ready = 0, []
        stage.bad = False
        for block in stage.blocks.values():
            bad = [t for t in block.tasks if t.status in _BAD and not t.plan.optional]
            block.open = sum(1 for t in block.tasks if not t.terminal)
            block.done = block.open == 0
            block.failed = bool(bad)
            stage.bad = stage.bad or block.failed
        stage.open_blocks = sum(1 for block in stage.blocks.values() if not block.done)
        stage.advancing = set()

    def _go_on(self, stage: StageNode) -> None:
        """Let a stage that was reset go on where it can."""
        if stage.plan.timeout_ms is not None:
            self._emit(SetTimer(f"stage:{stage.plan.name}", self.now_ms + stage.plan.timeout_ms))
        waiting = [t for block in stage.blocks.values() for t in block.tasks if t.status == "pending"]
        for task in waiting:
            before = [task.block.tasks[edge.index] for edge in task.plan.edges]
            task.unmet = sum(1 for other in before if not other.terminal)
            task.doomed = any(other.status in _BAD and not other.plan.optional for other in before)
            self._await_elsewhere(task)
        for block in stage.blocks.values():
            if block.done and not block.advanced and not stage.plan.single:
                stage.advancing.add(block.key)
                self._emit(AdvanceStage(stage.plan.name, block.key))
        for task in waiting:
            if task.unmet == 0 and task.status == "pending":
                self._unblocked(task)
        self._pump(stage)
        self._maybe_close(stage)

    # --- stages

    def _consider(self, stage: StageNode) -> None:
        stage.status = "opening"
        if self.wires_implicitly:
            stage.base = merge(self._given_by(self.stages[name]) for name in stage.plan.depends_on)
        self._emit(OpenStage(stage.plan.name))

    def _stage_started(self, event: StageStarted) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"stage:{event.stage}", None)
        stage.status = "running"
        self.begun_stages += 1
        stage.ordinal = self.begun_stages
        stage.started_ms = event.at_ms
        stage.memo = event.memo
        if stage.plan.timeout_ms is not None:
            self._emit(SetTimer(f"stage:{event.stage}", event.at_ms + stage.plan.timeout_ms))
        self._open_blocks(stage, event.blocks)

    def _blocks_opened(self, event: BlocksOpened) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"block:{event.stage}[{event.after}]", None)
        stage.advancing.discard(event.after)
        stage.blocks[event.after].advanced = True
        if event.memo is not None:
            stage.memo = event.memo
        if event.failure is not None:
            stage.failure = stage.failure or event.failure
            self._close(stage, event.failure.message)
        self._open_blocks(stage, [] if stage.closing else event.blocks, stage.blocks[event.after])

    def _stage_skipped(self, event: StageSkipped) -> None:
        self._stage_over(self.stages[event.stage], "skipped")

    def _stage_finished(self, event: StageFinished) -> None:
        stage = self.stages[event.stage]
        stage.failure = event.failure
        if event.status == "failed" and self.failure is None:
            self.failure = event.failure
        self._stage_over(stage, event.status)
        if event.status == "failed" and self.plan.on_failure == "rollback":
            self._undo(f"stage '{event.stage}' failed, and the run is undone")

    def _stage_over(self, stage: StageNode, status: Any) -> None:
        name = stage.plan.name
        self.pending.pop(f"stage:{name}", None)
        self.pending.pop(f"timer:stage:{name}", None)
        stage.status = status
        bad = status in _BAD
        self.open_stages -= 1
        for waiting in self._waiters.pop(name, {}).values():
            for task in waiting:
                self._dependency_met(task, bad=bad and _expects_success(task))
        for dependent in (self.stages[d] for d in stage.plan.dependents):
            dependent.unmet -= 1
            dependent.doomed = dependent.doomed or bad
            if dependent.unmet == 0:
                self._consider(dependent)
        self._pump_run()
        if self.open_stages == 0:
            self.pending.pop("timer:run", None)
            self._emit(FinishRun())

    def _open_blocks(self, stage: StageNode, blocks: list[Block], after: BlockNode | None = None) -> None:
        for block in blocks:
            self._open_block(stage, block, after)
        self._pump(stage)
        self._maybe_close(stage)

    def _open_block(self, stage: StageNode, block: Block, after: BlockNode | None) -> None:
        template = stage.plan.templates[block.template]
        node = BlockNode(stage, template, block.key, block.bindings, after)
        stage.blocks[block.key] = node
        stage.open_blocks += 1
        stage.opened_blocks += 1
        name = stage.plan.name
        for index, plan in enumerate(template.tasks):
            task = TaskNode(plan, task_path(name, block.key, plan.name), node, index)
            task.unmet = len(plan.edges)
            self.tasks[task.path] = task
            earlier = self._earlier.pop(task.path, None) if self._earlier else None
            if earlier is not None:
                task.attempt, task.redone, task.effects = earlier.attempt, earlier.redone, earlier.effects
                self._owing.pop(task.path, None)
            node.tasks.append(task)
            if plan.depends_on:
                self._await_elsewhere(task)
        self._count("pending", len(node.tasks))
        node.open = len(node.tasks)
        if not node.tasks:
            self._block_over(node)
        for task in node.tasks:
            if task.unmet == 0 and task.status == "pending":
                self._unblocked(task)

    def _await_elsewhere(self, task: TaskNode) -> None:
        for dependency in task.plan.depends_on:
            stage = self.stages[dependency.stage]
            target = None
            if dependency.task is not None and stage.plan.single:
                found = self.tasks.get(task_path(dependency.stage, "", dependency.task))
                target = found if found is not None and found.terminal else None
            if stage.terminal or target is not None:
                status = target.status if target else stage.status
                bad = status in _BAD and not (target and target.plan.optional)
                task.doomed = task.doomed or (bad and _expects_success(task))
            else:
                task.unmet += 1
                self._waiters.setdefault(dependency.stage, {}).setdefault(dependency.task, []).append(task)

    def _block_over(self, block: BlockNode) -> None:
        block.done = True
        stage = block.stage
        if stage.plan.repeats:
            for task in block.tasks:
                task.fields = None  # nobody outside an iteration is wired to it
        stage.open_blocks -= 1
        if not stage.closing and not stage.plan.single and not block.advanced:
            stage.advancing.add(block.key)
            self._emit(AdvanceStage(stage.plan.name, block.key))

    def _maybe_close(self, stage: StageNode) -> None:
        if stage.status == "running" and stage.open_blocks == 0 and not stage.advancing:
            self._emit(CloseStage(stage.plan.name))

    def _close(self, stage: StageNode, reason: str) -> None:
        """End a stage early: nothing more opens, waiting tasks are cancelled, running ones are told to end."""
        if stage.closing:
            return
        stage.closing = reason
        for block in stage.blocks.values():
            if not block.done:
                for task in block.tasks:
                    self._cancel(task, reason)
        for block_key in stage.advancing:
            del self.pending[f"block:{stage.plan.name}[{block_key}]"]
        stage.advancing.clear()
        self._maybe_close(stage)

    # --- tasks

    def _unblocked(self, task: TaskNode) -> None:
        if task.doomed:
            self._over(task, "blocked")
        elif task.stage.closing:
            self._over(task, "cancelled")
        else:
            self._queue(task)

    def _queue(self, task: TaskNode) -> None:
        self._set(task, "ready")
        self._order += 1
        heapq.heappush(task.stage.ready, (-task.plan.priority, self._order, task))

    def _pump(self, stage: StageNode) -> None:
        """Give free slots of `max_parallel` to the tasks that are first in line."""
        limit = stage.plan.max_parallel
        while stage.ready and (limit is None or stage.active < limit):
            entry = heapq.heappop(stage.ready)
            if entry[2].status == "ready":
                stage.active += 1
                entry[2].slot = 1
                heapq.heappush(self._ready, entry)
        self._pump_run()

    def _pump_run(self) -> None:
        if self.paused:
            return
        limit = self.plan.max_parallel
        while self._ready and (limit is None or self._active < limit):
            task = heapq.heappop(self._ready)[2]
            if task.status == "ready":
                self._active += 1
                task.slot = 2
                self._set(task, "starting")
                self._emit(StartTask(task.path))

    def _free_slot(self, task: TaskNode) -> None:
        if task.slot:
            task.stage.active -= 1
            self._active -= task.slot == 2
            task.slot = 0

    def _task_scheduled(self, event: TaskScheduled) -> None:
        task = self.tasks[event.task]
        task.attempt = event.attempt
        task.hedge_ms = event.hedge_ms
        task.inputs = self.wired_inputs(task) if event.wired else event.inputs
        self.agents.add(task.agent)
        if not task.first_ms:
            task.first_ms = event.at_ms
            if task.plan.timeouts.total_ms is not None:
                self._emit(SetTimer(f"total:{task.path}", event.at_ms + task.plan.timeouts.total_ms))
        if event.cache_key:
            task.kept = (event.cache_key, event.cache_ttl_ms or 0)
            oldest = event.at_ms - event.cache_ttl_ms if event.cache_ttl_ms else 0
            self._look_up(task, event.cache_key, oldest)
        else:
            self._begin_attempt(task)

    def _look_up(self, task: TaskNode, key: str, not_before_ms: int = 0) -> None:
        self._set(task, "recalling")
        self._emit(LookUp(task.path, task.attempt, key, not_before_ms))

    def _begin_attempt(self, task: TaskNode) -> None:
        self._set(task, "running")
        task.started_ms = self.now_ms
        task.live = (task.attempt,)
        task.hedged = 0
        if task.tries == 0:
            task.tries_ms = self.now_ms
        task.tries += 1
        if task.hedge_ms is not None:
            self._emit(SetTimer(f"hedge:{task.path}", self.now_ms + task.hedge_ms))
        self._emit(Execute(task.path, task.attempt))

    def _hedge(self, task: TaskNode) -> None:
        """Begin a second attempt beside the one that goes on."""
        if task.status == "running" and len(task.live) == 1:
            task.attempt += 1
            task.hedged = task.attempt
            task.live = (*task.live, task.attempt)
            self._emit(Execute(task.path, task.attempt, hedge=True))

    def _recalled(self, event: Recalled) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        for_recovery = task.recalled
        if event.found:
            task.outputs = event.outputs
            task.source = event.run
            self._mark_degraded(task, for_recovery)
            self._over(task, "succeeded")
        elif for_recovery:
            self._ask_chain(task)
        else:
            self._begin_attempt(task)

    def _mark_degraded(self, task: TaskNode, degraded: bool) -> None:
        task.degraded = degraded
        self.degraded = self.degraded or degraded

    def _task_skipped(self, event: TaskSkipped) -> None:
        self._over(self.tasks[event.task], "skipped")

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        task = self.tasks[event.task]
        task.outputs = event.outputs
        task.done = True
        others = [attempt for attempt in task.live if attempt != event.attempt]
        if task.decided is not None:
            self._over(task, self._decided(task))
        else:
            self._over(task, "succeeded")
        for attempt in others:  # wanted, but not waited for: its result is late now
            self._out.append(CancelAttempt(task.path, attempt, "another attempt was quicker", attempt == task.hedged))

    def _attempt_failed(self, event: AttemptFailed) -> None:
        task = self.tasks[event.task]
        task.live = tuple(attempt for attempt in task.live if attempt != event.attempt)
        self.pending.pop(f"hedge:{task.path}" if event.attempt == task.hedged else task.path, None)
        if task.live:
            return  # the other one may still succeed
        task.jitter = event.jitter
        self.pending.pop(f"timer:hedge:{task.path}", None)
        if task.decided is not None:
            self._over(task, self._decided(task))
            return
        if task.status == "cancelling":
            if task.stage.closing or not task.expired or self._stops_undoing(task):
                task.failure = task.failure or event.failure
                self._over(task, "failed" if task.expired else "cancelled")
                return
        else:
            task.failure = event.failure
        task.child = 0
        task.entry = 0
        task.recalled = False
        task.seen = False
        self._ask_chain(task)

    def _decided(self, task: TaskNode) -> TaskStatus:
        assert task.decided is not None
        status, task.outputs = task.decided
        return status

    def end_as(self, task: TaskNode, status: TaskStatus, outputs: dict[str, Any] | None, reason: str) -> None:
        """A person says how a task ends; attempts that go on are ended first, and what they give does not count."""
        if task.status in ("running", "cancelling"):
            task.decided = (status, outputs)
            if task.status == "running":
                self._end_attempts(task, reason)
        else:
            task.outputs = outputs
            self._release(task)
            self._over(task, status)

    def cancel_task(self, task: TaskNode, reason: str) -> None:
        """End a task as cancelled; what depends on it is blocked."""
        self._release(task)
        self._cancel(task, reason)

    def cancel_stage(self, stage: StageNode, reason: str) -> None:
        """End a stage early; one that is held does not open."""
        if stage.status == "held":
            stage.failure = Failure("CANCELLED", reason)
            self._let_open(stage)
        else:
            self._close(stage, reason)

    def retry_now(self, task: TaskNode) -> None:
        """Try a task again at once that is held after a failure, or that waits for its retry."""
        if task.hold is not None:
            self.answer(task.path, "retry")
        else:
            self.pending.pop(f"timer:retry:{task.path}", None)
            self._queue(task)
            self._pump(task.stage)

    def unpause(self) -> None:
        """Let tasks begin again."""
        self.paused = ""
        self._pump_run()

    def set_mode(self, mode: str, *, debugs: bool) -> None:
        """Go on in another mode; what the debugger wanted is forgotten, unless it goes on or begins."""
        self.mode = mode
        self.debugging.stepping = "task" if debugs else ""
        self.debugging.until = None

    def _ask_chain(self, task: TaskNode) -> None:
        self._set(task, "recovering")
        self._emit(ChooseRecovery(task.path))

    def _stops_undoing(self, task: TaskNode) -> bool:
        return task.undoes is not None and self.forced

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        entry = int(event.strategy.partition(":")[0])
        past = task.past(entry)
        past.chosen += 1
        match event.decision:
            case Retry(after_ms=after_ms):
                past.delay_ms = after_ms
                self._set(task, "retrying")
                self._free_slot(task)
                self._emit(SetTimer(f"retry:{task.path}", event.at_ms + after_ms))
                self._pump(task.stage)
            case Substitute(agent=agent, action=action, inputs=inputs):
                past.switches += 1
                task.tries = 0
                task.substitute = inputs
                task.agent = agent or task.plan.agent
                task.action = action or task.plan.action
                self._set(task, "starting")
                self._emit(StartTask(task.path))
            case Complete(outputs=outputs, degraded=degraded):
                task.outputs = outputs
                self._mark_degraded(task, degraded)
                self._over(task, "succeeded")
            case Recall():
                task.entry = entry
                task.recalled = True
                self._look_up(task, last_outputs_key(self.plan.name, task))
            case Hold() as hold:
                self._hold(task, hold)
            case Skip():
                self._over(task, "skipped")
            case Fail(code=code, message=message):
                self._fail(task, code, message)
            case Rollback():
                self._fail_and_undo(task)
            case decision:
                raise InternalError(f"decision {decision!r} of strategy {event.strategy} cannot be applied")

    def _fail(self, task: TaskNode, code: str = "", message: str = "") -> None:
        before = task.failure
        if before is not None and (code or message):
            task.failure = Failure(code or before.code, message or before.message, cause=before)
        self._over(task, "failed")

    def _fail_and_undo(self, task: TaskNode) -> None:
        self.failure = self.failure or task.failure
        self._over(task, "failed")
        self._undo(f"task '{task.path}' failed, and the run is undone")

    # --- holds

    def _hold(self, task: TaskNode, hold: Hold) -> None:
        """A task waits for a person. The time that all its attempts have does not go on meanwhile."""
        self._set(task, "held")
        task.hold = hold
        self.held[task.path] = task
        self.pending.pop(f"timer:total:{task.path}", None)
        self._free_slot(task)
        if hold.timeout_ms is not None:
            self._emit(SetTimer(f"hold:{task.path}", self.now_ms + hold.timeout_ms))
        self._pump(task.stage)

    def _release(self, task: TaskNode) -> None:
        task.hold = None
        self.held.pop(task.path, None)
        self.pending.pop(f"timer:hold:{task.path}", None)

    def _task_held(self, event: TaskHeld) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        task.inputs = event.inputs
        self._hold(task, event.hold)
        if event.hold.kind in ("breakpoint", "step", "failure"):
            self.debugging.stopped(event.hold.show.get("breakpoint", ""))

    def _stage_held(self, event: StageHeld) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"stage:{event.stage}", None)
        stage.status = "held"
        stage.hold = event.hold
        self.held_stages[event.stage] = stage
        if event.hold.timeout_ms is not None:
            self._emit(SetTimer(f"hold:{event.stage}", self.now_ms + event.hold.timeout_ms))

    def _hold_resolved(self, event: HoldResolved) -> None:
        self.answer(event.subject, event.answer, by=event.by, reason=event.reason)

    def answer(
        self, subject: str, choice: str, outputs: dict[str, Any] | None = None, *, by: str = "", reason: str = ""
    ) -> None:
        """A hold is answered; the caller knows that it is there and takes this answer."""
        task = self.tasks.get(TaskPath(subject))
        if task is not None and task.hold is not None:
            self._answer(task, choice, outputs, by, reason)
        else:
            self._answer_stage(self.stages[subject], choice, by, reason)

    def _answer(self, task: TaskNode, choice: str, outputs: dict[str, Any] | None, by: str, reason: str) -> None:
        hold = task.hold
        assert hold is not None
        if choice == "escalate":
            task.hold = escalated(hold)
            self.pending.pop(f"timer:hold:{task.path}", None)
            return
        if choice == "approve" and by:
            task.approvals = (*task.approvals, by)
            if len(task.approvals) < hold.quorum and not by.startswith(_NOBODY):
                return
        self._release(task)
        match choice:
            case "approve":
                task.approved = True
                self._queue(task)
                self._pump(task.stage)
            case "continue" if hold.kind == "failure":
                task.seen = True
                self._ask_chain(task)
            case "continue":
                task.passed = True
                self._queue(task)
                self._pump(task.stage)
            case "retry":
                task.first_ms = 0
                task.expired = False
                self._queue(task)
                self._pump(task.stage)
            case "skip":
                self._over(task, "skipped")
            case "override":
                task.outputs = outputs
                self._over(task, "succeeded")
            case "reject":
                task.failure = rejected(task.path, by, reason)
                self._over(task, "failed")
            case "rollback":
                self._fail_and_undo(task)
            case _:
                self._over(task, "failed")

    def _answer_stage(self, stage: StageNode, choice: str, by: str, reason: str) -> None:
        hold = stage.hold
        assert hold is not None
        if choice == "escalate":
            stage.hold = escalated(hold)
            self.pending.pop(f"timer:hold:{stage.plan.name}", None)
            return
        if choice == "approve" and by:
            stage.approvals = (*stage.approvals, by)
            if len(stage.approvals) < hold.quorum and not by.startswith(_NOBODY):
                return
        if choice == "reject":
            stage.failure = rejected(stage.plan.name, by, reason)
        stage.approved = choice in ("approve", "continue")
        self._let_open(stage)

    def _let_open(self, stage: StageNode) -> None:
        """Decide anew about a stage that was held."""
        stage.hold = None
        self.held_stages.pop(stage.plan.name, None)
        self.pending.pop(f"timer:hold:{stage.plan.name}", None)
        stage.status = "opening"
        self._emit(OpenStage(stage.plan.name))

    def _task_failed(self, event: TaskFailed) -> None:
        task = self.tasks[event.task]
        task.failure = event.failure
        self._over(task, "failed")

    def _late_result(self, event: LateResult) -> None:
        pass

    def _timer_fired(self, event: TimerFired) -> None:
        self.pending.pop(f"timer:{event.timer}", None)
        kind, _, name = event.timer.partition(":")
        if kind == "retry":
            task = self.tasks[TaskPath(name)]
            if task.status == "retrying":
                self._queue(task)
                self._pump(task.stage)
        elif kind == "hedge":
            self._hedge(self.tasks[TaskPath(name)])
        elif kind == "hold":
            node = self.tasks.get(TaskPath(name)) or self.stages[name]
            if node.hold is not None:
                self.answer(name, node.hold.on_timeout, by=f"{_NOBODY} in time")
        elif kind == "total":
            self._time_out(self.tasks[TaskPath(name)])
        elif kind == "stage":
            stage = self.stages[name]
            if stage.status == "running":
                stage.failure = _timed_out("STAGE_TIMEOUT", f"stage '{name}'", stage.plan.timeout_ms)
                self._close(stage, stage.failure.message)
        elif kind == "run":
            failure = _timed_out("RUN_TIMEOUT", f"run of '{self.plan.name}'", self.plan.timeout_ms)
            self.failure = self.failure or failure
            self._timed_out = True
            self._end_early(failure.message)

    def _time_out(self, task: TaskNode) -> None:
        """Its time is over: what goes on is ended, and the chain may still give it outputs or let it be skipped."""
        if task.terminal or task.status in ("cancelling", "held"):
            return
        task.expired = True
        task.failure = _timed_out("TASK_TIMEOUT", f"task '{task.path}'", task.plan.timeouts.total_ms)
        if task.status == "running":
            self._end_attempts(task, task.failure.message)
        else:
            self.pending.pop(f"timer:retry:{task.path}", None)
            task.entry = 0
            self._ask_chain(task)

    def _end_attempts(self, task: TaskNode, reason: str) -> None:
        self._set(task, "cancelling")
        self.pending.pop(f"timer:hedge:{task.path}", None)
        for attempt in task.live:
            self._emit(CancelAttempt(task.path, attempt, reason, attempt == task.hedged))

    def _cancel(self, task: TaskNode, reason: str) -> None:
        if task.status == "running":
            task.failure = None
            self._end_attempts(task, reason)
        elif not task.terminal and task.status != "cancelling":
            self._over(task, "cancelled")

    def _over(self, task: TaskNode, status: TaskStatus) -> None:
        """A task is terminal. What follows is done from a list, so that a long chain does not nest calls."""
        self._set(task, status)
        self._ended.append(task)
        if len(self._ended) == 1:
            while self._ended:
                self._settle(self._ended[0])
                self._ended.popleft()

    def _settle(self, task: TaskNode) -> None:
        """Free what a terminal task held, and let go on who waited for it."""
        stage, block = task.stage, task.block
        self.pending.pop(task.path, None)
        if task.plan.timeouts.total_ms is not None:
            self.pending.pop(f"timer:total:{task.path}", None)
        if task.hedge_ms is not None:
            self.pending.pop(f"timer:hedge:{task.path}", None)
            self.pending.pop(f"hedge:{task.path}", None)
        if task.chosen:
            self.pending.pop(f"timer:retry:{task.path}", None)
            self._release(task)
        self._free_slot(task)
        task.live = ()
        task.finished_ms = self.now_ms
        if task.undoes is not None:
            self._undo_settled(task)
            return
        if task.plan.compensate is None:
            task.inputs = None  # what undoes it may be given them
        if self.wires_implicitly:
            task.fields = extend(self.fields_before(task), task.path, task.outputs)
        bad = task.status in _BAD and not task.plan.optional
        if bad:
            block.failed = stage.bad = True
            if task.status == "failed" and stage.failure is None:
                stage.failure = task.failure
        block.open -= 1
        for index in block.template.dependents[task.index]:
            self._dependency_met(block.tasks[index], bad=bad)
        waiters = self._waiters.get(stage.plan.name)
        if waiters and not block.key:
            for waiting in waiters.pop(task.plan.name, ()):
                self._dependency_met(waiting, bad=bad and _expects_success(waiting))
        if bad and task.status == "failed" and stage.plan.fail_fast:
            self._close(stage, f"task '{task.path}' failed")
        if block.open == 0 and not block.done:
            self._block_over(block)
        self._pump(stage)
        self._maybe_close(stage)

    def _dependency_met(self, task: TaskNode, *, bad: bool) -> None:
        task.unmet -= 1
        task.doomed = task.doomed or bad
        if task.unmet == 0 and task.status == "pending":
            self._unblocked(task)
            if task.stage.ready:
                self._pump(task.stage)

    def wired_inputs(self, task: TaskNode) -> dict[str, Any]:
        """The inputs of a task that names none: the run's, what its block binds, what came before it.

        What undoes a task gets what that one got, overlaid with what it gave.
        """
        if task.undoes is not None:
            inputs, outputs = task.effects[-1]
            return {**inputs, **outputs}
        return {**self.inputs, **task.block.bindings, **visible(self.fields_before(task))}

    def fields_before(self, task: TaskNode) -> Fields:
        """What a task sees by implicit wiring."""
        edges = task.plan.edges
        if not edges:
            return task.stage.base
        if len(edges) == 1:
            return task.block.tasks[edges[0].index].fields or {}
        return merge(task.block.tasks[edge.index].fields or {} for edge in edges)

    def _given_by(self, stage: StageNode) -> Fields:
        """What a stage hands on by implicit wiring; tasks of loops are reached by their full names only."""
        if stage.given is None:
            blocks = () if stage.plan.repeats else stage.blocks.values()
            stage.given = merge(task.fields or {} for block in blocks for task in block.tasks) or stage.base
        return stage.given

    def _set(self, task: TaskNode, status: TaskStatus) -> None:
        counts = self.counts
        counts[task.status] -= 1
        counts[status] = counts.get(status, 0) + 1
        task.status = status
        task.changed_ms = self.now_ms

    def _count(self, status: str, added: int) -> None:
        self.counts[status] = self.counts.get(status, 0) + added

    def _emit(self, command: Command) -> None:
        self.pending[command.key] = command
        self._out.append(command)


_NOBODY = "nobody"
"""Begins the name of who answered a hold where no person did, such as a timer; counts as everybody who was asked."""


def _expects_success(task: TaskNode) -> bool:
    """Whether a failure in another stage blocks a task; one that cleans up after failures reads null instead."""
    return task.stage.plan.run_on == "success"


def _timed_out(code: str, what: str, limit_ms: int | None) -> Failure:
    return Failure(code, f"{what} took longer than its limit of {(limit_ms or 0) / 1000:g} s")


_APPLY: dict[type, Callable[[RunState, Any], None]] = {
    RunCreated: RunState._run_created,
    RunResumed: RunState._run_resumed,
    CancelRequested: RunState._cancel_requested,
    RunFinished: RunState._run_finished,
    StageStarted: RunState._stage_started,
    BlocksOpened: RunState._blocks_opened,
    StageSkipped: RunState._stage_skipped,
    StageFinished: RunState._stage_finished,
    TaskScheduled: RunState._task_scheduled,
    TaskSkipped: RunState._task_skipped,
    AttemptSucceeded: RunState._attempt_succeeded,
    AttemptFailed: RunState._attempt_failed,
    RecoveryChosen: RunState._recovery_chosen,
    TaskFailed: RunState._task_failed,
    TaskHeld: RunState._task_held,
    StageHeld: RunState._stage_held,
    HoldResolved: RunState._hold_resolved,
    Recalled: RunState._recalled,
    SignalApplied: RunState._signal_applied,
    SignalRefused: RunState._signal_refused,
    RollbackStarted: RunState._rollback_started,
    RunReopened: RunState._run_reopened,
    LateResult: RunState._late_result,
    TimerFired: RunState._timer_fired,
}
