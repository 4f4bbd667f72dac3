"""`python -m noa_release_agents.serving FOLDER [AGENT]`: the agents of an unpacked release, or one as a sidecar.

A release is a folder with an unpacked wheel; nothing of it is installed. It is asked in a process of its own, so that
several versions can be looked at beside one another.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

from noa.errors import PluginError
from noa.plugin import AgentDeclaration, Registry
from noa.sdk import serve
from noa_release_agents.project import ENTRY_POINTS

__all__ = ["agents_of", "main"]


def agents_of(folder: Path) -> dict[str, AgentDeclaration]:
    """The agents that the plugins of a release declare and that can be started, by name.

    Raises:
        PluginError: It has no plugin, or one that is not its own or cannot be used.
    """
    sys.path.insert(0, str(folder))
    registry = Registry()
    for distribution in importlib.metadata.distributions(path=[str(folder)]):
        for entry in distribution.entry_points.select(group=ENTRY_POINTS):
            plugin = entry.load()
            where = Path(getattr(plugin, "__file__", None) or "").resolve()
            if not where.is_relative_to(folder):
                raise PluginError(f"{entry.value} was found at {where}, not in {folder}", plugin=entry.name)
            registry.register(plugin, entry.name, version=distribution.version)
    found = {name: one for name, one in registry.agents.items() if one.factory is not None or one.command}
    if not found:
        raise PluginError(f"{folder} has no plugin with an agent that could be started", plugin="")
    return found


def main() -> int:
    """List the agents as one line of JSON, or serve one until the engine ends it; the exit status."""
    folder = Path(sys.argv[1]).resolve()
    agents = agents_of(folder)
    if len(sys.argv) == 2:
        # A line of its own, whatever the plugin printed.
        sys.stdout.write("\n" + json.dumps(sorted(agents)) + "\n")
        return 0
    declaration = agents[sys.argv[2]]
    if declaration.factory is None:
        _become(declaration, folder)
    return serve(declaration.factory())


def _become(declaration: AgentDeclaration, folder: Path) -> NoReturn:
    """Go on as the program that the agent is, with the same process id, streams and address."""
    environment = {**os.environ, **declaration.env, "PYTHONPATH": str(folder)}
    os.execvpe(declaration.command[0], declaration.command, environment)


if __name__ == "__main__":
    sys.exit(main())
