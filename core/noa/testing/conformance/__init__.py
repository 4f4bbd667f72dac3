"""The conformance program: does an agent keep `agents/CONTRACT.md`? A black box, over the wire only.

    report = await check(Target(command="./my-agent"))
    print(report.to_text())

On the command line it is `noa agent check`, in a test suite `noa.testing.pytest_plugin`. It works with the action
`echo` that the contract prescribes for testing, or with actions that the caller names.
"""

from __future__ import annotations

from noa.testing.conformance.case import CASES, Case, CaseResult, Status
from noa.testing.conformance.check import Checker, check, select_cases
from noa.testing.conformance.report import Report, line_of
from noa.testing.conformance.target import Target

# Registered in the order in which they are run: what ends the agent's process comes first.
from noa.testing.conformance import (  # isort: skip
    launch_cases,
    ending_cases,
    call_cases,
    health_cases,
    stream_cases,
    refusal_cases,
    deadline_cases,
    repeat_cases,
    reference_cases,
    load_cases,
    cancel_cases,
)

__all__ = ["CASES", "Case", "CaseResult", "Checker", "Report", "Status", "Target", "check", "line_of", "select_cases"]

_ = (
    launch_cases,
    ending_cases,
    call_cases,
    health_cases,
    stream_cases,
    refusal_cases,
    deadline_cases,
    repeat_cases,
    reference_cases,
    load_cases,
    cancel_cases,
)
