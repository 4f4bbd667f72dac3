"""What the documentation shows is true: its files, commands and programs are run, and its links lead somewhere.

A comment before a fenced block says what the block is:

    <!-- file: NAME -->        the block is written to NAME
    <!-- run -->               a bash block is run, a python block is a program that is run; both must exit with 0
    <!-- run: exit 2 -->       … must exit with 2
    <!-- output -->            each line of the block is in what the last block printed; `…` stands for anything

The blocks of a page share a folder, in which `definitions` is that of the project, and are run in their order.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CHANGELOG.md"])

_BLOCK = re.compile(
    r"^<!-- (?P<mark>file|run|output)(?:: (?P<value>[^>]*?))? -->\n+```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- (?:file|run|output)\b", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Shown:
    """A marked block. `line` is that of its first line of text, from 1."""

    mark: str
    value: str
    language: str
    text: str
    line: int


def shown(page: Path) -> Iterator[Shown]:
    """The marked blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        yield Shown(found["mark"], (found["value"] or "").strip(), found["language"], found["text"], line)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUN = [page for page in PAGES if any(block.mark == "run" for block in shown(page))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    (tmp_path / "definitions").symlink_to(ROOT / "definitions")
    printed = ""
    for block in shown(page):
        where = f"{name_of(page)}:{block.line}"
        if block.mark == "file":
            target = tmp_path / block.value
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
        elif block.mark == "run":
            done = execute(block, tmp_path)
            printed = done.stdout
            expected = int(block.value.removeprefix("exit ") or 0)
            assert done.returncode == expected, f"{where} exited with {done.returncode}:\n{printed}"
        else:
            for line in block.text.splitlines():
                assert is_in(line, printed), f"{where}: {line!r} is not in what was printed:\n{printed}"


def execute(block: Shown, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a bash or python block in a folder."""
    programs = {"bash": ["bash", "-euo", "pipefail", "-c", block.text], "python": [sys.executable, "-c", block.text]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    keep = {name: value for name, value in os.environ.items() if not name.startswith("NOA_")}
    return subprocess.run(
        programs[block.language],
        cwd=folder,
        env=keep | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def is_in(line: str, printed: str) -> bool:
    """Whether a shown line was printed; runs of spaces are alike."""
    parts = [r"\s+".join(map(re.escape, part.split())) for part in line.strip().split("…")]
    return re.search(r"[^\n]*".join(parts), printed) is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_mark_of_a_page_stands_before_a_block(page: Path) -> None:
    assert len(list(shown(page))) == len(_MARK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in _LINK.findall(text) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing, f"{name_of(page)} links to what is not there: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:tests|agents|plugins|core|scripts)/[\w./-]+\.(?:py|rs|go))(?:::(\w+))?`",
        page.read_text(encoding="utf-8"),
    )
    missing = [
        f"{path}::{test}" if test else path
        for path, test in named
        if not (ROOT / path).is_file() or (test and f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not missing, f"{name_of(page)} names what does not exist: {missing}"
