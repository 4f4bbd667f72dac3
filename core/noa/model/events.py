"""Recorded facts: everything that ever happened to a run, in order. The state of a run is the fold of its events.

Adding a field with a default, or an event, is compatible; anything else needs a migration and a recorded journal in
`tests/replay`. Times are UTC epoch milliseconds. What a plugin or an expression decided is in the event, so that replay
never asks again.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from noa.model.failure import Failure
from noa.model.ids import TaskPath

__all__ = [
    "ANSWERS",
    "AttemptFailed",
    "AttemptSucceeded",
    "Block",
    "BlocksOpened",
    "CancelRequested",
    "Complete",
    "Decision",
    "Event",
    "Fail",
    "Hold",
    "HoldKind",
    "HoldResolved",
    "LateResult",
    "Recall",
    "Recalled",
    "RecoveryChosen",
    "Retry",
    "Rollback",
    "RollbackStarted",
    "RunCreated",
    "RunFinished",
    "RunReopened",
    "RunResumed",
    "RunStatus",
    "SignalApplied",
    "SignalRefused",
    "Skip",
    "StageFinished",
    "StageHeld",
    "StageSkipped",
    "StageStarted",
    "Substitute",
    "TaskFailed",
    "TaskHeld",
    "TaskScheduled",
    "TaskSkipped",
    "TimerFired",
    "decode_event",
    "encode_event",
]

RunStatus: TypeAlias = Literal[
    "pending", "running", "waiting", "succeeded", "failed", "cancelled", "rolled_back", "rollback_failed"
]


HoldKind: TypeAlias = Literal["ask", "approval", "policy", "breakpoint", "step", "failure"]


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    at_ms: int


class _Decision(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="do"):
    pass


# What a recovery strategy can choose. Also the return values of `noa.plugin.RecoveryStrategy.recover`.


class Retry(_Decision, frozen=True, tag="retry"):
    """Try the task again after this long."""

    after_ms: int = 0


class Substitute(_Decision, frozen=True, tag="substitute"):
    """Ask another agent or action, or with other inputs; None is what the definition says."""

    agent: str | None = None
    action: str | None = None
    inputs: dict[str, Any] | None = None


class Complete(_Decision, frozen=True, tag="complete"):
    """Count the task as done with these outputs."""

    outputs: dict[str, Any] = {}
    degraded: bool = True


class Recall(_Decision, frozen=True, tag="recall"):
    """Take the outputs with which the task last succeeded, in whichever run; the run is then degraded.

    Where there are none, the chain goes on after the entry that chose this.
    """


class Skip(_Decision, frozen=True, tag="skip"):
    """Count the task as skipped."""


class Fail(_Decision, frozen=True, tag="fail"):
    """Let the task fail; the rest of the chain is not asked. Text that is given replaces what its failure says."""

    code: str = ""
    message: str = ""


class Rollback(_Decision, frozen=True, tag="rollback"):
    """Let the task fail, end the run and undo what it did by its compensations."""


class Hold(_Decision, frozen=True, tag="hold"):
    """Wait for a person to answer.

    Attributes:
        question: For the person.
        choices: Answers that are taken; empty means all of `ANSWERS`.
        timeout_ms: How long; None waits for ever.
        on_timeout: The answer that counts when nobody gave one in time; "escalate" asks `escalate_to` from then on.
        kind: What holds: "ask" (a recovery strategy), "approval", "policy", or of the debugger "breakpoint", "step",
            "failure".
        approvers: Who may answer; empty is anybody.
        quorum: How many must approve.
        four_eyes: Whether who began the run, or changed the task, may not approve it.
        escalate_to: Who may answer once the time is over.
        show: What the person should see; JSON.
    """

    question: str = ""
    choices: list[str] = []
    timeout_ms: int | None = None
    on_timeout: str = "fail"
    kind: HoldKind = "ask"
    approvers: list[str] = []
    quorum: int = 1
    four_eyes: bool = False
    escalate_to: list[str] = []
    show: dict[str, Any] = {}


Decision: TypeAlias = Retry | Substitute | Complete | Recall | Skip | Fail | Rollback | Hold

ANSWERS = ("retry", "skip", "override", "fail", "rollback")
"""What a person can answer about a task that failed; `override` comes with outputs."""


class Block(msgspec.Struct, frozen=True, omit_defaults=True):
    """A block to open: a copy of a template under a key that is unique in the stage.

    Attributes:
        template: Name of the template.
        key: Empty for the only block of a stage; else such as "17" or "else".
        bindings: Names in scope of its expressions, such as item and index.
    """

    template: str
    key: str = ""
    bindings: dict[str, Any] = {}


class RunCreated(_Event, frozen=True, tag="run_created"):
    """The first event of every run.

    Attributes:
        definitions: SHA-256 of the pinned texts by the name under which they are found; the root is "".
        parent: Execution id of the task whose sub-workflow this is, else empty.
        debugs: Whether its mode stops at breakpoints, and so before the first task.
        expected_ms: How long tasks are expected to take by `stage/task`, learned from earlier runs; the order of what
            could start follows from it.
        key: Idempotency key under which it was started, else empty.
        forked_from: Run whose past it shares, else empty.
        forked_at: Sequence number of the last event that it shares.
    """

    run_id: str
    workflow: str
    version: str
    definitions: dict[str, str]
    inputs: dict[str, Any] = {}
    mode: str = "auto"
    debugs: bool = False
    expected_ms: dict[str, int] = {}
    actor: str = ""
    parent: str = ""
    output_uri: str = ""
    key: str = ""
    forked_from: str = ""
    forked_at: int = 0


class RunResumed(_Event, frozen=True, tag="run_resumed"):
    """An engine took the run over; `fence` is its fencing number."""

    owner: str
    fence: int


class StageStarted(_Event, frozen=True, tag="stage_started"):
    """A stage began. `memo` is what its type wants to remember; `blocks` what it opened first."""

    stage: str
    blocks: list[Block] = []
    memo: Any = None


class StageSkipped(_Event, frozen=True, tag="stage_skipped"):
    """A stage was not run: its condition was false, or `run_on` did not apply."""

    stage: str
    reason: str = ""


class BlocksOpened(_Event, frozen=True, tag="blocks_opened"):
    """A stage type opened more blocks after `after` finished. An empty list records that it opened none.

    `failure`: the stage type could not say; the stage ends.
    """

    stage: str
    after: str
    blocks: list[Block] = []
    memo: Any = None
    failure: Failure | None = None


class StageFinished(_Event, frozen=True, tag="stage_finished"):
    """A stage is over. `blocked`: a dependency failed, so it never began."""

    stage: str
    status: Literal["succeeded", "failed", "cancelled", "blocked"]
    failure: Failure | None = None


class TaskScheduled(_Event, frozen=True, tag="task_scheduled"):
    """An attempt may begin: its inputs are resolved. Agent and action only where they differ from the plan.

    Attributes:
        wired: The inputs are what implicit wiring gives, which follows from earlier events; `inputs` is then empty.
        cache_key: Under which outputs of an equal task are looked for first; empty looks for none.
        cache_ttl_ms: How old those may be; None is any age.
        hedge_ms: After how long a second attempt begins beside this one; None is never.
    """

    task: TaskPath
    attempt: int
    inputs: dict[str, Any] = {}
    wired: bool = False
    agent: str = ""
    action: str = ""
    cache_key: str = ""
    cache_ttl_ms: int | None = None
    hedge_ms: int | None = None


class TaskSkipped(_Event, frozen=True, tag="task_skipped"):
    """A task's condition was false, or a recovery strategy skipped it."""

    task: TaskPath
    reason: str = ""


