"""How the cases came out, for people, for programs and for CI servers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from noa.testing.conformance.case import CASES, CaseResult, Status

__all__ = ["Report", "line_of"]

_MARKS: dict[Status, str] = {"passed": "✓", "failed": "✗", "skipped": "-"}
_WIDTH = 26


def line_of(result: CaseResult) -> str:
    """A result as lines of text: one, or with what was seen and what to change where it failed."""
    head = f"{_MARKS[result.status]} {result.id:<{_WIDTH}}"
    if result.status == "passed":
        return f"{head} {result.seconds:6.2f} s"
    if result.status == "skipped":
        return f"{head} skipped: {result.message}"
    case = CASES.get(result.id)
    lines = [f"{head} {result.seconds:6.2f} s  FAILED", f"    seen: {_indented(result.message)}"]
    if case is not None:
        lines.append(f"    required: {case.requirement}")
    if result.advice:
        lines.append(f"    to change: {result.advice}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """How all cases came out.

    Attributes:
        target: Command or address of the agent.
        results: One for each case that was asked for, in their order.
        seconds: How long it took.
        agent: Name, version and language as its manifest says; empty where it could not be asked.
    """

    target: str
    results: tuple[CaseResult, ...]
    seconds: float
    agent: str = ""

    @property
    def ok(self) -> bool:
        """Whether no case failed."""
        return not self.count("failed")

    def count(self, status: Status) -> int:
        """How many came out so."""
        return sum(result.status == status for result in self.results)

    def summary(self) -> str:
        """One line."""
        counts = f"{self.count('passed')} passed, {self.count('failed')} failed, {self.count('skipped')} skipped"
        return f"{counts} in {self.seconds:.1f} s: {self.agent or self.target}"

    def to_text(self) -> str:
        """For people: a line for each case and the summary."""
        return "\n".join([*map(line_of, self.results), "", self.summary(), ""])

    def to_dict(self) -> dict[str, Any]:
        """For programs: `{target, agent, passed, failed, skipped, seconds, cases: [{id, status, …}]}`."""
        return {
            "target": self.target,
            "agent": self.agent,
            "passed": self.count("passed"),
            "failed": self.count("failed"),
            "skipped": self.count("skipped"),
            "seconds": round(self.seconds, 3),
            "cases": [_case_dict(result) for result in self.results],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_junit(self) -> str:
        """A JUnit file: a test suite with one test case each; the groups of the ids are the classes."""
        suite = ElementTree.Element(
            "testsuite",
            name=f"noa agent check {self.target}",
            tests=str(len(self.results)),
            failures=str(self.count("failed")),
            errors="0",
            skipped=str(self.count("skipped")),
            time=f"{self.seconds:.3f}",
        )
        for result in self.results:
            group, _, name = result.id.partition(".")
            element = ElementTree.SubElement(
                suite, "testcase", classname=f"conformance.{group}", name=name, time=f"{result.seconds:.3f}"
            )
            if result.status == "skipped":
                ElementTree.SubElement(element, "skipped", message=_printable(result.message))
            elif result.status == "failed":
                failure = ElementTree.SubElement(element, "failure", message=_printable(result.message))
                failure.text = _printable(line_of(result))
        root = ElementTree.Element("testsuites")
        root.append(suite)
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case_dict(result: CaseResult) -> dict[str, Any]:
    value = asdict(result)
    value["seconds"] = round(result.seconds, 3)
    value["requirement"] = CASES[result.id].requirement if result.id in CASES else ""
    return value


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")


def _printable(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    return "".join(c if c in "\t\n" or ord(c) >= 0x20 else "�" for c in text)
