"""Tokens, by which a person acts under another name than that of the system's user: a file of names and hashes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from noa.errors import UsageError

__all__ = ["Token", "TokenStore"]

_PREFIX = "noa_"
_RANDOM_BYTES = 32
_NAME_CHARACTERS = 100
_RESERVED = ("nobody", "somebody", "mode ", "uid ")
"""What the engine calls those whom no person stands behind; a token must not pass for them."""


class Token(msgspec.Struct, frozen=True):
    """What is kept of a token: whose it is, and the SHA-256 of its text. The text itself is kept nowhere."""

    name: str
    sha256: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class TokenStore:
    """The tokens of a state folder, in `tokens.json` with the mode 0600.

    A token has 256 random bits, so its plain SHA-256 is as hard to turn round as to guess the token.
    """

    home: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.home / "tokens.json"

    def tokens(self) -> list[Token]:
        """All of them, oldest first; none where there is no file.

        Raises:
            UsageError: The file cannot be read, or others may write it.
        """
        try:
            with self.path.open("rb") as file:
                self._check_owner(os.fstat(file.fileno()))
                return msgspec.json.decode(file.read(), type=list[Token])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"{self.path} cannot be read: {error}. Delete it to begin anew") from error

    def add(self, name: str, now_ms: int) -> str:
        """Make a token; its text, which nothing can show again.

        Raises:
            UsageError: The name is taken or cannot be one, or the file cannot be written. Nothing was changed.
        """
        self._check_name(name)
        text = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
        with self._locked():
            tokens = self.tokens()
            if any(token.name == name for token in tokens):
                raise UsageError(
                    f"there is a token '{name}' already. To replace it: noa token remove {name}", name=name
                )
            self._write([*tokens, Token(name, _hash(text), now_ms)])
        return text

    def remove(self, name: str) -> None:
        """Make a token worthless.

        Raises:
            UsageError: There is none of this name, or the file cannot be written.
        """
        with self._locked():
            tokens = self.tokens()
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                known = ", ".join(token.name for token in tokens) or "none"
                raise UsageError(f"there is no token '{name}'. Known: {known}", name=name)
            self._write(left)

    def name_of(self, text: str) -> str | None:
        """Whose token this is; None where it is nobody's. Raises UsageError as `tokens`."""
        wanted, found = _hash(text.strip()), None
        for token in self.tokens():  # all of them, in a time that says nothing about which
            if hmac.compare_digest(token.sha256, wanted):
                found = token.name
        return found

    def _check_name(self, name: str) -> None:
        fits = 1 <= len(name) <= _NAME_CHARACTERS and name.isprintable() and name == name.strip() and "," not in name
        if not fits:
            raise UsageError(
                f"token name {name!r}: expected 1 to {_NAME_CHARACTERS} characters, such as ann", name=name
            )
        if name.lower().startswith(_RESERVED):
            raise UsageError(f"token name '{name}': names that begin so are noa's own. Such as: ann", name=name)

    def _check_owner(self, found: os.stat_result) -> None:
        if found.st_mode & 0o022 or found.st_uid not in (os.geteuid(), 0):
            raise UsageError(
                f"{self.path} could have been written by others (mode {found.st_mode & 0o7777:04o}, user "
                f"{found.st_uid}), so no token of it counts. Mend it: chmod 600 {self.path}"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.home, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"state folder {self.home} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, tokens: list[Token]) -> None:
        """Put a new file in the place of the old one; whoever reads meanwhile has one or the other."""
        made = self.home / f".tokens.{os.getpid()}"
        try:
            handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.encode(tokens))
                file.flush()
                os.fsync(file.fileno())
            made.replace(self.path)
        except OSError as error:
            made.unlink(missing_ok=True)
            raise UsageError(f"{self.path} cannot be written: {error.strerror}") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
