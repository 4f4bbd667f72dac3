"""The mutable parts of a run's state: stages, blocks and tasks. Only `noa.engine.state` changes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from noa.engine.wiring import Fields
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import BlockTemplate, StagePlan, TaskPlan

__all__ = ["TERMINAL", "BlockNode", "StageNode", "StageStatus", "TaskNode", "TaskStatus"]

TaskStatus: TypeAlias = Literal[
    "pending",  # waits for other tasks
    "ready",  # waits for a slot of max_parallel
    "starting",  # its inputs are being resolved
    "running",
    "cancelling",
    "recovering",  # the recovery chain is being asked
    "retrying",  # waits for its retry timer
    "succeeded",
    "skipped",
    "failed",
    "blocked",  # a dependency failed
    "cancelled",
]
StageStatus: TypeAlias = Literal[
    "pending", "opening", "running", "succeeded", "failed", "skipped", "blocked", "cancelled"
]
TERMINAL = frozenset({"succeeded", "skipped", "failed", "blocked", "cancelled"})


class TaskNode:
    """A task of an open block. `slot`: 0 none, 1 counted in its stage, 2 counted in the run too.

    `substitute`: inputs that a recovery strategy put in the place of the plan's.
    """

    __slots__ = (
        "action",
        "agent",
        "attempt",
        "block",
        "chosen",
        "degraded",
        "doomed",
        "failure",
        "fields",
        "finished_ms",
        "first_ms",
        "index",
        "inputs",
        "jitter",
        "outputs",
        "path",
        "plan",
        "slot",
        "started_ms",
        "status",
        "substitute",
        "unmet",
    )

    def __init__(self, plan: TaskPlan, path: TaskPath, block: BlockNode, index: int) -> None:
        self.plan = plan
        self.path = path
        self.block = block
        self.index = index
        self.status: TaskStatus = "pending"
        self.attempt = 0
        self.unmet = 0
        self.doomed = False
        self.slot = 0
        self.agent = plan.agent
        self.action = plan.action
        self.inputs: dict[str, Any] | None = None
        self.substitute: dict[str, Any] | None = None
        self.outputs: dict[str, Any] | None = None
        self.failure: Failure | None = None
        self.fields: Fields | None = None
        self.chosen: dict[int, int] | None = None
        self.jitter = 0.0
        self.degraded = False
        self.first_ms = 0
        self.started_ms = 0
        self.finished_ms = 0

    @property
    def stage(self) -> StageNode:
        """The stage that the task is in."""
        return self.block.stage

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in TERMINAL


class BlockNode:
    """A task graph that a stage opened. `open` counts tasks that are not terminal."""

    __slots__ = ("bindings", "done", "failed", "key", "open", "stage", "tasks", "template")

    def __init__(self, stage: StageNode, template: BlockTemplate, key: str, bindings: Mapping[str, Any]) -> None:
        self.stage = stage
        self.template = template
        self.key = key
        self.bindings = bindings
        self.tasks: list[TaskNode] = []
        self.open = 0
        self.failed = False
        self.done = False

    def outputs(self) -> dict[str, Any]:
        """Outputs of the block's tasks by name."""
        return {task.plan.name: task.outputs for task in self.tasks}


class StageNode:
    """A stage of the run.

    `closing`: no more blocks open and the rest is being cancelled. `advancing`: keys of finished blocks about which
    the stage type has not answered yet. `active` counts tasks that hold a slot. `bad`: a task that
    is not optional failed. `base` is what implicit wiring gives to its first tasks, `given` what it hands on.
    `read` keeps what expressions see of its tasks, once it is over.
    """

    __slots__ = (
        "active",
        "advancing",
        "bad",
        "base",
        "blocks",
        "closing",
        "doomed",
        "failure",
        "given",
        "memo",
        "open_blocks",
        "opened_blocks",
        "plan",
        "read",
        "ready",
        "started_ms",
        "status",
        "unmet",
    )

    def __init__(self, plan: StagePlan) -> None:
        self.plan = plan
        self.status: StageStatus = "pending"
        self.unmet = len(plan.depends_on)
        self.doomed = False
        self.bad = False
        self.closing = ""
        self.blocks: dict[str, BlockNode] = {}
        self.open_blocks = 0
        self.opened_blocks = 0
        self.advancing: set[str] = set()
        self.active = 0
        self.ready: list[tuple[int, int, TaskNode]] = []
        self.memo: Any = None
        self.base: Fields = {}
        self.given: Fields | None = None
        self.read: dict[str, dict[str, Any]] = {}
        self.failure: Failure | None = None
        self.started_ms = 0

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in TERMINAL
