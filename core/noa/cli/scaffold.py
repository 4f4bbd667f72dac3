"""Renders the templates of `noa new`: a name that every language takes, a few placeholders, nothing overwritten."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from noa.errors import InternalError, UsageError

__all__ = ["PackageName", "check_folder", "render", "write"]

LONGEST = 32
"""Characters of a name: folders, crates, modules and the lines that name them stay readable."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_PLACEHOLDER = re.compile(r"@([a-z_]+)@")
_SUFFIX = ".tmpl"

_KEYWORDS: Mapping[str, Collection[str]] = {
    "Python": {*keyword.kwlist, "match", "type"},
    "Rust": {
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
        "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match",
        "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait",
        "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    },
    "Go": {
        "break", "case", "chan", "const", "continue", "default", "defer", "else", "fallthrough", "for", "func", "go",
        "goto", "if", "import", "interface", "map", "package", "range", "return", "select", "struct", "switch", "type",
        "var",
    },
}  # fmt: skip
_TAKEN: Mapping[str, Collection[str]] = {
    "the name of a folder of the package": {"build", "dist", "python", "src", "target", "test", "tests"},
    "a library that the package uses": {
        "noa", "noa-workflow", "noa-agent", "noaagent", "click", "grpc", "hatchling", "maturin", "pluggy", "pydantic",
        "pytest", "yaml", "serde", "tokio", "schemars", "tonic",
    },
    "a crate or a package that comes with Rust or Go": {"alloc", "core", "proc-macro", "std", "main"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackageName:
    """A name that Python, Cargo, Go and definitions take, such as `word-counter`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> PackageName:
        """Check a name.

        Raises:
            UsageError: It is not one; the message says why, and which name near it is.
        """
        if not _NAME.fullmatch(text) or len(text) > LONGEST:
            raise UsageError(
                f"'{text}' cannot name a package: a name has at most {LONGEST} lower-case letters, digits and single "
                f"dashes, and begins with a letter, such as 'word-counter'{_suggestion(text)}",
                name=text,
            )
        module = text.replace("-", "_")
        for language, words in _KEYWORDS.items():
            if module in words:
                raise _taken(text, f"a keyword of {language}")
        if module in sys.stdlib_module_names:
            raise _taken(text, "a module of Python's standard library")
        for what, words in _TAKEN.items():
            if text in words:
                raise _taken(text, what)
        return cls(text)

    @property
    def module(self) -> str:
        """As Python imports it: `word_counter`."""
        return self.text.replace("-", "_")

    @property
    def type_name(self) -> str:
        """As classes begin: `WordCounter`."""
        return "".join(part.capitalize() for part in self.text.split("-"))

    @property
    def values(self) -> dict[str, str]:
        """The placeholders that every template has."""
        return {"name": self.text, "module": self.module, "type": self.type_name}


def render(layers: Sequence[str], values: Mapping[str, str]) -> dict[str, str]:
    """The files of a package: relative path -> text.

    Args:
        layers: Folders of `templates`; a file of a later one replaces that of an earlier one.
        values: What stands for each `@placeholder@`, in texts and in paths.
    """
    root = files("noa.cli") / "templates"
    rendered: dict[str, str] = {}
    for layer in layers:
        for path, text in _templates(root / layer, ""):
            rendered[_fill(path, values, path)] = _fill(text, values, path)
    return dict(sorted(rendered.items()))


def check_folder(folder: Path) -> None:
    """See that a package can be written to a folder.

    Raises:
        UsageError: It holds something already, or is no folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file. Give another NAME, or another folder with --into", folder=str(folder))
    held = sorted(entry.name for entry in folder.iterdir())
    if held:
        shown = ", ".join(held[:3]) + (", …" if len(held) > 3 else "")
        raise UsageError(
            f"folder {folder} is not empty (it holds {shown}); nothing was written. "
            f"Give another NAME, another folder with --into, or empty it",
            folder=str(folder),
        )


def write(rendered: Mapping[str, str], folder: Path) -> None:
    """Write the files of a package.

    Raises:
        UsageError: The folder holds something already, or cannot be written.
    """
    check_folder(folder)
    try:
        for path, text in rendered.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} cannot be written: {error.strerror}", folder=str(folder)
        ) from error


def _templates(folder: Traversable, below: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _templates(entry, f"{below}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield below + entry.name.removesuffix(_SUFFIX), entry.read_text(encoding="utf-8")


def _fill(text: str, values: Mapping[str, str], path: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise InternalError(f"template {path} has the placeholder '{found[0]}', which has no value", template=path)
        return values[found[1]]

    return _PLACEHOLDER.sub(value, text)


def _taken(text: str, what: str) -> UsageError:
    return UsageError(f"'{text}' cannot name a package: it is {what}. Did you mean 'my-{text}'?", name=text)


def _suggestion(text: str) -> str:
    """`. Did you mean 'x'?` with the nearest name that is allowed, or nothing."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text).lower()
    near = re.sub(r"[^a-z0-9]+", "-", apart).strip("-0123456789")[:LONGEST].strip("-")
    return f". Did you mean '{near}'?" if near and near != text else ""