class AttemptSucceeded(_Event, frozen=True, tag="attempt_succeeded"):
    """An agent finished the work; the task is done.

    `keep`: under which keys the store keeps the outputs for `Recall`, and for how long (milliseconds; 0 for ever).
    """

    task: TaskPath
    attempt: int
    outputs: dict[str, Any] = {}
    duration_ms: int = 0
    metrics: dict[str, float] = {}
    keep: dict[str, int] = {}


class AttemptFailed(_Event, frozen=True, tag="attempt_failed"):
    """An attempt ended without success. `jitter` (0 to 1, drawn by the shell) is for the recovery chain."""

    task: TaskPath
    attempt: int
    failure: Failure
    jitter: float = 0.0
    duration_ms: int = 0


class RecoveryChosen(_Event, frozen=True, tag="recovery_chosen"):
    """The recovery chain answered a failed attempt."""

    task: TaskPath
    attempt: int
    strategy: str
    decision: Decision


class TaskFailed(_Event, frozen=True, tag="task_failed"):
    """A task failed for good."""

    task: TaskPath
    failure: Failure


class TimerFired(_Event, frozen=True, tag="timer_fired"):
    """A timer that the core had set ran out."""

    timer: str


class CancelRequested(_Event, frozen=True, tag="cancel_requested"):
    """Someone asked to end the run."""

    actor: str = ""
    reason: str = ""
    signal: str = ""


