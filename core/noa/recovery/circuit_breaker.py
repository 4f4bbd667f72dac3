"""`circuit_breaker`: no attempt reaches an agent that keeps failing, until it has had time to get well.

Closed: every attempt is let through. Open: none is. Half-open: a few are, to try; one failure opens it again, and when
all succeeded it closes. The state machine is that of Michael Nygard's "Release It!" (2007).

The memory is a value that the engine keeps for each agent and action, shared by all runs of its process. It is told
that an attempt ended, not which: one that began before the circuit opened and ends in the half-open state counts there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, Field

from noa.model.events import Decision
from noa.model.failure import Failure
from noa.plugin import Attempted, RecoveryStrategy
from noa.recovery.options import Duration, FilteredOptions

__all__ = ["Circuit", "CircuitBreakerOptions", "CircuitBreakerStrategy", "Closed", "HalfOpen", "Open"]

_NOT_OF_THE_AGENT = frozenset({"CANCELLED", "CIRCUIT_OPEN", "INVALID_INPUT", "QUEUE_TIMEOUT"})
_SLOTS = 10  # into which the window of a rate is divided


class CircuitBreakerOptions(FilteredOptions):
    """Options of `circuit_breaker`."""

    failures: int = Field(
        5, ge=1, le=1_000, description="Failures in a row that open it. With `rate`: how many there must be at least."
    )
    window: Duration = Field("60s", validate_default=True, description="Attempts that ended longer ago do not count.")
    rate: float | None = Field(
        None, gt=0, le=1, description="Open it where this part of the attempts in the window failed, in a row or not."
    )
    open_for: Duration = Field("30s", validate_default=True, description="How long no attempt is let through.")
    half_open: int = Field(
        1, ge=1, le=1_000, description="Attempts that are then let through to try; all must succeed to close it."
    )

    def takes(self, failure: Failure) -> bool:
        """Whether a failure counts. One that says nothing of the agent does where it is named only."""
        of_the_agent = failure.code not in _NOT_OF_THE_AGENT or failure.code in (self.on or ())
        return of_the_agent and super().takes(failure)


@dataclass(frozen=True, slots=True)
class Closed:
    """Attempts are let through.

    Attributes:
        failed_ms: When the latest failures in a row were; without `rate`.
        counts: (slot, successes, failures) of the slots of the window in which attempts ended; with `rate`.
    """

    failed_ms: tuple[int, ...] = ()
    counts: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """No attempt is let through. `why` in words."""

    since_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """A few attempts are let through: when each that is under way began, and how many succeeded."""

    probes_ms: tuple[int, ...] = ()
    passed: int = 0


Circuit: TypeAlias = Closed | Open | HalfOpen

_CLOSED = Closed()


class CircuitBreakerStrategy(RecoveryStrategy):
    """Refuses attempts with CIRCUIT_OPEN. Answers no failure itself: what to do about a refusal, the others say."""

    name: ClassVar[str] = "circuit_breaker"
    options: ClassVar[type[BaseModel]] = CircuitBreakerOptions
    guards: ClassVar[bool] = True

    def recover(self, failure: Failure, past: Attempted, options: CircuitBreakerOptions) -> Decision | None:
        return None

    def admit(
        self, memory: Circuit | None, now_ms: int, options: CircuitBreakerOptions
    ) -> tuple[Circuit | None, Failure | None]:
        match memory:
            case Open(since_ms, why):
                left_ms = since_ms + options.open_for - now_ms
                if 0 < left_ms <= options.open_for:  # more is left where the clock was put back
                    return memory, _refusal("open", left_ms, why)
                return HalfOpen((now_ms,)), None
            case HalfOpen(probes_ms, passed):
                # A probe that nobody reported in `open_for` is given up, so that it cannot be waited for without end.
                probes_ms = tuple(at for at in probes_ms if 0 <= now_ms - at < options.open_for)
                if len(probes_ms) + passed < options.half_open:
                    return HalfOpen((*probes_ms, now_ms), passed), None
                left_ms = min(probes_ms) + options.open_for - now_ms
                return HalfOpen(probes_ms, passed), _refusal(
                    "half-open", left_ms, "the attempts that try are under way"
                )
        return memory, None

    def observe(
        self, memory: Circuit | None, failure: Failure | None, now_ms: int, options: CircuitBreakerOptions
    ) -> Circuit | None:
        if isinstance(memory, Open):
            return memory  # it began before
        counts = failure is None or options.takes(failure)
        if isinstance(memory, HalfOpen):
            return _tried(memory, failure, counts, now_ms, options)
        if not counts:
            return memory
        closed = memory or _CLOSED
        return (
            _in_a_row(closed, failure, now_ms, options)
            if options.rate is None
            else _rated(closed, failure, now_ms, options, options.rate)
        )


def _tried(
    circuit: HalfOpen, failure: Failure | None, counts: bool, now_ms: int, options: CircuitBreakerOptions
) -> Circuit:
    probes_ms = circuit.probes_ms[1:]
    if not counts:
        return HalfOpen(probes_ms, circuit.passed)
    if failure is not None:
        return Open(now_ms, f"it was tried and failed with {failure.code}")
    if circuit.passed + 1 >= options.half_open:
        return _CLOSED
    return HalfOpen(probes_ms, circuit.passed + 1)


def _in_a_row(circuit: Closed, failure: Failure | None, now_ms: int, options: CircuitBreakerOptions) -> Circuit:
    if failure is None:
        return circuit if not circuit.failed_ms else _CLOSED
    failed_ms = (*(at for at in circuit.failed_ms if 0 <= now_ms - at < options.window), now_ms)
    if len(failed_ms) >= options.failures:
        return Open(now_ms, f"{len(failed_ms)} failures in a row, the last was {failure.code}")
    return Closed(failed_ms=failed_ms)


def _rated(
    circuit: Closed, failure: Failure | None, now_ms: int, options: CircuitBreakerOptions, rate: float
) -> Circuit:
    """Count in a slot, a tenth of the window; the window is therefore up to a tenth shorter than it should be."""
    now = now_ms // max(1, options.window // _SLOTS)
    kept = {slot: (good, bad) for slot, good, bad in circuit.counts if 0 <= now - slot < _SLOTS}
    good, bad = kept.get(now, (0, 0))
    kept[now] = (good + (failure is None), bad + (failure is not None))
    failed = sum(bad for _, bad in kept.values())
    ended = failed + sum(good for good, _ in kept.values())
    if failure is not None and failed >= options.failures and failed / ended >= rate:
        return Open(now_ms, f"{failed} of the latest {ended} attempts failed, the last with {failure.code}")
    return Closed(counts=tuple((slot, good, bad) for slot, (good, bad) in kept.items()))


def _refusal(state: str, left_ms: int, why: str) -> Failure:
    details: dict[str, Any] = {"state": state, "for_ms": left_ms}
    message = (
        f"the circuit breaker is {state} ({why}), so the agent was not asked; "
        f"an attempt is let through in {left_ms / 1000:.1f} s"
    )
    return Failure("CIRCUIT_OPEN", message, retryable=True, retry_after_ms=left_ms, details=details)
