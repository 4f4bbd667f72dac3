"""`noa new`: a package to begin with, that builds, is tested, conforms, and is found by noa once it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from noa.cli.command import NoaCommand

if TYPE_CHECKING:
    from noa.cli.scaffold import PackageName

__all__ = ["command"]

_INTO = click.option(
    "--into", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the package. Default: ./NAME."
)
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "agent": ("agent", ("agents",)),
    "stage": ("stage type", ("stage_types",)),
    "recovery": ("recovery strategy", ("recovery_strategies",)),
    "alert": ("alert channel", ("alert_channels", "agents")),
}
"""What a plugin adds -> what people call it, and where the registry keeps it; an alert channel brings an agent too."""

_ONE = {
    "agents": "an agent",
    "stage_types": "a stage type",
    "recovery_strategies": "a recovery strategy",
    "alert_channels": "an alert channel",
}
_COUNT_WORDS = ("count-words", "count-words-python")
_AGENT_LAYERS = {
    "python": ("python-package", *_COUNT_WORDS, "agent-python"),
    "rust": ("native-package", "count-words", "agent-rust"),
    "go": ("native-package", "count-words", "agent-go"),
}
"""Folders of `templates` that make up a package; a file of a later one replaces that of an earlier one."""

_INSTALL, _TEST, _RUN = "pip install '.[test]'", "pytest", "noa run workflow.yaml"
_EXAMPLE = f"{_RUN} --plugin example_agent.py"


@click.group(name="new", short_help="Begin a package of your own: an agent or a plugin.")
def command() -> None:
    """Write a package to begin with: it builds, its tests pass, `pip install` is all that noa needs to find it, and a
    small definition beside it uses it at once.

    \b
    An agent is a process of its own and does actions, in Python, Rust or Go:
      noa new agent word-counter --lang rust
    A plugin is Python in the process of noa:
      noa new plugin word-counter                     an agent in the same process
      noa new plugin each-twice --kind stage          a type of stages
      noa new plugin patience --kind recovery         an answer to failed tasks
      noa new plugin log-file --kind alert            a place where alerts go

    \b
    Examples:
      noa new agent word-counter --lang python
      noa new plugin each-twice --kind stage --into plugins/each-twice

    NAME is what definitions say, and names the package, the module (with _ for -), and the program.
    """


@command.command(cls=NoaCommand, name="agent", short_help="An agent: a process of its own, in Python, Rust or Go.")
@click.argument("name", metavar="NAME")
@click.option("--lang", type=click.Choice(["python", "rust", "go"]), default="python", show_default=True,
              help="Language that it is written in.")  # fmt: skip
@_INTO
@click.option("--sdk", metavar="PATH", type=click.Path(path_type=Path),
              help="Folder of the Rust crate or the Go module for agents, or a checkout of noa that has it. "
                   "Default: the checkout that this noa runs from, else the published version.")  # fmt: skip
def agent(*, name: str, lang: str, into: Path | None, sdk: Path | None) -> None:
    """Write the package of an agent NAME with one action, count_words, that says how far it is.

    noa starts the agent as a process of its own when a task first needs it, and ends it. The package has the agent, its
    test, the declaration that noa finds, and workflow.yaml, a definition that uses it. `pip install .` builds it: with
    cargo (by maturin) for Rust, with go (by hatchling) for Go.

    \b
    Examples:
      noa new agent word-counter
      noa new agent word-counter --lang rust
      noa new agent word-counter --lang go --sdk ~/src/noa --into agents/word-counter
    """
    from noa.cli.sdks import sdk_values

    checked = _checked(name, "agent")
    values, extra = sdk_values(lang, sdk)
    folder = _make(checked, _AGENT_LAYERS[lang], {"what": "agent", **values}, extra, into)
    if lang == "python":
        _show_next(folder, _INSTALL, _TEST, _RUN)
    else:
        build = "pip install ." if extra or lang == "rust" else "go mod tidy && pip install ."
        _show_next(folder, build, f"noa agent check {name}", _RUN)


@command.command(cls=NoaCommand, name="plugin", short_help="A plugin: Python in the process of noa.")
@click.argument("name", metavar="NAME")
@click.option("--kind", type=click.Choice(list(_KINDS)), default="agent", show_default=True,
              help="What it adds: an agent in the same process, a stage type, a recovery strategy, "
                   "an alert channel.")  # fmt: skip
@_INTO
def plugin(*, name: str, kind: str, into: Path | None) -> None:
    """Write the package of a plugin that adds one thing called NAME.

    The package has the thing, its test, the hook that noa finds, and workflow.yaml, a definition that uses it.

    \b
    Examples:
      noa new plugin word-counter
      noa new plugin each-twice --kind stage
      noa new plugin patience --kind recovery
      noa new plugin log-file --kind alert
    """
    from noa.cli.sdks import sdk_values

    values, extra = sdk_values("python", None)
    layers = ("python-package", *(_COUNT_WORDS if kind == "agent" else ()), f"plugin-{kind}")
    folder = _make(_checked(name, kind), layers, {"what": _KINDS[kind][0], **values}, extra, into)
    _show_next(folder, _INSTALL, _TEST, _RUN if kind in {"agent", "alert"} else _EXAMPLE)


def _checked(text: str, kind: str) -> PackageName:
    """A name that all languages take and that no other plugin has."""
    from noa.cli.scaffold import PackageName
    from noa.errors import UsageError
    from noa.plugin import Registry

    name = PackageName.parse(text)
    registry = Registry.load()
    plugins = {info.name: info.origin for info in registry.plugins()}
    if plugins.get(text) == text:
        return name  # this very package is installed and is begun anew
    places = _KINDS[kind][1]
    what = next((place for place in places if text in getattr(registry, place)), None)
    if what is not None:
        raise UsageError(f"{_ONE[what]} named '{text}' is there already; noa can load only one. "
                         f"Did you mean 'my-{text}'?", name=text)  # fmt: skip
    if text in plugins:
        raise UsageError(f"a plugin named '{text}' is installed already, by {plugins[text]}. "
                         f"Did you mean 'my-{text}'?", name=text)  # fmt: skip
    return name


def _make(
    name: PackageName, layers: Sequence[str], values: Mapping[str, str], extra: Mapping[str, str], into: Path | None
) -> Path:
    """Write the package and list its files."""
    from noa.cli.scaffold import render, write

    folder = into or Path(name.text)
    rendered = render(layers, {**name.values, **values}) | dict(extra)
    write(rendered, folder)
    click.echo(f"{folder}:")
    for path in sorted(rendered):
        click.echo(f"  {path}")
    return folder


def _show_next(folder: Path, install: str, second: str, third: str) -> None:
    import shlex

    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"\nNext:\n  {enter}{install}\n  {second}\n  {third}")
