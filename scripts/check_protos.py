"""Lints the protos and compares them with those of the last release: what is out there must keep working.

Compared is the newest `v*` tag in the history, else the first commit that has the contract. Outside of a git checkout
only the lint runs, and that is said.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = "protos/noa/agent/v1/agent_service.proto"


def git(*arguments: str) -> str:
    """Output of a git command, without its last newline; empty where it fails or git is missing."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def baseline() -> str:
    """Commit whose protos must not be broken; empty where there is none."""
    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*")
    if tag and git("ls-tree", "--name-only", tag, "--", CONTRACT):
        return tag
    added = git("log", "--diff-filter=A", "--format=%H", "--", CONTRACT).split()
    return added[-1] if added else ""


def main() -> int:
    """Exit status: 0 where the protos are well formed and break nobody."""
    status = subprocess.run(["buf", "lint"], cwd=ROOT, check=False).returncode
    base = baseline()
    if not base:
        print("no commit with the contract in this history: compared with nothing")
        return status
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", base, "protos", "buf.yaml"], cwd=ROOT, stdout=subprocess.PIPE, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        breaking = subprocess.run(["buf", "breaking", "--against", folder], cwd=ROOT, check=False).returncode
    print(f"compared with {base[:12]}: {'breaking changes' if breaking else 'nothing breaks'}")
    return status or breaking


if __name__ == "__main__":
    sys.exit(main())
