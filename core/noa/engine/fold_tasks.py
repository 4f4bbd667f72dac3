"""How tasks go on: they wait, get a slot, are attempted, end, and let go on who waited for them."""

from __future__ import annotations

import heapq

from noa.engine.commands import (
    CancelAttempt,
    ChooseRecovery,
    Execute,
    LookUp,
    SetTimer,
    StartTask,
)
from noa.engine.failures import timed_out
from noa.engine.fold_base import StateBase
from noa.engine.nodes import BAD, StageNode, TaskNode, TaskStatus
from noa.engine.wiring import extend
from noa.model.events import (
    AttemptFailed,
    AttemptSucceeded,
    LateResult,
    Recalled,
    TaskFailed,
    TaskScheduled,
    TaskSkipped,
)

__all__ = ["TaskFold"]


class TaskFold(StateBase):
    """Folds what happens to tasks."""

    def _unblocked(self, task: TaskNode) -> None:
        if task.doomed:
            self._over(task, "blocked")
        elif task.decided is not None:
            self._over(task, self._decided(task))
        elif task.stage.closing:
            self._over(task, "cancelled")
        else:
            self._queue(task)

    def _queue(self, task: TaskNode) -> None:
        self._set(task, "ready")
        self._order += 1
        rank = self._ranks.get((task.stage.plan.name, task.plan.name), 0) if self._ranks else 0
        heapq.heappush(task.stage.ready, (-task.plan.priority, -rank, self._order, task))

    def _pump(self, stage: StageNode) -> None:
        """Give free slots of `max_parallel` to the tasks that are first in line."""
        limit = stage.plan.max_parallel
        while stage.ready and (limit is None or stage.active < limit):
            entry = heapq.heappop(stage.ready)
            if entry[3].status == "ready":
                stage.active += 1
                entry[3].slot = 1
                heapq.heappush(self._ready, entry)
        self._pump_run()

    def _pump_run(self) -> None:
        if self.paused:
            return
        limit = self.plan.max_parallel
        while self._ready and (limit is None or self._active < limit):
            task = heapq.heappop(self._ready)[3]
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
        task.began = True
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
            task.effects.append((task.inputs or {}, event.outputs))
            task.done = False  # what it did is known; what it counts as having given is somebody's word
            task.began = False
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

    def _ask_chain(self, task: TaskNode) -> None:
        self._set(task, "recovering")
        self._emit(ChooseRecovery(task.path))

    def _stops_undoing(self, task: TaskNode) -> bool:
        return task.undoes is not None and self.forced

    def _task_failed(self, event: TaskFailed) -> None:
        task = self.tasks[event.task]
        task.failure = event.failure
        self._over(task, "failed")

    def _late_result(self, event: LateResult) -> None:
        pass

    def _time_out(self, task: TaskNode) -> None:
        """Its time is over: what goes on is ended, and the chain may still give it outputs or let it be skipped."""
        if task.terminal or task.status in ("cancelling", "held"):
            return
        task.expired = True
        task.failure = timed_out("TASK_TIMEOUT", f"task '{task.path}'", task.plan.timeouts.total_ms)
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
        if task.hold is not None:
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
        bad = task.status in BAD and not task.plan.optional
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
                self._dependency_met(waiting, bad=bad and waiting.expects_success)
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
