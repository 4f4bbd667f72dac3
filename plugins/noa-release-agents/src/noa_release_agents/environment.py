"""A target folder: releases side by side, one of which is current, and the history of what was current when.

    versions/0.1.0-1f2e3d4c/   a release, unpacked; never changed
    current                    symlink to the one that is active; replaced in one step
    history/RUN.json           what a run deployed, what it measured, and what became of it

Whoever changes `current` holds a lock. Everything may be done twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa.sdk import ActionFailed, write_whole
from noa_release_agents.wheel import unpack_wheel

__all__ = ["Environment", "Installed"]

_OWNER = ".release.json"


@dataclass(frozen=True, slots=True)
class Installed:
    """A release in its folder.

    Attributes:
        path: Its folder.
        made: Whether it was not there before.
        files: How many it has.
    """

    path: Path
    made: bool
    files: int


class Environment:
    """A target folder; it need not exist yet."""

    def __init__(self, target: str) -> None:
        self.root = Path(target).absolute()
        self._versions = self.root / "versions"
        self._current = self.root / "current"
        self._history = self.root / "history"

    def prepare(self) -> None:
        """Make the folders, and see that they can be written.

        Raises:
            ActionFailed: TARGET_NOT_WRITABLE.
        """
        try:
            for folder in (self._versions, self._history):
                folder.mkdir(parents=True, exist_ok=True)
            with self.locked():
                pass
        except OSError as error:
            raise ActionFailed("TARGET_NOT_WRITABLE", f"{self.root} cannot be used as a target: {error}") from error
        if self._current.exists() and not self._current.is_symlink():
            raise ActionFailed("TARGET_NOT_WRITABLE", f"{self._current} is no symlink, so something else made it")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes what is current."""
        with open(self.root / ".lock", "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def active(self) -> str:
        """Name of the release that is current; empty where there is none."""
        with suppress(OSError):
            return Path(os.readlink(self._current)).name
        return ""

    def folder(self, release: str) -> Path:
        """Where a release is, or would be."""
        return self._versions / release

    def releases(self) -> list[str]:
        """Names of all that are there."""
        return sorted(path.name for path in self._versions.glob("*") if not path.name.startswith("."))

    def install(self, release: str, wheel: Path, owner: str) -> Installed:
        """Unpack a wheel beside the other releases; whole, or not there.

        Args:
            owner: The run that does it; it alone may remove it.
        """
        path = self.folder(release)
        if path.is_dir():
            kept = json.loads((path / _OWNER).read_text(encoding="utf-8"))
            return Installed(path, kept["run"] == owner, kept["files"])
        temporary = self._versions / f".{release}.tmp-{secrets.token_hex(8)}"
        try:
            files = unpack_wheel(wheel, temporary)
            (temporary / _OWNER).write_text(json.dumps({"run": owner, "files": files}), encoding="utf-8")
            with suppress(FileExistsError):
                os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Installed(path, True, files)

    def remove(self, release: str, owner: str) -> str:
        """Take a release away that this run brought and that is not active; empty, or why it stays."""
        with self.locked():
            path = self.folder(release)
            if not path.is_dir():
                return "it is not there"
            if self.active == release:
                return "it is active"
            if json.loads((path / _OWNER).read_text(encoding="utf-8"))["run"] != owner:
                return "another run brought it"
            gone = self._versions / f".{release}.gone-{secrets.token_hex(8)}"
            os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)
        return ""

    def switch(self, release: str) -> None:
        """Make a release current in one step; an empty name makes none current. Call it locked."""
        if not release:
            self._current.unlink(missing_ok=True)
        else:
            temporary = self.root / f".current.tmp-{secrets.token_hex(8)}"
            os.symlink(Path("versions", release), temporary)
            os.replace(temporary, self._current)
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def note(self, run: str, **facts: Any) -> None:
        """Add facts to what the history says of a run."""
        path = self._history / f"{run}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"run": run}
        text = json.dumps({**known, **facts}, indent=1) + "\n"
        write_whole(path, lambda file: file.write(text.encode()))

    def noted(self, run: str) -> dict[str, Any]:
        """What the history says of a run; empty where it says nothing."""
        path = self._history / f"{run}.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def history(self) -> list[dict[str, Any]]:
        """All that were deployed, the oldest first."""
        found = [json.loads(path.read_text(encoding="utf-8")) for path in self._history.glob("*.json")]
        return sorted(found, key=lambda one: (one.get("at_ms", 0), one["run"]))