class TaskHeld(_Event, frozen=True, tag="task_held"):
    """A task is not begun, or not recovered, before somebody says so. `inputs` are those that it would be given."""

    task: TaskPath
    hold: Hold
    inputs: dict[str, Any] = {}


class StageHeld(_Event, frozen=True, tag="stage_held"):
    """A stage is not opened before somebody says so."""

    stage: str
    hold: Hold


class HoldResolved(_Event, frozen=True, tag="hold_resolved"):
    """A hold was answered without a person.

    Attributes:
        subject: Path of the task, or name of the stage.
        answer: As a person could have given it.
        by: What answered, such as "mode auto".
    """

    subject: str
    answer: str
    by: str
    reason: str = ""


class Recalled(_Event, frozen=True, tag="recalled"):
    """The store was asked for outputs that are kept.

    Attributes:
        found: Whether there are any; else the rest is empty.
        run: Run that gave them.
        made_at_ms: When.
    """

    task: TaskPath
    attempt: int
    found: bool = False
    outputs: dict[str, Any] = {}
    run: str = ""
    made_at_ms: int = 0


class SignalApplied(_Event, frozen=True, tag="signal_applied"):
    """Somebody outside the run decided something about it.

    Attributes:
        signal: Id of the signal.
        kind: Such as "answer".
        task: Which it is about; empty for the run.
        body: Of the kind's own, such as {"choice": "override", "outputs": {…}}.
    """

    signal: str
    kind: str
    actor: str = ""
    reason: str = ""
    task: TaskPath = TaskPath("")
    body: dict[str, Any] = {}


class SignalRefused(_Event, frozen=True, tag="signal_refused"):
    """A signal made no sense when it came; `why` says so. Nothing was changed."""

    signal: str
    kind: str
    why: str
    actor: str = ""
    task: str = ""


class RollbackStarted(_Event, frozen=True, tag="rollback_started"):
    """What the run did is being undone. `failure` is why; None after a cancellation."""

    failure: Failure | None = None


class RunReopened(_Event, frozen=True, tag="run_reopened"):
    """A run that was over goes on: what failed is tried again, what succeeded is kept.

    Attributes:
        from_task: Done again with all that depends on it, though it succeeded; empty for none.
        rollback: Undo the run instead.
    """

    actor: str = ""
    reason: str = ""
    from_task: TaskPath = TaskPath("")
    rollback: bool = False


class LateResult(_Event, frozen=True, tag="late_result"):
    """A result came for an attempt that was not waiting for one; recorded and not applied."""

    task: TaskPath
    attempt: int
    outcome: str


class RunFinished(_Event, frozen=True, tag="run_finished"):
    """The last event of a run, unless it is reopened. `left`: tasks whose effects could not be undone."""

    status: RunStatus
    outputs: dict[str, Any] = {}
    failure: Failure | None = None
    degraded: bool = False
    left: list[TaskPath] = []


Event: TypeAlias = (
    RunCreated
    | RunResumed
    | StageStarted
    | StageSkipped
    | BlocksOpened
    | StageFinished
    | TaskScheduled
    | TaskSkipped
    | AttemptSucceeded
    | AttemptFailed
    | RecoveryChosen
    | TaskFailed
    | TimerFired
    | CancelRequested
    | TaskHeld
    | StageHeld
    | HoldResolved
    | Recalled
    | SignalApplied
    | SignalRefused
    | RollbackStarted
    | RunReopened
    | LateResult
    | RunFinished
)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """The event as one line of JSON."""
    return _encoder.encode(event)


def decode_event(data: bytes | str) -> Event:
    """The inverse of `encode_event`; fields that are not known are ignored.

    Raises:
        msgspec.ValidationError: It is not an event that this version knows.
    """
    event: Event = _decoder.decode(data)
    return event
