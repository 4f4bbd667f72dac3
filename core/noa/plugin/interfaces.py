"""What a plugin implements. Hooks return instances (or classes) of these; behaviour is here, not in the hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from noa.model.events import Block, Decision, Event, Hold
from noa.model.execution import Assignment, Observation, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.model.payload import Artifact
from noa.model.plan import StagePlan
from noa.plugin.pools import AgentPools

__all__ = [
    "ActionInfo",
    "AgentConnection",
    "AgentContext",
    "AgentDeclaration",
    "AgentHealth",
    "AgentKind",
    "AlertChannel",
    "ArtifactStore",
    "ArtifactWriter",
    "Attempted",
    "BlockView",
    "Gate",
    "Journal",
    "Lease",
    "Mode",
    "Observe",
    "Opening",
    "Recollection",
    "RecoveryStrategy",
    "RunRecord",
    "SignalRecord",
    "StageType",
    "StageView",
    "TemplateSpec",
]

Observe = Callable[[Observation], None]
"""Takes an observation; cheap, never raises, safe to call from the event loop's thread only."""


# --- agents ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentDeclaration:
    """How an agent is reached.

    Attributes:
        name: As tasks name it.
        kind: Name of an agent kind: "in-process", "sidecar", "remote", or a plugin's.
        factory: In-process: called without arguments, gives the agent object (a `noa.sdk.Agent`).
        command: Sidecar: program and arguments.
        addresses: Remote: `host:port` of each replica.
        cwd: Sidecar: working folder; None is the engine's.
        env: Sidecar: variables beside the allow-list (PATH, HOME, LANG, TZ, TMPDIR and NOA_AGENT_*).
        capacity: Executions at once per replica; None is what Health announces.
        min_replicas: Kept going once needed.
        max_replicas: Never more.
        start_timeout_s: From launch until Health must say SERVING.
        resources: Limits of the agent. A sidecar that takes more than `{"memory": bytes}`, its child processes
            included, is killed and started again.
        options: Of the kind's own.
        description: For `noa agents`.
        plugin: Name of the plugin that declared it; filled by the registry.
    """

    name: str
    kind: str = "in-process"
    factory: Callable[[], Any] | None = None
    command: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    capacity: int | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    start_timeout_s: float = 60.0
    resources: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    plugin: str = ""


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """Something an agent can be asked for; schemas are JSON Schemas (2020-12), empty means any object."""

    name: str
    description: str = ""
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    output_schema: Mapping[str, Any] = field(default_factory=dict)
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """Answer of Health: who an agent is and whether it can take work. `capacity` 0 means no limit."""

    status: Literal["starting", "serving", "draining", "not_serving"]
    name: str = ""
    language: str = ""
    version: str = ""
    message: str = ""
    protocol_versions: tuple[int, ...] = (1,)
    actions: tuple[ActionInfo, ...] = ()
    capacity: int = 0
    in_flight: int = 0


