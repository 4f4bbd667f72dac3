"""`python -m noa.sdk MODULE:CLASS`: serve an agent class as a sidecar, or with `--listen` as a remote agent."""

from __future__ import annotations

import importlib
import sys

from noa.errors import NoaError, UsageError
from noa.sdk.agent import Agent
from noa.sdk.launch import EXIT_USAGE, leave
from noa.sdk.remote_serve import serve_remote
from noa.sdk.server import serve

__all__ = ["load_agent"]


def load_agent(reference: str) -> Agent:
    """The agent object of `MODULE:CLASS`.

    Raises:
        UsageError: It is not of that form, there is no such module or class, or the class is no agent.
    """
    module_name, _, class_name = reference.partition(":")
    if not module_name or not class_name:
        raise UsageError(f"expected MODULE:CLASS such as noa.sdk.echo:EchoAgent, got {reference!r}")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise UsageError(f"module '{module_name}' cannot be imported: {error}") from error
    except AttributeError as error:
        raise UsageError(f"module '{module_name}' has no class '{class_name}'") from error
    if not (isinstance(kind, type) and issubclass(kind, Agent)):
        raise UsageError(f"{reference} is not a subclass of noa.sdk.Agent")
    return kind()


def main(arguments: list[str]) -> int:
    """Serve the agent that the arguments name; the exit status."""
    try:
        if not arguments or arguments[0].startswith("-"):
            raise UsageError("usage: python -m noa.sdk MODULE:CLASS [--listen HOST:PORT …]")
        agent = load_agent(arguments[0])
        return serve_remote(agent, arguments[1:]) if arguments[1:] else serve(agent)
    except NoaError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201 - a program's own message
        return EXIT_USAGE


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
