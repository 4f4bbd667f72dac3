"""Looks at every tracked file for what belongs to a machine or a registry and not to the project.

Not allowed are addresses of package registries, options that name one, and paths of somebody's machine: the project
must install the same way everywhere, with whatever registry its user has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "address of a package registry": re.compile(
        r"\b(?:[a-z0-9-]+\.)*(?:pypi\.org|pythonhosted\.org|crates\.io/api|static\.crates\.io|proxy\.golang\.org)\b"
    ),
    "option that names a registry": re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host"),
    "path of a machine": re.compile(r"(?<![\w.$}~/-])/(?:work|root|home|Users)/[\w.-]+"),
    "address in a private network": re.compile(r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}:\d+"),
}

ALLOWED_IN = {"scripts/check_tracked.py"}
"""This file, which has to name what it looks for."""


def tracked() -> list[str]:
    """Names of all tracked files; empty outside of a git checkout."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return []
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def findings(name: str) -> list[str]:
    """What is wrong with a file, each as `file:line: what: text`. Files that are not text are fine."""
    try:
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    return [
        f"{name}:{number}: {what}: {found[0]}"
        for number, line in enumerate(lines, 1)
        for what, pattern in FORBIDDEN.items()
        if (found := pattern.search(line))
    ]


def main() -> int:
    """The exit status: 1 where something was found."""
    names = [name for name in tracked() if name not in ALLOWED_IN]
    found = [finding for name in names for finding in findings(name)]
    print("\n".join(found) if found else f"{len(names)} tracked files name no registry and no machine")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
