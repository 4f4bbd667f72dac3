"""Secrets: looked up by name when a run needs them, and masked wherever their values turn up again."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from noa.errors import SecretError

__all__ = ["MASK", "SECRETS_VARIABLE", "VARIABLE_PREFIX", "SecretVault"]

VARIABLE_PREFIX = "NOA_SECRET_"
SECRETS_VARIABLE = "NOA_SECRETS_DIR"
MASK = "***"

_LEAST = 4
"""Characters of the shortest secret: a shorter one could not be masked without masking ordinary text."""

_LINE_LEAST = 8
_CUT_LEAST = 4
"""Characters of the beginning or end of a secret that are masked where text was cut short."""

_CUT_MOST = 256

_REACH = 4096
"""How far back the beginning of a secret is looked for at the end of a text."""

_LOGGERS = ("noa.engine", "noa.monitoring", "noa.orchestration", "noa.plugin", "noa.sdk")
_CUT = re.compile(r"\.\.\.|…")
_LIMIT_BYTES = 64 * 1024


class SecretVault:
    """The secrets of this process.

    A secret NAME is the environment variable `NOA_SECRET_NAME` or, where that is not set, the file `NAME` in the folder
    (as container platforms mount them); one newline at the file's end does not count. A file is read anew for each
    attempt, so that a rotated secret is used at once; former values stay masked.

    Args:
        folder: Of the files; None looks at variables only.
        environment: The process's own unless a test says else.
    """

    def __init__(self, folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self._folder = folder
        self._environment = environment
        self._values: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self._needles: set[str] = set()
        self._first: re.Pattern[str] | None = None

    def require(self, names: Collection[str]) -> None:
        """See that each of these can be had, before work begins that needs them.

        Raises:
            SecretError: Some cannot; all of them are named.
        """
        wrong = []
        for name in names:
            try:
                self.value(name)
            except SecretError as error:
                wrong.append(error.message)
        if wrong:
            raise SecretError("\n".join(wrong), secrets=sorted(names))

    def value(self, name: str) -> str:
        """A secret now; from here on it is masked.

        Raises:
            SecretError: It is not set, cannot be read, or is too short to be masked.
        """
        value = self._look_up(name)
        if self._values.get(name) != value:
            if len(value) < _LEAST:
                raise SecretError(
                    f"secret '{name}' has {len(value)} characters, at least {_LEAST} are needed: a shorter one cannot "
                    "be masked in logs and events",
                    secret=name,
                )
            self._values[name] = value
            self._needles |= _needles(value)
            self._pattern = re.compile("|".join(re.escape(n) for n in sorted(self._needles, key=len, reverse=True)))
            self._first = re.compile("|".join(re.escape(first) for first in sorted({n[0] for n in self._needles})))
        return value

    def mask(self, text: str) -> str:
        """Text in which `***` stands for every secret that was handed out so far; also for one that was cut short,
        such as `begin...` in an error about a value."""
        if self._pattern is None:
            return text
        text = self._pattern.sub(MASK, text)
        return self._mask_cut(text) if "..." in text or "…" in text else text

    def mask_piece(self, text: str) -> tuple[str, str]:
        """A piece of text that goes on, masked, and its end where a secret may begin that the next piece ends.

        The end is not masked: put it before the next piece, or `mask` it where there is none.
        """
        if self._pattern is None:
            return text, ""
        since = 0
        for found in self._pattern.finditer(text):
            since = found.end()
        start = self._begun(text, since, len(text))
        return (self.mask(text), "") if start is None else (self.mask(text[:start]), text[start:])

    @contextlib.contextmanager
    def masking_logs(self) -> Iterator[None]:
        """Keep secrets out of what noa itself tells Python's logging, such as the traceback of an agent's error."""
        masking = _LogFilter(self)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(masking)
        try:
            yield
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(masking)

    def mask_json(self, value: Any) -> Any:
        """JSON masked in all of its texts and keys; the same object where no secret was handed out so far."""
        return value if self._pattern is None else self._masked(value)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, Mapping):
            return {self._masked(key): self._masked(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(part) for part in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        try:
            plain = msgspec.to_builtins(value)  # as the journal would write it, such as a dataclass
        except (TypeError, ValueError, RecursionError):
            return value
        return self._masked(plain) if isinstance(plain, str | Mapping | list) else value

    def _mask_cut(self, text: str) -> str:
        made, done, since = "", 0, 0
        for cut in _CUT.finditer(text):
            start = self._begun(text, since, cut.start(), _CUT_LEAST)
            since = cut.end()
            if start is None:
                continue
            made += text[done:start] + MASK + cut[0]
            if (end := self._ended(text[since : since + _CUT_MOST])) >= _CUT_LEAST:
                made += MASK
                since += end
            done = since
        return made + text[done:]

    def _begun(self, text: str, since: int, end: int, least: int = 1) -> int | None:
        """Where the beginning of a secret stands that reaches to `end`, at least so many characters of it."""
        if self._first is None:
            return None
        for found in self._first.finditer(text, max(since, end - _REACH), end):
            start = found.start()
            if end - start < least:
                return None
            part = text[start:end]
            if any(len(needle) > len(part) and needle.startswith(part) for needle in self._needles):
                return start
        return None

    def _ended(self, text: str) -> int:
        """How many characters text begins with that are the end of a secret."""
        for length in range(len(text), 0, -1):
            if any(len(needle) > length and needle.endswith(text[:length]) for needle in self._needles):
                return length
        return 0

    def _look_up(self, name: str) -> str:
        variable = VARIABLE_PREFIX + name
        given = self._environment.get(variable)
        if given is not None:
            if not given.isprintable() and any("\ud800" <= character <= "\udfff" for character in given):
                raise SecretError(
                    f"secret '{name}': the environment variable {variable} is not UTF-8 text; encode it, as by base64",
                    secret=name,
                )
            return given
        if self._folder is None:
            raise SecretError(
                f"secret '{name}' is not set: set the environment variable {variable}, or put it into a file {name} in "
                f"the folder that {SECRETS_VARIABLE} names",
                secret=name,
            )
        path = self._folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise SecretError(
                f"secret '{name}' is not set: neither the environment variable {variable} nor the file {path} exists",
                secret=name,
            ) from None
        except OSError as error:
            raise SecretError(f"secret '{name}': {path} cannot be read: {error.strerror}", secret=name) from None
        if len(data) > _LIMIT_BYTES:
            raise SecretError(f"secret '{name}': {path} has {len(data):,} bytes, at most {_LIMIT_BYTES:,} are taken",
                              secret=name)  # fmt: skip
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise SecretError(
                f"secret '{name}': {path} is not UTF-8 text; encode it, as by base64", secret=name
            ) from None
        return text.removesuffix("\n").removesuffix("\r")


class _LogFilter(logging.Filter):
    """Masks the message and the traceback of records."""

    def __init__(self, vault: SecretVault) -> None:
        super().__init__()
        self._vault = vault

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # logging itself tells whose call is wrong
            return True
        masked = self._vault.mask(text)
        if masked != text:
            record.msg, record.args = masked, ()
        if record.exc_info:
            traceback = record.exc_text or logging.Formatter().formatException(record.exc_info)
            masked = self._vault.mask(traceback)
            if masked != traceback:
                record.exc_text, record.exc_info = masked, None
        return True


def _needles(value: str) -> set[str]:
    """How a secret may look when it turns up: as it is, escaped in JSON, Python or a URL, in base64, line by line."""
    found = {
        value,
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
    }
    found.add(base64.b64encode(value.encode()).decode())
    found.update(line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE_LEAST)
    return found
