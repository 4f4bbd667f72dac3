"""The agent `worker`: judges what a model said about files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import Agent, Artifact, Context, action
from noa_standard_agents import __version__
from noa_standard_agents.findings import find, summarize
from noa_standard_agents.rows import joined_rows

__all__ = ["WorkerAgent"]


class Judged(TypedDict):
    """Outputs of post_processing."""

    report: Annotated[dict[str, Any], Field(description="Counts by type, group and size; confidence; duplicates.")]
    findings: Annotated[
        list[dict[str, Any]],
        Field(description="Objects of severity, kind, paths, message and details, the worst first."),
    ]


class WorkerAgent(Agent):
    """Judges predictions."""

    name = "worker"
    version = __version__

    @action(idempotent=True)
    def post_processing(
        self,
        ctx: Context,
        predictions: Annotated[Artifact, Field(description="Arrow file of labels.")],
        files: Annotated[Artifact, Field(description="Arrow file of the files that the labels are about.")],
        low_confidence: Annotated[float, Field(ge=0, le=1, description="Scores below it are doubtful.")] = 0.5,
    ) -> Judged:
        """Count types and sizes, and find what does not fit: disguises, wrong extensions, duplicates, doubts."""
        rows = joined_rows(ctx, files, predictions)
        ctx.progress(0.5, done=len(rows), total=len(rows), unit="files", message="judging")
        ctx.check_cancelled()
        findings = find(rows, low_confidence)
        ctx.progress(1.0, message=f"{len(findings)} findings")
        return {"report": summarize(rows, low_confidence), "findings": findings}
