"""What pytest reports in the format of JUnit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

__all__ = ["TestReport", "read_report"]


@dataclass(frozen=True, slots=True)
class TestReport:
    """How tests ended.

    Attributes:
        tests: All of them.
        skipped: How many did not run.
        failed: Names of those that failed, or broke before they began.
    """

    tests: int
    skipped: int
    failed: tuple[str, ...]


def read_report(path: Path) -> TestReport | None:
    """Read a report; None where there is none, or a half one."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    cases = list(root.iter("testcase"))
    failed = tuple(_name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None)
    return TestReport(len(cases), sum(case.find("skipped") is not None for case in cases), failed)


def _name(case: ElementTree.Element) -> str:
    return "::".join(filter(None, (case.get("classname"), case.get("name"))))
