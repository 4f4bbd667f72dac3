"""What stands in a package's pyproject.toml, as far as a release needs it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa.sdk import ActionFailed

__all__ = ["ENTRY_POINTS", "Project", "read_project"]

ENTRY_POINTS = "noa.plugins"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z0-9]+(?:[._-][a-z0-9]+)*)?")


@dataclass(frozen=True, slots=True)
class Project:
    """A package.

    Attributes:
        root: Its folder, absolute.
        name: As it is published.
        version: PEP 440, in its normal form.
        backend: What builds it, such as hatchling.build.
        plugins: Its entry points for noa, by name.
    """

    root: Path
    name: str
    version: str
    backend: str
    plugins: dict[str, str]


def read_project(package: str) -> Project:
    """Read the project file of a package.

    Raises:
        ActionFailed: PACKAGE_NOT_FOUND, or PACKAGE_INVALID with all that is wrong.
    """
    root = Path(package).absolute()
    path = root / "pyproject.toml"
    if not path.is_file():
        raise ActionFailed(
            "PACKAGE_NOT_FOUND",
            f"{root} is no package: it has no pyproject.toml. Give the folder of one, as an absolute path or relative "
            "to the folder in which noa was started",
        )
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(path, [str(error)]) from error
    return _checked(root, path, document)


def _checked(root: Path, path: Path, document: dict[str, Any]) -> Project:
    project = _table(document, "project")
    name, version = project.get("name"), project.get("version")
    backend = _table(document, "build-system").get("build-backend")
    plugins = _table(_table(project, "entry-points"), ENTRY_POINTS)
    wrong = []
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        wrong.append(f"project.name is {name!r}: expected letters, digits, '-', '_' and '.'")
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        wrong.append(f"project.version is {version!r}: expected one such as 1.2.0 or 1.2.0rc1")
    if not isinstance(backend, str):
        wrong.append("build-system.build-backend is missing: name what builds it, such as hatchling.build")
    if not plugins:
        wrong.append(f"project.entry-points.'{ENTRY_POINTS}' is missing: noa would find no plugin in it")
    if wrong:
        raise _invalid(path, wrong)
    return Project(root, str(name), str(version), str(backend), {str(k): str(v) for k, v in plugins.items()})


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _invalid(path: Path, wrong: list[str]) -> ActionFailed:
    return ActionFailed("PACKAGE_INVALID", f"{path}: {'; '.join(wrong)}", details={"problems": wrong})