def _unheard(health: AgentHealth) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent kind may use to reach an agent.

    Attributes:
        runtime_dir: Private folder (mode 0700) of this engine for sockets.
        log_dir: Folder for the agents' captured output.
        artifacts: Store for large payloads.
        on_lost: Called once, from the event loop, when a connection breaks for good; the argument says why.
        pools: The engine's pools of agents, for an agent that steers others.
        on_health: May be called, from the event loop, with what the agent said of itself after its start: one that
            says "draining" gets no new work and is replaced.
        mask: Takes secrets out of text that is about to be kept, such as what an agent printed.
    """

    runtime_dir: Path
    log_dir: Path
    artifacts: ArtifactStore
    on_lost: Callable[[str], None]
    pools: AgentPools | None = None
    on_health: Callable[[AgentHealth], None] = _unheard
    mask: Callable[[str], str] = str


class AgentConnection(ABC):
    """One replica of an agent: the three calls of the contract, whatever carries them."""

    @abstractmethod
    async def start(self) -> AgentHealth:
        """Launch or connect, and wait until Health says serving.

        Raises:
            AgentStartError: It never served; nothing is left running.
        """

    @abstractmethod
    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """Do the work, or join it where the agent has this execution id already. Never raises for failing work.

        Raises:
            AgentLostError: It went away; the attempt may have had effects.
            AgentProtocolError: It broke the contract.
        """

    @abstractmethod
    async def health(self) -> AgentHealth:
        """Ask Health once. Raises AgentLostError where nothing answers in time."""

    @abstractmethod
    async def cancel(
        self, *, execution: ExecutionId | None = None, run: RunId | None = None, grace_s: float = 5.0, reason: str = ""
    ) -> int:
        """Cancel one execution, or release everything held for a run; the count of what was told to end."""

    @abstractmethod
    async def close(self, *, grace_s: float = 5.0) -> None:
        """Drain and end; afterwards nothing of it is left running. Idempotent."""

    @property
    def pid(self) -> int | None:
        """Its process, where it has one of its own on this machine."""
        return None


class AgentKind(ABC):
    """A way to reach agents."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration (such as a command that is not found), or None. No side effect."""

    @abstractmethod
    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet. `replica` counts from 0."""

    def describe(self, declaration: AgentDeclaration) -> AgentHealth | None:
        """Who the agent is, where that is known without starting it; used by `noa validate`."""
        return None


# --- stage types -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """A task graph of a stage as its type sees it before compilation.

    Attributes:
        name: Unique in the stage.
        tasks: The pydantic task models, as they stand in the options.
        chained: Whether each task waits for the one before it.
        scope: Names that the stage type binds, beside what is always in scope.
        path: Where the tasks stand in the stage, such as ("branches", 0, "tasks"), for positions of errors.
    """

    name: str
    tasks: Sequence[Any]
    chained: bool = False
    scope: tuple[str, ...] = ()
    path: tuple[str | int, ...] = ("tasks",)


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block that finished.

    Attributes:
        key: Under which it was opened.
        template: From which.
        bindings: With which.
        status: "succeeded", or "failed" where a task that is not optional failed.
        outputs: Of its tasks by name; null for skipped ones.
    """

    key: str
    template: str
    bindings: Mapping[str, Any]
    status: str
    outputs: Mapping[str, Any]


