"""How long a run of a plan would take, by a small simulation of the scheduler; and the least that it could take. Pure.

The rules are those of `noa.engine.fold_tasks`: what is ready gets a slot of its stage and of the run by priority, then
rank, then the order in which it became ready. Attempts never fail here, and agents are as many as are asked for.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from noa.engine.ranking import upward_ranks
from noa.model.plan import BlockTemplate, Plan, StagePlan, TaskPlan
from noa.modes.learning import WorkflowRecord, expectations, expected_items

__all__ = ["Estimate", "Load", "estimate", "judged", "load_of", "makespan_ms"]

MOST_ITERATIONS = 2_000
"""Of a loop; one that has more is taken for so many, each of them longer."""

MOST_TASKS = 5_000
"""Of a plan that is simulated after each of its runs."""

_Wait: TypeAlias = tuple[str, str]
"""Stage and task, or stage and "" for the end of the stage."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a plan is expected to do.

    Attributes:
        item_ms: How long one success of a task takes, by `stage/task`; those that are missing take the median.
        per_run: How many of a task a run has, where that is not one.
        capacity: How many tasks may go on at once; None is no limit. The limits of the plan count too.
    """

    item_ms: Mapping[str, int]
    per_run: Mapping[str, float] = field(default_factory=dict)
    capacity: int | None = None


def load_of(record: WorkflowRecord, plan: Plan) -> Load:
    """What was learned, as a load: as many at once as were ever seen where the definition has no limit of its own."""
    peak = max((run.peak for run in record.past if run.version == record.version), default=0)
    per_run = {name: task.per_run for name, task in record.tasks.items()}
    return Load(expected_items(record), per_run, peak if plan.max_parallel is None and peak else None)


def judged(record: WorkflowRecord, plan: Plan) -> WorkflowRecord:
    """The record, which says whether learned order is slower for this plan; the given one is changed.

    Plans of more than `MOST_TASKS` tasks are not simulated: learned order counts there.
    """
    expected_ms = expectations(record, plan)
    tasks = sum(len(template.tasks) for stage in plan.stages.values() for template in stage.templates.values())
    record.slower = False
    if expected_ms and tasks <= MOST_TASKS:
        load = load_of(record, plan)
        record.slower = makespan_ms(plan, load, expected_ms) > makespan_ms(plan, load, {})
    return record


@dataclass(frozen=True, slots=True)
class Estimate:
    """Makespans in milliseconds.

    Attributes:
        arrival_ms: In the order in which tasks become ready.
        learned_ms: In learned order.
        critical_path_ms: Of the longest way through the graph, with slots for everybody.
        work_ms: All durations together.
        capacity: How many tasks go on at once; None is no limit.
        bound_ms: No order is shorter: the critical path, or the work by the slots, of the run or of a stage.
    """

    arrival_ms: int
    learned_ms: int
    critical_path_ms: int
    work_ms: int
    capacity: int | None
    bound_ms: int


def estimate(plan: Plan, load: Load, expected_ms: Mapping[str, int]) -> Estimate:
    """What an order by `expected_ms` is good for."""
    limits = [limit for limit in (plan.max_parallel, load.capacity) if limit is not None]
    capacity = min(limits) if limits else None
    stages = {stage.name: stage.max_parallel for stage in plan.stages.values()}
    arrival = _Simulation(plan, load, {}, capacity, stages)
    arrival_ms = arrival.run()
    critical_ms = _Simulation(plan, load, {}, None, {}).run()
    bounds = [float(critical_ms)]
    if capacity is not None:
        bounds.append(arrival.work_ms / capacity)
    bounds += [arrival.stage_ms.get(name, 0) / limit for name, limit in stages.items() if limit is not None]
    return Estimate(
        arrival_ms=arrival_ms,
        learned_ms=_Simulation(plan, load, upward_ranks(plan, expected_ms), capacity, stages).run(),
        critical_path_ms=critical_ms,
        work_ms=arrival.work_ms,
        capacity=capacity,
        bound_ms=round(max(bounds)),
    )


def makespan_ms(plan: Plan, load: Load, expected_ms: Mapping[str, int]) -> int:
    """How long a run takes in the order that `expected_ms` gives; of an empty one, in that of arrival."""
    limits = [limit for limit in (plan.max_parallel, load.capacity) if limit is not None]
    stages = {stage.name: stage.max_parallel for stage in plan.stages.values()}
    return _Simulation(plan, load, upward_ranks(plan, expected_ms), min(limits) if limits else None, stages).run()


class _Task:
    __slots__ = ("block", "duration_ms", "rank", "stage", "task", "unmet", "waiters")

    def __init__(self, stage: _Stage, block: int, task: TaskPlan, duration_ms: int, rank: int) -> None:
        self.stage, self.block, self.task = stage, block, task
        self.duration_ms, self.rank = duration_ms, rank
        self.unmet = 0
        self.waiters: list[_Task] = []


class _Stage:
    """A stage while it is simulated. `left`: tasks of each open block; `unopened`: blocks that are still to come."""

    __slots__ = ("active", "left", "length", "opened", "plan", "ready", "templates", "unmet", "unopened")

    def __init__(self, plan: StagePlan, templates: list[BlockTemplate], blocks: int, length: float) -> None:
        self.plan, self.templates = plan, templates
        self.unmet = len(plan.depends_on)
        self.left: dict[int, int] = {}
        self.opened, self.unopened, self.length = 0, blocks, length
        self.active = 0
        self.ready: list[tuple[int, int, int, _Task]] = []


class _Simulation:
    def __init__(
        self,
        plan: Plan,
        load: Load,
        ranks: Mapping[tuple[str, str], int],
        capacity: int | None,
        stages: Mapping[str, int | None],
    ) -> None:
        self._load, self._ranks, self._capacity, self._limits = load, ranks, capacity, stages
        known = sorted(load.item_ms.values())
        self._usual = known[len(known) // 2] if known else 0
        self._stages = {stage.name: self._made(stage) for stage in plan.stages.values()}
        self._waiting: dict[_Wait, list[_Task]] = {}
        self._over: set[_Wait] = set()
        self._ready: list[tuple[int, int, int, _Task]] = []
        self._going: list[tuple[int, int, _Task]] = []
        self._active = self._order = self._now_ms = 0
        self.work_ms = 0
        self.stage_ms: dict[str, int] = {}

    def run(self) -> int:
        """The makespan in milliseconds."""
        for stage in [stage for stage in self._stages.values() if stage.unmet == 0]:
            self._begin(stage)
        while self._going:
            self._now_ms, _, task = heapq.heappop(self._going)
            self._active -= 1
            task.stage.active -= 1
            self._done(task)
        return self._now_ms

    def _made(self, plan: StagePlan) -> _Stage:
        """A stage with the templates that past runs opened: of the branches of a conditional, the usual one."""
        templates = list(plan.templates.values())
        if len(templates) > 1:
            seen = [t for t in templates if any(f"{plan.name}/{task.name}" in self._load.item_ms for task in t.tasks)]
            templates = (seen or templates)[:1]
        count = 1.0
        if plan.repeats:
            names = [f"{plan.name}/{task.name}" for template in templates for task in template.tasks]
            count = max([1.0, *(self._load.per_run.get(name, 1.0) for name in names)])
        blocks = min(round(count), MOST_ITERATIONS)
        return _Stage(plan, templates, blocks, count / blocks)

    def _begin(self, stage: _Stage) -> None:
        lanes = (stage.plan.options.get("max_parallel") or 1) if stage.plan.repeats else 1
        for _ in range(min(lanes, stage.unopened)):
            self._open(stage)

    def _open(self, stage: _Stage) -> None:
        stage.unopened -= 1
        block, stage.opened = stage.opened, stage.opened + 1
        name = stage.plan.name
        made: list[_Task] = []
        for template in stage.templates:
            tasks = [
                _Task(stage, block, task, self._duration_ms(stage, task), self._ranks.get((name, task.name), 0))
                for task in template.tasks
            ]
            for index, dependents in enumerate(template.dependents):
                tasks[index].waiters = [tasks[after] for after in dependents]
                for after in dependents:
                    tasks[after].unmet += 1
            made += tasks
        stage.left[block] = len(made)
        for task in made:
            for dependency in task.task.depends_on:
                other = self._stages[dependency.stage].plan
                wait = (dependency.stage, dependency.task or "") if other.single else (dependency.stage, "")
                if wait not in self._over:
                    task.unmet += 1
                    self._waiting.setdefault(wait, []).append(task)
        if not made:
            self._block_over(stage, block)
        self._queue([task for task in made if task.unmet == 0])

    def _duration_ms(self, stage: _Stage, task: TaskPlan) -> int:
        item_ms = self._load.item_ms.get(f"{stage.plan.name}/{task.name}", self._usual)
        return max(0, round(item_ms * stage.length))

    def _queue(self, tasks: list[_Task]) -> None:
        """Let tasks of a stage stand in line, all of them before any gets a slot."""
        for task in tasks:
            self._order += 1
            heapq.heappush(task.stage.ready, (-task.task.priority, -task.rank, self._order, task))
        if tasks:
            self._pump(tasks[0].stage)

    def _pump(self, stage: _Stage) -> None:
        limit = self._limits.get(stage.plan.name)
        while stage.ready and (limit is None or stage.active < limit):
            stage.active += 1
            heapq.heappush(self._ready, heapq.heappop(stage.ready))
        while self._ready and (self._capacity is None or self._active < self._capacity):
            entry = heapq.heappop(self._ready)
            task = entry[3]
            self._active += 1
            self.work_ms += task.duration_ms
            name = task.stage.plan.name
            self.stage_ms[name] = self.stage_ms.get(name, 0) + task.duration_ms
            heapq.heappush(self._going, (self._now_ms + task.duration_ms, entry[2], task))

    def _done(self, task: _Task) -> None:
        stage = task.stage
        free = list(task.waiters)
        if stage.plan.single:
            free += self._pass((stage.plan.name, task.task.name))
        self._let_go(free)
        self._pump(stage)
        stage.left[task.block] -= 1
        if stage.left[task.block] == 0:
            self._block_over(stage, task.block)

    def _block_over(self, stage: _Stage, block: int) -> None:
        del stage.left[block]
        if stage.unopened:
            self._open(stage)
        elif not stage.left:
            self._stage_over(stage)

    def _stage_over(self, stage: _Stage) -> None:
        self._let_go(self._pass((stage.plan.name, "")))
        for name in stage.plan.dependents:
            after = self._stages[name]
            after.unmet -= 1
            if after.unmet == 0:
                self._begin(after)

    def _pass(self, wait: _Wait) -> list[_Task]:
        self._over.add(wait)
        return self._waiting.pop(wait, [])

    def _let_go(self, tasks: list[_Task]) -> None:
        for task in tasks:
            task.unmet -= 1
            if task.unmet == 0:
                self._queue([task])
