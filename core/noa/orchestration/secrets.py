"""Secrets: looked up by name when a run needs them, and masked wherever their values turn up again."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from noa.errors import SecretError

__all__ = ["MASK", "SECRETS_VARIABLE", "VARIABLE_PREFIX", "SecretVault"]

VARIABLE_PREFIX = "NOA_SECRET_"
SECRETS_VARIABLE = "NOA_SECRETS_DIR"
MASK = "***"

_LEAST = 4
"""Characters of the shortest secret: a shorter one could not be masked without masking ordinary text."""

_LINE_LEAST = 8
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
        return value

    def mask(self, text: str) -> str:
        """Text in which `***` stands for every secret that was handed out so far."""
        return text if self._pattern is None else self._pattern.sub(MASK, text)

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
        return value

    def _look_up(self, name: str) -> str:
        variable = VARIABLE_PREFIX + name
        given = self._environment.get(variable)
        if given is not None:
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


def _needles(value: str) -> set[str]:
    """How a secret may look when it turns up: as it is, escaped in JSON or a URL, in base64, or line by line."""
    found = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe="")}
    found.add(base64.b64encode(value.encode()).decode())
    found.update(line.strip() for line in value.splitlines() if len(line.strip()) >= _LINE_LEAST)
    return found
