"""Runs cases on an agent, one after the other."""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections.abc import Callable, Sequence
from types import TracebackType

import grpc.aio

from noa.errors import UsageError
from noa.testing.conformance.bench import Bench
from noa.testing.conformance.case import CASES, Case, CaseResult, NotApplicable, Unreachable, Violation
from noa.testing.conformance.report import Report
from noa.testing.conformance.target import Target

__all__ = ["Checker", "check", "select_cases"]

_CASE_LIMIT_S = 90.0
_UNREACHABLE = (
    "Listen where NOA_AGENT_LISTEN says, and let Health come to SERVING (Launch: started; Health: preparing)."
)
_NOT_DIALLED = (
    "Look whether the agent runs and listens there, whether it wants TLS (--ca-file; --cert-file and --key-file for "
    "mutual TLS), whether the token is the one that it was given (--token-env), and whether its Health says SERVING "
    "(Health: can work)."
)


def select_cases(only: Sequence[str] = ()) -> list[Case]:
    """The cases whose ids match one of the patterns such as "execute.*"; all where there is none.

    Raises:
        UsageError: A pattern matches no case.
    """
    for pattern in only:
        if not fnmatch.filter(CASES, pattern):
            raise UsageError(f"no case matches '{pattern}'. The cases are: {', '.join(CASES)}")
    if not only:
        return list(CASES.values())
    return [case for case in CASES.values() if any(fnmatch.fnmatchcase(case.id, pattern) for pattern in only)]


class Checker:
    """Runs single cases on one agent. An async context manager; at its end no process is left.

    Args:
        target: The agent.

    Raises:
        UsageError: The agent's command is not there.
    """

    def __init__(self, target: Target) -> None:
        if target.command:
            target.resolved()  # a command that is not there is the caller's mistake, not the agent's
        self._bench = Bench(target)
        self._target = target
        self.agent = ""
        """Who the agent says it is; empty until a case has asked."""

    async def __aenter__(self) -> Checker:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every process. Idempotent."""
        await self._bench.close()

    async def run(self, case: Case) -> CaseResult:
        """Run one case.

        Raises:
            UsageError: The agent's command cannot be executed.
        """
        began_s = time.monotonic()
        result = await self._judge(case)
        await self._bench.tidy(failed=result.status == "failed")
        return CaseResult(result.id, result.status, result.message, result.advice, time.monotonic() - began_s)

    async def _judge(self, case: Case) -> CaseResult:
        limit_s = _CASE_LIMIT_S + self._target.start_timeout_s
        known = bool(self._bench.unreachable)
        advice = case.advice
        try:
            async with asyncio.timeout(limit_s):
                if reason := await self._bench.missing(case.needs):
                    return CaseResult(case.id, "skipped", reason)
                await case.function(self._bench)
                self.agent = self._bench.agent or self.agent
                return CaseResult(case.id, "passed")
        except NotApplicable as reason:
            return CaseResult(case.id, "skipped", str(reason))
        except Violation as error:
            if known and isinstance(error, Unreachable):
                return CaseResult(case.id, "skipped", "the agent cannot be reached, as a failed case says")
            seen = str(error)
            if isinstance(error, Unreachable) and "command" not in case.needs:
                advice = _UNREACHABLE if self._target.command else _NOT_DIALLED
        except TimeoutError:
            seen = f"the case was not over after {limit_s:g} s"
        except grpc.aio.AioRpcError as error:
            seen = f"a call ended with the gRPC status {error.code().name} ({error.details()})"
        except UsageError:
            raise
        except Exception as error:  # what an agent sent may be anything
            seen = f"the agent's answer could not be understood: {type(error).__name__}: {error}"
        ended = await self._bench.obituary(expected="UNAVAILABLE" in seen)
        message = f"{seen}\n{ended}" if ended else seen
        return CaseResult(case.id, "failed", message, advice)


async def check(
    target: Target, *, only: Sequence[str] = (), on_result: Callable[[CaseResult], None] | None = None
) -> Report:
    """Run the cases on an agent. Afterwards nothing that was launched is left, also where this is cancelled.

    Args:
        target: The agent.
        only: Ids or patterns such as "cancel.*"; empty is all cases.
        on_result: Called with each result as it comes.

    Raises:
        UsageError: The agent's command is not there, or a pattern matches no case.
    """
    cases = select_cases(only)
    began_s = time.monotonic()
    results = []
    async with Checker(target) as checker:
        for case in cases:
            results.append(await checker.run(case))
            if on_result is not None:
                on_result(results[-1])
        return Report(target.name, tuple(results), time.monotonic() - began_s, checker.agent)
