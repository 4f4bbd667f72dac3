"""When a replica that serves is worse than none, when a task is: decided by what came of executions."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["FAULTS", "LASTING_S", "POISON_AFTER", "POISON_WINDOW_S", "Budget", "Losses", "Record", "judge"]

FAULTS = frozenset({"AGENT_LOST", "AGENT_PROTOCOL_ERROR", "INTERNAL", "EXECUTION_TIMEOUT", "HEARTBEAT_TIMEOUT"})
"""Codes of failures that may be the replica's fault and not the work's."""

_OF_THE_WORK_TOO = frozenset({"INTERNAL"})
"""An action that raises fails so wherever it runs: it counts only where siblings do better."""

_KEPT = 20
_WINDOW_S = 60.0
_FAULTS_LEAST = 5
_FAULTS_LEAST_ALONE = 10
_TASKS_LEAST = 3
_SHARE = 0.5
_SHARE_ALONE = 0.8

LASTING_S = 10.0
"""What fails for less may be well again by itself; siblings that do well at the same time say that it is not."""

_PAUSE_FIRST_S = 60.0
_PAUSE_MAX_S = 3600.0
_CALM_S = 600.0

POISON_AFTER = 3
"""A task that was running when so many replicas went away is not tried again."""

POISON_WINDOW_S = 600.0
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class _Fault:
    at_s: float
    task: str
    code: str


@dataclass(frozen=True, slots=True)
class _Loss:
    at_s: float
    weight: float
    forgive: Callable[[], None]


class Record:
    """The last outcomes of one replica."""

    __slots__ = ("_outcomes",)

    def __init__(self) -> None:
        self._outcomes: deque[_Fault | None] = deque(maxlen=_KEPT)

    def __len__(self) -> int:
        return len(self._outcomes)

    def well(self) -> None:
        """An execution ended as its work wanted, well or not."""
        self._outcomes.append(None)

    def fault(self, at_s: float, task: str, code: str) -> None:
        """An execution failed by one of FAULTS."""
        self._outcomes.append(_Fault(at_s, task, code))

    def clear(self) -> None:
        """Another takes its place."""
        self._outcomes.clear()

    def faults(self, now_s: float, besides: frozenset[str] = frozenset()) -> list[_Fault]:
        """Of the last minute, but those with these codes."""
        since = now_s - _WINDOW_S
        return [one for one in self._outcomes if one is not None and one.at_s >= since and one.code not in besides]


def judge(record: Record, siblings: Iterable[Record], now_s: float) -> str:
    """Why a replica is to be replaced, for a person; empty where it is not.

    Faults of three tasks within a minute: either five, half of its last twenty outcomes and twice the share of its
    siblings'; or ten within ten seconds or more and four fifths, whatever the siblings do, those of actions that raise
    left out.
    """
    faults = record.faults(now_s)
    if len(faults) < _FAULTS_LEAST or len({fault.task for fault in faults}) < _TASKS_LEAST:
        return ""
    share = len(faults) / len(record)
    others = list(siblings)
    total = sum(map(len, others))
    theirs = sum(len(other.faults(now_s)) for other in others)
    codes = ", ".join(sorted({fault.code for fault in faults}))
    text = f"{len(faults)} of its last {len(record)} executions failed by {codes}"
    if share >= _SHARE and total >= _FAULTS_LEAST and theirs / total < share / 2:
        return f"{text}, {theirs} of {total} of the others'"
    alone = record.faults(now_s, _OF_THE_WORK_TOO)
    lasting = len(alone) >= _FAULTS_LEAST_ALONE and alone[-1].at_s - alone[0].at_s >= LASTING_S
    if lasting and len(alone) / len(record) >= _SHARE_ALONE:
        return text
    return ""


class Budget:
    """How often replicas of an agent may be replaced for their faults: less and less often where that does not help."""

    __slots__ = ("_free_at", "_pause_s")

    def __init__(self) -> None:
        self._free_at = float("-inf")
        self._pause_s = _PAUSE_FIRST_S

    def take(self, now_s: float) -> bool:
        """Whether one may be replaced now; if so it counts. The pause after it doubles, up to an hour, until ten
        minutes have passed in which none was asked for."""
        if now_s < self._free_at:
            return False
        if now_s >= self._free_at + _CALM_S:
            self._pause_s = _PAUSE_FIRST_S
        self._free_at = now_s + self._pause_s
        self._pause_s = min(_PAUSE_MAX_S, 2 * self._pause_s)
        return True


class Losses:
    """Which tasks were running when replicas went away."""

    __slots__ = ("_lost",)

    def __init__(self) -> None:
        self._lost: OrderedDict[str, list[_Loss]] = OrderedDict()

    def add(self, task: str, now_s: float, together: int, forgive: Callable[[], None]) -> float:
        """A replica went away while it worked on a task. How many the task has on its account: one that was alone on
        its replica is said to have ended it, one that was not is half as likely to.

        Args:
            task: Its idempotency key.
            together: How many executions went with the replica.
            forgive: Called by `convict`: the replica was not to blame.
        """
        past = [loss for loss in self._lost.pop(task, ()) if loss.at_s >= now_s - POISON_WINDOW_S]
        past.append(_Loss(now_s, 1.0 if together <= 1 else 0.5, forgive))
        self._lost[task] = past
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)
        return sum(loss.weight for loss in past)

    def convict(self, task: str) -> int:
        """The task was to blame, and its replicas are forgiven; how many there were."""
        past = self._lost.pop(task, [])
        for loss in past:
            loss.forgive()
        return len(past)

    def acquit(self, task: str) -> None:
        """A replica survived the task."""
        if self._lost:
            self._lost.pop(task, None)
