"""The mutable parts of a run's state: stages, blocks and tasks. Only `noa.engine.state` changes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from noa.engine.wiring import Fields
from noa.model.events import Hold
from noa.model.failure import Failure
from noa.model.ids import TaskPath
from noa.model.plan import BlockTemplate, StagePlan, TaskPlan

__all__ = [
    "BAD",
    "TERMINAL",
    "BlockNode",
    "Effects",
    "Past",
    "StageNode",
    "StageStatus",
    "TaskNode",
    "TaskStatus",
    "last_outputs_key",
]

TaskStatus: TypeAlias = Literal[
    "pending",  # waits for other tasks
    "ready",  # waits for a slot of max_parallel
    "starting",  # its inputs are being resolved
    "running",
    "cancelling",
    "recovering",  # the recovery chain is being asked
    "retrying",  # waits for its retry timer
    "recalling",  # the store is being asked for outputs that are kept
    "held",  # waits for a person
    "succeeded",
    "skipped",
    "failed",
    "blocked",  # a dependency failed
    "cancelled",
]
StageStatus: TypeAlias = Literal[
    "pending", "opening", "held", "running", "succeeded", "failed", "skipped", "blocked", "cancelled"
]
TERMINAL = frozenset({"succeeded", "skipped", "failed", "blocked", "cancelled"})
BAD: frozenset[str] = frozenset({"failed", "blocked", "cancelled"})


Effects: TypeAlias = tuple[dict[str, Any], dict[str, Any]]
"""Inputs and outputs of an attempt whose effects may have to be undone."""


class Past:
    """How often one entry of a recovery chain was chosen for a task."""

    __slots__ = ("chosen", "delay_ms", "switches")

    def __init__(self) -> None:
        self.chosen = 0
        self.switches = 0
        self.delay_ms = 0


class TaskNode:
    """A task of an open block, or what undoes one.

    Attributes:
        slot: 0 none, 1 counted in its stage, 2 counted in the run too.
        live: Attempts that go on; two of them where the second one is a hedge.
        hedged: Attempt that was begun as a hedge, 0 for none.
        began: Whether any attempt began.
        tries: Attempts since the task began or was last substituted, at `tries_ms`.
        substitute: Inputs that a recovery strategy put in the place of the plan's.
        chosen: What is remembered of the entries of its recovery chain, by index.
        entry: Index of the entry of the chain that is asked next.
        recalled: Whether the store was asked for outputs since the last failure.
        expired: Whether its total time is over.
        hold: What a person is asked.
        approved: Whether its approval was given.
        passed: Whether the debugger let it begin.
        seen: Whether the debugger let its last failure go to the recovery chain.
        approvals: Who approved so far.
        editor: Who changed what it is asked last, else empty.
        edits: Inputs that somebody put in the place of its own.
        decided: How a person wants it to end, and with which outputs, once its attempts have ended.
        done: Whether an attempt succeeded; else what it gives comes from elsewhere, and nothing has to be undone.
        kept: Key under which the store keeps its outputs, and for how long; None for not at all.
        source: Run whose outputs it took, else empty.
        redone: How often it was reset after it had succeeded.
        child: Attempt whose sub-workflow run is gone on with, 0 for none.
        effects: What earlier successes did that is not undone, as inputs and outputs; of what undoes a task, all that
            it has still to undo, the last one first in turn.
        undoes: The task that this one undoes.
        undo: What undoes this task, once it is being undone.
        changed_ms: When its status changed last.
    """

    __slots__ = (
        "action",
        "agent",
        "approvals",
        "approved",
        "attempt",
        "began",
        "block",
        "changed_ms",
        "child",
        "chosen",
        "decided",
        "degraded",
        "done",
        "doomed",
        "editor",
        "edits",
        "effects",
        "entry",
        "expired",
        "failure",
        "fields",
        "finished_ms",
        "first_ms",
        "hedge_ms",
        "hedged",
        "hold",
        "index",
        "inputs",
        "jitter",
        "kept",
        "live",
        "outputs",
        "passed",
        "path",
        "plan",
        "recalled",
        "redone",
        "seen",
        "slot",
        "source",
        "started_ms",
        "status",
        "substitute",
        "tries",
        "tries_ms",
        "undo",
        "undoes",
        "unmet",
    )

    def __init__(self, plan: TaskPlan, path: TaskPath, block: BlockNode, index: int) -> None:
        self.plan = plan
        self.path = path
        self.block = block
        self.index = index
        self.status: TaskStatus = "pending"
        self.attempt = 0
        self.redone = 0
        self.child = 0
        self.effects: list[Effects] = []
        self.undoes: TaskNode | None = None
        self.undo: TaskNode | None = None
        self.outputs: dict[str, Any] | None = None
        self.fields: Fields | None = None
        self.reset()

    def reset(self) -> None:
        """As it was before its first attempt; the attempts go on counting."""
        plan = self.plan
        self.unmet = 0
        self.doomed = False
        self.slot = 0
        self.agent = plan.agent
        self.action = plan.action
        self.live: tuple[int, ...] = ()
        self.hedged = 0
        self.hedge_ms: int | None = None
        self.began = False
        self.tries = 0
        self.tries_ms = 0
        self.inputs: dict[str, Any] | None = None
        self.substitute: dict[str, Any] | None = None
        self.outputs = None
        self.failure: Failure | None = None
        self.fields = None
        self.chosen: dict[int, Past] | None = None
        self.entry = 0
        self.recalled = False
        self.expired = False
        self.hold: Hold | None = None
        self.approved = False
        self.passed = False
        self.seen = False
        self.approvals: tuple[str, ...] = ()
        self.editor = ""
        self.edits: dict[str, Any] | None = None
        self.decided: tuple[TaskStatus, dict[str, Any] | None] | None = None
        self.jitter = 0.0
        self.degraded = False
        self.done = False
        self.kept: tuple[str, int] | None = None
        self.source = ""
        self.first_ms = 0
        self.started_ms = 0
        self.finished_ms = 0
        self.changed_ms = 0

    def past(self, entry: int) -> Past:
        """What is remembered of an entry of its recovery chain."""
        if self.chosen is None:
            self.chosen = {}
        return self.chosen.setdefault(entry, Past())

    @property
    def stage(self) -> StageNode:
        """The stage that the task is in."""
        return self.block.stage

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in TERMINAL

    @property
    def expects_success(self) -> bool:
        """Whether a failure in another stage blocks it; one that cleans up after failures reads null instead."""
        return self.stage.plan.run_on == "success"


def last_outputs_key(workflow: str, task: TaskNode) -> str:
    """The key under which the outputs with which a task last succeeded are kept, in whichever run."""
    return f"last:{workflow}/{task.path}"


class BlockNode:
    """A task graph that a stage opened. `open` counts tasks that are not terminal.

    `after`: the block whose end opened it, or None. `advanced`: the stage type was asked what follows it.
    """

    __slots__ = ("advanced", "after", "bindings", "done", "failed", "key", "open", "stage", "tasks", "template")

    def __init__(
        self,
        stage: StageNode,
        template: BlockTemplate,
        key: str,
        bindings: Mapping[str, Any],
        after: BlockNode | None = None,
    ) -> None:
        self.after = after
        self.advanced = False
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
    `read` keeps what expressions see of its tasks, once it is over. `ordinal`: it was the n-th stage to begin, from 1.
    `hold`, `approved` and `approvals` are as in a task; `held_ms` is when its hold was placed.
    """

    __slots__ = (
        "active",
        "advancing",
        "approvals",
        "approved",
        "bad",
        "base",
        "blocks",
        "closing",
        "doomed",
        "failure",
        "given",
        "held_ms",
        "hold",
        "memo",
        "open_blocks",
        "opened_blocks",
        "ordinal",
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
        self.ordinal = 0
        self.hold: Hold | None = None
        self.held_ms = 0
        self.approved = False
        self.approvals: tuple[str, ...] = ()
        self.doomed = False
        self.bad = False
        self.closing = ""
        self.blocks: dict[str, BlockNode] = {}
        self.open_blocks = 0
        self.opened_blocks = 0
        self.advancing: set[str] = set()
        self.active = 0
        self.ready: list[tuple[int, int, int, TaskNode]] = []
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
