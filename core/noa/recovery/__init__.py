"""Built-in recovery strategies, registered through `noa_recovery_strategies` like anybody's."""

from noa.recovery.retry import RetryOptions, RetryStrategy

__all__ = ["BUILTIN_RECOVERY_STRATEGIES", "RetryOptions", "RetryStrategy"]

BUILTIN_RECOVERY_STRATEGIES = (RetryStrategy,)
