"""What earlier runs teach: statistics in, expectations out. Pure; `noa.modes.learner` reads and keeps it.

Kept per workflow (by its name) and task (`stage/task`, all iterations of a loop together). Durations are those of the
work itself: an attempt that waits for an agent or a resource is not slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from noa.model.plan import Plan, StagePlan

__all__ = [
    "FailureRecord",
    "PastRun",
    "TaskNotes",
    "TaskRecord",
    "WorkflowRecord",
    "RunNotes",
    "decode_record",
    "encode_record",
    "expectations",
    "expected_items",
    "percentile_of",
    "revised",
]

KEPT_DURATIONS = 64
"""Of each task, the newest ones."""

KEPT_RUNS = 50
"""Whose makespans are kept, the newest ones."""

WORTH_MS = 20
"""Where no task takes longer, there is nothing to gain by an order."""

_FORMAT = 1
_NEWEST = 0.3  # weight of a run in a decayed mean
_AGED = 0.5  # of what an older version of the workflow taught, this much is left with each new version
_AGED_DURATIONS = 8  # which of the durations of an older version still count
_FORGOTTEN_AFTER = 20  # runs without a task; it was renamed or removed


class FailureRecord(msgspec.Struct, omit_defaults=True):
    """How often attempts ended with a code, how often a retry followed, and how often the task then succeeded.

    `retryable`: whether the last one was, in the opinion of who failed.
    """

    count: float = 0
    retried: float = 0
    helped: float = 0
    retryable: bool = False


class TaskRecord(msgspec.Struct, omit_defaults=True):
    """What is known of a task.

    Attributes:
        count: Successes; those of older versions of the workflow count less.
        mean_ms: Decayed mean of the duration.
        recent_ms: Newest durations, the newest last; at most `KEPT_DURATIONS`.
        attempts: As `count`, of attempts.
        per_run: How many of it a run has, decayed mean: 1 outside of loops.
        failures: By code.
        cpu_s: Processor time of a success, decayed mean; 0 where its agent does not tell.
        peak_memory_bytes: The most of the last runs, which fades; 0 where its agent does not tell.
        seen: Number of the last run that had it.
    """

    count: float = 0
    mean_ms: float = 0
    recent_ms: list[int] = []
    attempts: float = 0
    per_run: float = 1
    failures: dict[str, FailureRecord] = {}
    cpu_s: float = 0
    peak_memory_bytes: float = 0
    seen: int = 0


class PastRun(msgspec.Struct, omit_defaults=True):
    """A run that succeeded, from its first event to its end without a pause.

    Attributes:
        learned: Whether it was started in learned order.
        peak: Most attempts that went on at once.
    """

    run_id: str
    at_ms: int
    version: str
    makespan_ms: int
    learned: bool = False
    peak: int = 0


class WorkflowRecord(msgspec.Struct, omit_defaults=True):
    """What is known of a workflow.

    Attributes:
        runs: That taught anything.
        version: Of the last of them.
        slower: Whether a run in learned order is expected to take longer than one in the order of arrival. That can be:
            the best order is not the longest way first for every graph, only for most.
    """

    format: int = _FORMAT
    runs: int = 0
    version: str = ""
    tasks: dict[str, TaskRecord] = {}
    past: list[PastRun] = []
    slower: bool = False


class TaskNotes(msgspec.Struct):
    """What one run has to say of a task; sums, and the newest durations."""

    durations_ms: list[int] = []
    count: int = 0
    sum_ms: int = 0
    attempts: int = 0
    failures: dict[str, FailureRecord] = {}
    cpu_s: float = 0
    measured: int = 0
    peak_memory_bytes: float = 0

    def succeeded(self, duration_ms: int, metrics: Mapping[str, float]) -> None:
        """Add a success with what its agent measured (`cpu_time_s`, `peak_memory_bytes`)."""
        self.count += 1
        self.sum_ms += duration_ms
        self.durations_ms.append(duration_ms)
        if len(self.durations_ms) > 2 * KEPT_DURATIONS:
            del self.durations_ms[:-KEPT_DURATIONS]
        if metrics:
            self.cpu_s += metrics.get("cpu_time_s", 0.0)
            self.measured += "cpu_time_s" in metrics
            self.peak_memory_bytes = max(self.peak_memory_bytes, metrics.get("peak_memory_bytes", 0.0))


class RunNotes(msgspec.Struct):
    """What one run teaches. `past` is None where its makespan says nothing: it failed, was resumed, or people took
    part in it."""

    version: str
    tasks: dict[str, TaskNotes] = {}
    past: PastRun | None = None


def decode_record(body: bytes) -> WorkflowRecord:
    """The inverse of `encode_record`; an empty body is an empty record.

    Raises:
        ValueError: It is not a record that this version knows.
    """
    if not body:
        return WorkflowRecord()
    record = msgspec.json.decode(body, type=WorkflowRecord)
    if record.format != _FORMAT:
        raise ValueError(f"format {record.format}, this version knows {_FORMAT}")
    return record


def encode_record(record: WorkflowRecord) -> bytes:
    """The record as JSON."""
    return msgspec.json.encode(record)


def revised(record: WorkflowRecord, notes: Sequence[RunNotes]) -> WorkflowRecord:
    """A record with more runs in it, the oldest first. The given one is changed and must not be used any more."""
    for run in notes:
        if not run.tasks and run.past is None:
            continue
        if record.version != run.version:
            _age(record)
            record.version = run.version
        record.runs += 1
        for name, found in run.tasks.items():
            _add(record.tasks.setdefault(name, TaskRecord()), found)
            record.tasks[name].seen = record.runs
        if run.past is not None:
            record.past = [*record.past, run.past][-KEPT_RUNS:]
    last = record.runs - _FORGOTTEN_AFTER
    record.tasks = {name: task for name, task in record.tasks.items() if task.seen > last}
    return record


def _age(record: WorkflowRecord) -> None:
    for task in record.tasks.values():
        task.count *= _AGED
        task.attempts *= _AGED
        task.recent_ms = task.recent_ms[-_AGED_DURATIONS:]
        for failure in task.failures.values():
            failure.count *= _AGED
            failure.retried *= _AGED
            failure.helped *= _AGED


def _add(task: TaskRecord, found: TaskNotes) -> None:
    task.attempts += found.attempts
    for code, more in found.failures.items() if found.failures else ():
        known = task.failures.setdefault(code, FailureRecord())
        known.count += more.count
        known.retried += more.retried
        known.helped += more.helped
        known.retryable = more.retryable
    if not found.count:
        return
    first = not task.count
    task.count += found.count
    task.mean_ms = _decayed(task.mean_ms, found.sum_ms / found.count, first)
    task.per_run = _decayed(task.per_run, found.count, first)
    task.recent_ms += found.durations_ms
    del task.recent_ms[:-KEPT_DURATIONS]
    if found.measured:
        task.cpu_s = _decayed(task.cpu_s, found.cpu_s / found.measured, not task.cpu_s)
    if found.peak_memory_bytes or task.peak_memory_bytes:
        faded = (1 - _NEWEST) * task.peak_memory_bytes + _NEWEST * found.peak_memory_bytes
        task.peak_memory_bytes = max(found.peak_memory_bytes, faded)


def _decayed(before: float, now: float, first: bool) -> float:
    return now if first else before + _NEWEST * (now - before)


def percentile_of(values: Sequence[int], part: float) -> float:
    """The value below which `part` percent of the values are, between two of them interpolated; 0 of none."""
    if not values:
        return 0.0
    found = sorted(values)
    at = (len(found) - 1) * part / 100
    low = int(at)
    high = min(low + 1, len(found) - 1)
    return found[low] + (found[high] - found[low]) * (at - low)


def expected_items(record: WorkflowRecord) -> dict[str, int]:
    """How long one success of each task is expected to take in milliseconds, by `stage/task`: the median."""
    return {name: _usual(task.recent_ms) for name, task in record.tasks.items() if task.recent_ms}


def _usual(durations_ms: list[int]) -> int:
    return durations_ms[0] if len(durations_ms) == 1 else sorted(durations_ms)[len(durations_ms) // 2]


def expectations(record: WorkflowRecord, plan: Plan) -> dict[str, int]:
    """How long the tasks of a plan are expected to take in milliseconds, by `stage/task`; for `RunCreated.expected_ms`.

    A task of a loop is expected to take as long as all its iterations together.

    Returns:
        Empty where nothing is known, or an order gains nothing: one task, or none that takes a while.
    """
    found: dict[str, int] = {}
    tasks = record.tasks
    for stage in plan.stages.values():
        for template in stage.templates.values():
            for task in template.tasks:
                name = f"{stage.name}/{task.name}"
                known = tasks.get(name)
                if known is not None and known.recent_ms:
                    item_ms = _usual(known.recent_ms)
                    found[name] = round(item_ms * _rounds(known, stage)) if stage.repeats else item_ms
    return found if len(found) > 1 and max(found.values()) >= WORTH_MS else {}


def _rounds(task: TaskRecord, stage: StagePlan) -> float:
    """How many iterations of a loop follow one another."""
    return max(1.0, task.per_run / (stage.options.get("max_parallel") or 1))
