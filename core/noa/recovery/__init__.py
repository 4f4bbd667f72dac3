"""Built-in recovery strategies, registered through `noa_recovery_strategies` like anybody's."""

from noa.plugin import RecoveryStrategy
from noa.recovery.ask import AskOptions, AskStrategy
from noa.recovery.circuit_breaker import CircuitBreakerOptions, CircuitBreakerStrategy
from noa.recovery.degrade import DegradeOptions, DegradeStrategy
from noa.recovery.fail import FailOptions, FailStrategy
from noa.recovery.fallback import Alternative, FallbackOptions, FallbackStrategy
from noa.recovery.hedge import HedgeOptions, HedgeStrategy
from noa.recovery.retry import RetryOptions, RetryStrategy
from noa.recovery.rollback import RollbackOptions, RollbackStrategy
from noa.recovery.skip import SkipOptions, SkipStrategy

__all__ = [
    "BUILTIN_RECOVERY_STRATEGIES",
    "Alternative",
    "AskOptions",
    "AskStrategy",
    "CircuitBreakerOptions",
    "CircuitBreakerStrategy",
    "DegradeOptions",
    "DegradeStrategy",
    "FailOptions",
    "FailStrategy",
    "FallbackOptions",
    "FallbackStrategy",
    "HedgeOptions",
    "HedgeStrategy",
    "RetryOptions",
    "RetryStrategy",
    "RollbackOptions",
    "RollbackStrategy",
    "SkipOptions",
    "SkipStrategy",
]

BUILTIN_RECOVERY_STRATEGIES: tuple[type[RecoveryStrategy], ...] = (
    RetryStrategy,
    FallbackStrategy,
    DegradeStrategy,
    SkipStrategy,
    FailStrategy,
    RollbackStrategy,
    AskStrategy,
    CircuitBreakerStrategy,
    HedgeStrategy,
)
"""What the built-in plugin gives for `noa_recovery_strategies`."""
