"""`agents/CONTRACT.md` and the program that checks it say the same."""

from __future__ import annotations

import re
from pathlib import Path

from noa.sdk.echo import EchoInputs
from noa.testing.conformance import CASES

PAGE = (Path(__file__).resolve().parents[2] / "agents" / "CONTRACT.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table below a heading, whose first cell is code."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", part, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in found}


def test_every_case_is_explained_in_the_contract_and_nothing_else_is() -> None:
    explained = rows("Conformance")
    assert list(explained) == list(CASES), "the same cases in the same order"
    for name, (requirement, needs) in explained.items():
        assert requirement == CASES[name].requirement
        assert re.findall(r"`([^`]+)`", needs) == list(CASES[name].needs)


def test_every_field_of_echo_is_in_the_contract() -> None:
    assert list(rows("The action echo")) == list(EchoInputs.model_fields)


def test_every_case_says_what_to_change_and_which_part_of_the_contract_says_so() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    for case in CASES.values():
        *_, source = re.findall(r"\(([^()]+)\)\.$", case.advice)
        named = source.split(":")[0].split(";")[0]
        assert named in headings or named.endswith(".proto"), f"{case.id}: {named}"
