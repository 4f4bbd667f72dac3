"""The state of one run: the fold of its events. `apply` is the only place where anything is decided.

No clock, no I/O, no randomness: time and jitter arrive inside events. The cost of an event does not grow with the run:
counters and indexes, no scans (but for ending a stage early, which looks once at each task that it ends).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from noa.engine.commands import (
    AdvanceStage,
    CancelAttempt,
    ChooseRecovery,
    CloseStage,
    Command,
    Execute,
    FinishRun,
    OpenStage,
    SetTimer,
    StartTask,
)
from noa.engine.nodes import BlockNode, StageNode, TaskNode, TaskStatus
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
    LateResult,
    RecoveryChosen,
    Retry,
    RunCreated,
    RunFinished,
    RunResumed,
    RunStatus,
    Skip,
    StageFinished,
    StageSkipped,
    StageStarted,
    Substitute,
    TaskFailed,
    TaskScheduled,
    TaskSkipped,
    TimerFired,
)
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath, task_path
from noa.model.plan import Plan

__all__ = ["RunState"]

_BAD: frozenset[str] = frozenset({"failed", "blocked", "cancelled"})


class RunState:
    """One run. Fold events with `apply`; read the rest.

    Attributes:
        plan: What is run.
        pending: Commands that have no outcome yet, by key. Resume issues them again.
        tasks: Tasks of all blocks that were opened, by path.
        stages: By name, in the order of the file.
        cancelled: Why the run is being ended early, or empty.
        forced: Whether cleanup is ended too: it was cancelled a second time.
        signals: Ids of the signals that were applied.
        agents: Agents that were asked for anything.
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
        self.created_ms = 0
        self.finished_ms = 0
        self.now_ms = 0
        self.stages = {name: StageNode(stage) for name, stage in plan.stages.items()}
        self.tasks: dict[TaskPath, TaskNode] = {}
        self.pending: dict[str, Command] = {}
        self.open_stages = len(self.stages)
        self.counts: dict[str, int] = {}
        self.wires_implicitly = any(
            task.inputs is None and task.agent
            for stage in plan.stages.values()
            for template in stage.templates.values()
            for task in template.tasks
        )
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
        return node is not None and node.attempt == attempt and node.status in {"running", "cancelling"}

    def iter_named(self, stage: str, task: str) -> Iterator[TaskNode]:
        """The tasks of this name in a stage, one for each block that has one, in the order in which blocks opened."""
        for block in self.stages[stage].blocks:
            node = self.tasks.get(task_path(stage, block, task))
            if node is not None:
                yield node

    def iter_running(self) -> Iterator[TaskNode]:
        """Tasks of which an attempt is going on."""
        for command in list(self.pending.values()):
            if isinstance(command, Execute | CancelAttempt):
                yield self.tasks[command.task]

    # --- runs

    def _run_created(self, event: RunCreated) -> None:
        self.run_id = RunId(event.run_id)
        self.inputs = event.inputs
        self.output_uri = event.output_uri
        self.parent = event.parent
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
        self.cancel_requested = True
        self.signals.add(event.signal)
        self._end_early(event.reason or "cancelled")

    def _run_finished(self, event: RunFinished) -> None:
        self.status = event.status
        self.outputs = event.outputs
        self.failure = event.failure
        self.degraded = event.degraded
        self.finished_ms = event.at_ms
        self.pending.clear()

    def _end_early(self, reason: str) -> None:
        """End what goes on. Stages with `run_on: always` still clean up, unless this is the second time."""
        self.forced = bool(self.cancelled)
        self.cancelled = self.cancelled or reason
        for stage in self.stages.values():
            if stage.status == "running":
                self._close(stage, reason)

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
        stage.started_ms = event.at_ms
        stage.memo = event.memo
        if stage.plan.timeout_ms is not None:
            self._emit(SetTimer(f"stage:{event.stage}", event.at_ms + stage.plan.timeout_ms))
        self._open_blocks(stage, event.blocks)

    def _blocks_opened(self, event: BlocksOpened) -> None:
        stage = self.stages[event.stage]
        self.pending.pop(f"block:{event.stage}[{event.after}]", None)
        stage.advancing.discard(event.after)
        if event.memo is not None:
            stage.memo = event.memo
        if event.failure is not None:
            stage.failure = stage.failure or event.failure
            self._close(stage, event.failure.message)
        self._open_blocks(stage, [] if stage.closing else event.blocks)

    def _stage_skipped(self, event: StageSkipped) -> None:
        self._stage_over(self.stages[event.stage], "skipped")

    def _stage_finished(self, event: StageFinished) -> None:
        stage = self.stages[event.stage]
        stage.failure = event.failure
        if event.status == "failed" and self.failure is None:
            self.failure = event.failure
        self._stage_over(stage, event.status)

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

    def _open_blocks(self, stage: StageNode, blocks: list[Block]) -> None:
        for block in blocks:
            self._open_block(stage, block)
        self._pump(stage)
        self._maybe_close(stage)

    def _open_block(self, stage: StageNode, block: Block) -> None:
        template = stage.plan.templates[block.template]
        node = BlockNode(stage, template, block.key, block.bindings)
        stage.blocks[block.key] = node
        stage.open_blocks += 1
        stage.opened_blocks += 1
        name = stage.plan.name
        for index, plan in enumerate(template.tasks):
            task = TaskNode(plan, task_path(name, block.key, plan.name), node, index)
            task.unmet = len(plan.edges)
            self.tasks[task.path] = task
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
        if not stage.closing and not stage.plan.single:
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
        self._set(task, "running")
        task.attempt = event.attempt
        task.inputs = self.wired_inputs(task) if event.wired else event.inputs
        self.agents.add(task.agent)
        task.started_ms = event.at_ms
        if not task.first_ms:
            task.first_ms = event.at_ms
            if task.plan.timeouts.total_ms is not None:
                self._emit(SetTimer(f"total:{task.path}", event.at_ms + task.plan.timeouts.total_ms))
        self._emit(Execute(task.path, event.attempt))

    def _task_skipped(self, event: TaskSkipped) -> None:
        self._over(self.tasks[event.task], "skipped")

    def _attempt_succeeded(self, event: AttemptSucceeded) -> None:
        task = self.tasks[event.task]
        task.outputs = event.outputs
        self._over(task, "succeeded")

    def _attempt_failed(self, event: AttemptFailed) -> None:
        task = self.tasks[event.task]
        cancelling = task.status == "cancelling"
        if task.failure is None or not cancelling:
            task.failure = event.failure
        task.jitter = event.jitter
        if cancelling:
            timed_out = task.failure is not event.failure
            self._over(task, "failed" if timed_out else "cancelled")
        else:
            self._set(task, "recovering")
            self._emit(ChooseRecovery(task.path))

    def _recovery_chosen(self, event: RecoveryChosen) -> None:
        task = self.tasks[event.task]
        self.pending.pop(task.path, None)
        entry = int(event.strategy.partition(":")[0])
        task.chosen = task.chosen or {}
        task.chosen[entry] = task.chosen.get(entry, 0) + 1
        match event.decision:
            case Retry(after_ms=after_ms):
                self._set(task, "retrying")
                self._free_slot(task)
                self._emit(SetTimer(f"retry:{task.path}", event.at_ms + after_ms))
                self._pump(task.stage)
            case Substitute(agent=agent, action=action, inputs=inputs):
                task.substitute = inputs if inputs is not None else task.substitute
                task.agent = agent or task.agent
                task.action = action or task.action
                self._set(task, "starting")
                self._emit(StartTask(task.path))
            case Complete(outputs=outputs, degraded=degraded):
                task.outputs = outputs
                task.degraded = degraded
                self.degraded = self.degraded or degraded
                self._over(task, "succeeded")
            case Skip():
                self._over(task, "skipped")
            case decision:
                raise InternalError(f"decision {decision!r} of strategy {event.strategy} cannot be applied")

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
            self._end_early(failure.message)

    def _time_out(self, task: TaskNode) -> None:
        if task.terminal or task.status == "cancelling":
            return
        failure = _timed_out("TASK_TIMEOUT", f"task '{task.path}'", task.plan.timeouts.total_ms)
        task.failure = failure
        if task.status == "running":
            self._set(task, "cancelling")
            self._emit(CancelAttempt(task.path, task.attempt, failure.message))
        else:
            self._over(task, "failed")

    def _cancel(self, task: TaskNode, reason: str) -> None:
        if task.status == "running":
            self._set(task, "cancelling")
            task.failure = None
            self._emit(CancelAttempt(task.path, task.attempt, reason))
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
        if task.chosen:
            self.pending.pop(f"timer:retry:{task.path}", None)
        self._free_slot(task)
        task.inputs = None
        task.finished_ms = self.now_ms
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
        """The inputs of a task that names none: the run's, what its block binds, what came before it."""
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

    def _count(self, status: str, added: int) -> None:
        self.counts[status] = self.counts.get(status, 0) + added

    def _emit(self, command: Command) -> None:
        self.pending[command.key] = command
        self._out.append(command)


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
    LateResult: RunState._late_result,
    TimerFired: RunState._timer_fired,
}
