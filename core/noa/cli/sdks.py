"""Where a package of `noa new agent` finds the SDK of its language: in a folder, or as the published version."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from noa.errors import UsageError

__all__ = ["CHECKOUT", "GO_MODULE", "sdk_values"]

GO_MODULE = "github.com/noa-workflow/noa/agents/go"
CHECKOUT = Path(__file__).resolve().parents[3]
"""Where the SDKs stand if this noa runs from a checkout."""

_GO_VERSION = "1.26.0"
_MARKS = {
    "rust": ("Cargo.toml", re.compile(r'(?m)^name = "noa-agent"$'), ("", "noa-agent", "agents/rust/noa-agent")),
    "go": ("go.mod", re.compile(rf"(?m)^module {re.escape(GO_MODULE)}$"), ("", "agents/go")),
}  # fmt: skip
"""Language -> the file and the line by which its SDK is known, and where it stands in a checkout."""


def sdk_values(lang: str, given: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """What a template needs to say of the SDK, and files to write beside it: locked versions of what the SDK uses.

    Args:
        lang: "python", "rust" or "go".
        given: Folder of the SDK or of a checkout of noa; None looks whether noa runs from one.

    Raises:
        UsageError: There is no SDK of this language in the given folder.
    """
    published = version("noa-workflow")
    values = {"noa_version": published}
    if lang == "python":
        if given is not None:
            raise UsageError("--sdk is for --lang rust and go: the SDK for Python is part of noa itself")
        return values, {}
    folder = _find(lang, given) if given is not None else _found(lang, CHECKOUT)
    values["sdk_note"] = _note(lang, folder, published)
    if lang == "rust":
        values["sdk"] = f"{{ path = {_toml(folder)} }}" if folder else f'"{published}"'
        return values, _lock(folder and folder.parent / "Cargo.lock", "Cargo.lock")
    values |= _go_values(folder, published)
    return values, _lock(folder and folder / "go.sum", "go.sum")


def _find(lang: str, given: Path) -> Path:
    folder = _found(lang, given)
    if folder is None:
        mark, _, places = _MARKS[lang]
        looked = ", ".join(str(given / place / mark) for place in places)
        what = "crate noa-agent" if lang == "rust" else f"module {GO_MODULE}"
        raise UsageError(f"--sdk {given}: the {what} is not there (looked at {looked}). Name its folder, or a checkout "
                         f"of noa", folder=str(given))  # fmt: skip
    return folder


def _found(lang: str, base: Path) -> Path | None:
    mark, line, places = _MARKS[lang]
    for place in places:
        file = base / place / mark
        if file.is_file() and line.search(file.read_text(encoding="utf-8")):
            return file.parent.resolve()
    return None


def _note(lang: str, folder: Path | None, published: str) -> str:
    file = "Cargo.toml" if lang == "rust" else "go.mod"
    what = "The crate `noa-agent`" if lang == "rust" else f"The module `{GO_MODULE}`"
    if folder is None:
        return (
            f"{what} is taken in its version {published}, that of the noa which wrote this package. Where your "
            f"registry does not have it, write the package anew with `--sdk PATH`, PATH being a checkout of noa."
        )
    return f"{what} is taken from a folder that `{file}` names; change that line when the folder moves."


def _go_values(folder: Path | None, published: str) -> dict[str, str]:
    required = f"require {GO_MODULE} v{published}"
    if folder is None:
        return {"go_version": _GO_VERSION, "go_requirements": required}
    module = (folder / "go.mod").read_text(encoding="utf-8")
    go = re.search(r"^go (\S+)$", module, re.MULTILINE)
    modules = re.findall(r"^\s+(\S+\.\S+/\S+ v\S+)", module, re.MULTILINE)
    indirect = "".join(f"\t{one} // indirect\n" for one in sorted(modules))
    replaced = f"replace {GO_MODULE} => {_go_path(folder)}"
    return {
        "go_version": go[1] if go else _GO_VERSION,
        "go_requirements": f"{required}\n\nrequire (\n{indirect})\n\n{replaced}",
    }


def _lock(file: Path | None, name: str) -> dict[str, str]:
    """The SDK's locked versions, which the package begins with, so that it builds without asking anybody."""
    return {name: file.read_text(encoding="utf-8")} if file and file.is_file() else {}


def _toml(folder: Path) -> str:
    text = str(folder).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _go_path(folder: Path) -> str:
    return f'"{folder}"' if re.search(r"\s", str(folder)) else str(folder)
