"""The agent `deployer`: brings a release into a target folder, makes it current, and goes back."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action
from noa_release_agents import __version__
from noa_release_agents.environment import Environment

__all__ = ["DeployerAgent"]

Target = Annotated[str, Field(min_length=1, description="The target folder.")]
Release = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,99}$", description="Name of the release.")]
Before = Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9.+_-]{0,99})?$", description="Empty is none.")]


class Prepared(TypedDict):
    """Outputs of prepare."""

    target: Annotated[str, Field(description="The target folder, absolute.")]
    active: Annotated[str, Field(description="The release that is current; empty where there is none.")]
    releases: Annotated[list[str], Field(description="All that are there.")]


class Put(TypedDict):
    """Outputs of install."""

    path: Annotated[str, Field(description="Folder of the release.")]
    made: Annotated[bool, Field(description="False where an earlier run brought it.")]
    files: int


class Removed(TypedDict):
    """Outputs of remove."""

    removed: bool
    why: Annotated[str, Field(description="Why it stays; empty where it does not.")]


class Activated(TypedDict):
    """Outputs of activate."""

    active: str
    previous: str


class RolledBack(TypedDict):
    """Outputs of rollback."""

    active: Annotated[str, Field(description="What is current now.")]
    changed: Annotated[bool, Field(description="False where there was nothing to undo.")]


class DeployerAgent(Agent):
    """Deploys. Whatever it does may be done twice."""

    name = "deployer"
    version = __version__

    @action(idempotent=True)
    def prepare(self, target: Target) -> Prepared:
        """Make the target folder, and say what is current in it."""
        environment = Environment(target)
        environment.prepare()
        return {
            "target": str(environment.root),
            "active": environment.active,
            "releases": environment.releases(),
        }

    @action(idempotent=True)
    def install(self, ctx: Context, target: Target, release: Release, wheel: Artifact) -> Put:
        """Unpack the wheel beside the releases that are there. Nothing is current that was not before."""
        found = Environment(target).install(release, ctx.artifacts.path(wheel), ctx.run_id)
        return {"path": str(found.path), "made": found.made, "files": found.files}

    @action(idempotent=True)
    def remove(self, ctx: Context, target: Target, release: Release) -> Removed:
        """Undo install: take away what this run brought. What is current stays, and so does what others brought."""
        why = Environment(target).remove(release, ctx.run_id)
        ctx.info(f"{release} stays: {why}" if why else f"{release} is removed")
        return {"removed": not why, "why": why}

    @action(idempotent=True)
    def activate(self, ctx: Context, target: Target, release: Release, previous: Before) -> Activated:
        """Make a release current in one step, if what is current is still what it is to follow."""
        environment = Environment(target)
        with environment.locked():
            if not environment.folder(release).is_dir():
                raise ActionFailed("RELEASE_NOT_INSTALLED", f"{environment.folder(release)} is not there: install it")
            active = environment.active
            if active not in (release, previous):
                raise ActionFailed(
                    "TARGET_CHANGED",
                    f"'{previous or 'nothing'}' was current in {environment.root} when this release was begun, and now "
                    f"it is '{active or 'nothing'}': somebody else deployed. Begin again from what is there now",
                    details={"expected": previous, "active": active},
                )
            environment.note(
                ctx.run_id, release=release, previous=previous, at_ms=time.time_ns() // 1_000_000, state="active"
            )
            environment.switch(release)
        ctx.info(f"{release} is current; before it was {previous or 'nothing'}")
        return {"active": release, "previous": previous}

    @action(idempotent=True)
    def rollback(self, ctx: Context, target: Target, release: Release, previous: Before) -> RolledBack:
        """Undo activate: what was current before is so again. Where somebody else deployed since, that stays."""
        environment = Environment(target)
        with environment.locked():
            changed = environment.active == release != previous
            if changed:
                environment.switch(previous)
            if environment.noted(ctx.run_id):
                environment.note(ctx.run_id, state="rolled back")
            active = environment.active
        ctx.info(f"{active or 'nothing'} is current")
        return {"active": active, "changed": changed}