class StageView(Protocol):
    """What a stage type may read while it decides."""

    @property
    def plan(self) -> StagePlan:
        """The stage; `plan.options` has the type's own keys, expressions compiled."""

    @property
    def memo(self) -> Any:
        """What the last `Opening` asked to remember; JSON; None at first."""

    @property
    def open_blocks(self) -> int:
        """Blocks that are open now (in `block_finished`: without the finished one)."""

    @property
    def opened_blocks(self) -> int:
        """Blocks that were ever opened."""

    def evaluate(self, template: Any, bindings: Mapping[str, Any] | None = None) -> Any:
        """The value of an Expression or template in the scope of this stage.

        Raises:
            noa.definitions.ExpressionError: It failed; leave it, the stage then fails with its message.
        """


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stage type decided: blocks to open, and what to remember (None keeps the old memo)."""

    blocks: Sequence[Block] = ()
    memo: Any = None


class StageType(ABC):
    """Turns a stage into blocks and says which opens next. Pure: no I/O, no clock, no state of its own.

    Nothing open and nothing opened means that the stage is done.
    """

    name: ClassVar[str]
    options: ClassVar[type[BaseModel]]
    """The type's own keys (without those common to all stages); descriptions become the editor's hover texts."""

    single: ClassVar[bool] = True
    """Whether it opens exactly one block, from the template "main" under the empty key, at its start."""

    repeats: ClassVar[bool] = False
    """Whether its blocks are iterations: `stages.<stage>.<task>.outputs` is then a list, one entry a block."""

    @abstractmethod
    def templates(self, options: Any) -> Sequence[TemplateSpec]:
        """The task graphs of a stage with these (validated) options."""

    @abstractmethod
    def start(self, stage: StageView) -> Opening:
        """The first blocks."""

    def block_finished(self, stage: StageView, block: BlockView) -> Opening:
        """The next blocks. A failed block with fail_fast ends the stage without asking."""
        return Opening()


# --- recovery ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempted:
    """The past of a task that failed. "This entry" is the entry of the chain that is asked.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
        chosen: How often this entry was chosen before for this task.
        elapsed_ms: Since the task's first attempt began.
        jitter: Random number, 0 to 1, drawn when the attempt failed.
        idempotent: Whether the action may be done twice.
        switches: How often this entry chose `Substitute` before.
        tries: Attempts since the task began or was last substituted, by whichever entry; the one that failed included.
        tries_elapsed_ms: Since the first of those began.
        last_delay_ms: `after_ms` of the last `Retry` that this entry chose; 0 where it chose none.
        expired: Whether the task's total time is over: `Retry` and `Substitute` are then passed over.
    """

    attempt: int
    chosen: int
    elapsed_ms: int
    jitter: float
    idempotent: bool = False
    switches: int = 0
    tries: int = 1
    tries_elapsed_ms: int = 0
    last_delay_ms: int = 0
    expired: bool = False


class RecoveryStrategy(ABC):
    """Answers a failed attempt, and may guard attempts before they begin. Pure: the same arguments, the same answer.

    An option that a user may fill with `${{ }}` is declared as `Any` or `dict[str, Any]`: it then holds compiled
    expressions, which are evaluated where a decision carries them (`Substitute.inputs`, `Complete.outputs`,
    `Hold.question`, `Fail.message`). In their scope is also `failure`, with code, message, retryable and details.
    """

    name: ClassVar[str]
    options: ClassVar[type[BaseModel]]

    guards: ClassVar[bool] = False
    """Whether `admit` and `observe` are called."""

    asks: ClassVar[bool] = False
    """Whether it may hold a task for a person: a workflow with it runs supervised where it does not say its mode."""

    rolls_back: ClassVar[bool] = False
    """Whether it may choose `Rollback`. A definition that could be undone and never is gets a warning."""

    @abstractmethod
    def recover(self, failure: Failure, past: Attempted, options: Any) -> Decision | None:
        """What to do, or None to leave it to the next strategy of the chain."""

    def recalls(self, options: Any) -> bool:
        """Whether it may choose `Recall`: outputs of tasks with such a chain are kept for later runs."""
        return False

    def hedge_after_ms(self, durations_ms: Sequence[int], past_attempts: int, options: Any) -> int | None:
        """After how long a second attempt is to begin beside one that begins now; None for never.

        Args:
            durations_ms: Of the latest attempts of this agent and action that succeeded in this process, sorted.
            past_attempts: Of this task. Only asked where the action may be done twice.
        """
        return None

    def admit(self, memory: Any, now_ms: int, options: Any) -> tuple[Any, Failure | None]:
        """Whether an attempt may be executed now, with the memory to keep; a Failure ends it without asking the agent.

        Args:
            memory: What `admit` or `observe` last returned for this agent, action and options in this process, shared
                by all runs; None at first. A value, never changed in place.
        """
        return memory, None

    def observe(self, memory: Any, failure: Failure | None, now_ms: int, options: Any) -> Any:
        """How an admitted attempt ended (None: it succeeded); the memory to keep."""
        return memory


@dataclass(frozen=True, slots=True)
class Gate:
    """A task, or a stage, that is about to begin.

    Attributes:
        subject: Path of the task, or name of the stage.
        stage: Name of the stage.
        task: Name of the task; empty for a stage.
        agent: That is asked; empty for a stage or a sub-workflow.
        action: What it is asked for.
        inputs: That it is given.
        approval: The hold that the definition wants, by `approval` or by rule; None where it wants none.
        stop: The hold that the debugger wants: a breakpoint, a step, or a failure; None where it wants none.
    """

    subject: str
    stage: str
    task: str = ""
    agent: str = ""
    action: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    approval: Hold | None = None
    stop: Hold | None = None


class Mode(ABC):
    """Decides what is held for a person. Pure: the same arguments, the same answer."""

    name: ClassVar[str]
    description: ClassVar[str] = ""

    watches: ClassVar[bool] = False
    """Whether it is asked about every task; else only about those for which the definition wants an approval."""

    debugs: ClassVar[bool] = False
    """Whether breakpoints and steps count, and a run begins with a step."""

    def gate(self, gate: Gate) -> Hold | None:
        """The hold to place before something begins, or None to let it begin."""
        return gate.approval

    def resolves(self, hold: Hold) -> str | None:
        """The answer that a hold gets at once, because nobody is waited for; None waits."""
        return None


# --- storage -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the store lists it. Times in epoch milliseconds; `owner` is empty when nobody owns it."""

    run_id: RunId
    workflow: str
    status: str
    created_at_ms: int
    updated_at_ms: int
    last_seq: int
    owner: str = ""
    fence: int = 0
    lease_until_ms: int = 0
    parent: str = ""
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to a run: `fence` grows with each owner, a smaller one can never write again."""

    run_id: RunId
    owner: str
    fence: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Recollection:
    """Outputs that were kept: of which run, and when they were made (epoch milliseconds)."""

    outputs: Mapping[str, Any]
    run_id: RunId
    made_at_ms: int


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """Input from outside a run. `applied_seq` is the event that applied it, 0 while it waits."""

    signal_id: str
    run_id: RunId
    kind: str
    actor: str
    reason: str
    body: Mapping[str, Any]
    created_at_ms: int
    applied_seq: int = 0


class Journal(ABC):
    """Keeps the events of runs. What `append` returned from is on disk and stays.

    Every method may be called from one event loop at once by many runs. Errors are JournalErrors.
    """

    @abstractmethod
    async def open(self) -> None:
        """Open or create the store. Raises JournalVersionError for a newer one."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was appended, then close. Idempotent."""

    @abstractmethod
    async def create(
        self,
        run: RunId,
        created: Event,
        *,
        owner: str,
        lease_ms: int,
        texts: Mapping[str, str],
        past: Sequence[Event] = (),
    ) -> Lease:
        """Begin a run: its first event (a RunCreated) and the definition texts by SHA-256, in one commit.

        Args:
            past: Events that follow the first one, of a run that shares the past of another.

        Raises:
            RunKeyError: A run was started under `created.key` before; the error names it. Nothing was written.
            ConflictError: The run exists already; nothing was written.
        """

    @abstractmethod
    async def append(self, lease: Lease, events: Sequence[Event], *, expected_seq: int) -> int:
        """Append events to a run's history, all or none, and return once they are on disk.

        Args:
            lease: Of this owner.
            events: 1 to 10,000 events in order.
            expected_seq: Last sequence number that the caller has seen.

        Returns:
            Sequence number of the last event written.

        Raises:
            ConflictError: Another owner has taken the run over or appended; nothing was written.
            JournalError: Storage failed; whether it was written is unknown.
        """

    @abstractmethod
    async def read(self, run: RunId, *, after: int = 0, limit: int | None = None) -> list[tuple[int, Event]]:
        """Events with their sequence numbers, in order. Raises RunNotFoundError."""

    @abstractmethod
    async def text(self, sha256: str) -> str:
        """A pinned definition text."""

    @abstractmethod
    async def run(self, run: RunId) -> RunRecord:
        """One run. Raises RunNotFoundError. A unique prefix of an id is taken for it."""

    @abstractmethod
    async def runs(
        self, *, status: str | None = None, workflow: str | None = None, limit: int | None = 50
    ) -> list[RunRecord]:
        """Runs, newest first; all of them without a limit."""

    @abstractmethod
    async def acquire(self, run: RunId, *, owner: str, lease_ms: int) -> Lease:
        """Take a run over whose lease is expired or whose owner is dead (same machine, no such process).

        Raises:
            OwnershipError: Another live engine owns it; the error names it.
        """

    @abstractmethod
    async def renew(self, leases: Sequence[Lease], *, lease_ms: int) -> list[RunId]:
        """Extend leases; returns the runs whose lease was lost to another owner."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Give a run up, so that another may take it at once."""

    @abstractmethod
    async def abandoned(self) -> list[RunRecord]:
        """Runs that are not over, have no parent, and whose lease is expired or whose owner is dead; oldest first."""

    @abstractmethod
    async def recall(self, key: str, *, not_before_ms: int = 0) -> Recollection | None:
        """Outputs that a finished task kept under a key (`AttemptSucceeded.keep`), the latest ones.

        Args:
            not_before_ms: Older ones do not count, nor do those whose time to live is over.
        """

    async def learned(self, workflow: str) -> tuple[bytes, int]:
        """What was learned of a workflow, and its revision; nothing and 0 where nothing is kept.

        A journal that does not override this and `learn` keeps nothing; runs then go on without.
        """
        return b"", 0

    async def learn(self, workflow: str, body: bytes, *, revision: int) -> bool:
        """Keep a body in the place of the one of this revision, which has the next revision then.

        Args:
            body: Empty forgets.
            revision: As `learned` gave it.

        Returns:
            False where somebody else kept another one meanwhile; nothing was changed. Read again.
        """
        return True

    @abstractmethod
    async def delete(self, runs: Sequence[RunId]) -> int:
        """Remove runs that are over, with their events, signals and definitions that no other run needs; how many.

        A run that is not over, or that a live engine owns, is left alone. Kept outputs stay until their time is over.
        """

    @abstractmethod
    async def put_signal(self, signal: SignalRecord) -> bool:
        """Record a signal durably; False where its id was there already."""

    @abstractmethod
    async def signals(self, runs: Sequence[RunId]) -> list[SignalRecord]:
        """Signals of these runs that were not applied, oldest first."""

    @abstractmethod
    async def mark_signal(self, signal_id: str, seq: int) -> None:
        """Note which event applied a signal."""

    @abstractmethod
    async def changed(self) -> bool:
        """Whether another process may have written since the last call. Cheap; for polling the signal inbox."""

    @abstractmethod
    async def verify(self, run: RunId) -> int | None:
        """Check the hash chain; the first sequence number that was tampered with, or None."""


class ArtifactWriter(Protocol):
    """Takes the bytes of an artifact."""

    def write(self, data: bytes) -> int:
        """Append bytes; returns how many."""


class ArtifactStore(ABC):
    """Keeps large payloads by content."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """URI prefix under which agents create artifacts themselves, with a trailing slash."""

    @abstractmethod
    def put(self, data: bytes, content_type: str) -> Artifact:
        """Store bytes; the same bytes give the same artifact. Raises ArtifactError."""

    @abstractmethod
    def get(self, artifact: Artifact) -> bytes:
        """The bytes, size and hash checked. Raises ArtifactError."""

    @abstractmethod
    def stream(self, artifact: Artifact, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        """The bytes in pieces."""

    @abstractmethod
    def exists(self, artifact: Artifact) -> bool:
        """Whether it is there with the right size."""


# --- alerts ------------------------------------------------------------------------------------------------------


class AlertChannel(ABC):
    """Somewhere alerts go."""

    name: ClassVar[str]

    @abstractmethod
    async def send(self, url: str, *, title: str, body: str, severity: str) -> None:
        """Deliver one alert or raise with the reason."""


Events = AsyncIterator[tuple[int, Event]]
