"""The agent `deployment`: the master of a job that many workers share. It looks at a folder, cuts the work into shards,
gathers what the workers did, and proves it by doing it again alone."""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO

from pydantic import Field
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action, write_whole
from noa_standard_agents import __version__
from noa_standard_agents.folder import EXCLUDED, Skipped, Walk, shown
from noa_standard_agents.preprocessing import open_folder

__all__ = ["DeploymentAgent"]

_CHUNK_BYTES = 1 << 20
_FILE_COST_BYTES = 4096
"""What opening a file costs beside its bytes, so that a thousand empty files are work as well."""
_SHARDS_PER_REPLICA = 4
_SHARD_FILES = 500
_SHARD_TEXT_BYTES = 128 * 1024
"""A shard's list of files stays below what a message carries inline."""
_SHOWN = 100
_JSON = "application/json"


class LeftOut(TypedDict):
    """Something that is not part of the work, and why."""

    path: str
    reason: str


class Surveyed(TypedDict):
    """Outputs of survey."""

    root: Annotated[str, Field(description="The folder, absolute.")]
    files: Annotated[Artifact, Field(description="JSON list of [path below root, size in bytes].")]
    count: int
    total_bytes: int
    skipped: Annotated[list[LeftOut], Field(description="The first 100 that are left out, and why.")]
    skipped_count: int


class Shard(TypedDict):
    """A piece of the work."""

    number: Annotated[int, Field(description="From 0.")]
    worker: Annotated[str, Field(description="The agent that is to do it.")]
    files: Annotated[Artifact, Field(description="JSON list of {path, size}.")]
    count: int
    bytes: int


class Distributed(TypedDict):
    """Outputs of distribute."""

    shards: list[Shard]
    imbalance: Annotated[float, Field(description="Largest shard by the mean, less one; 0 where all are equal.")]


class Opened(TypedDict):
    """Outputs of open_shard."""

    files: list[dict[str, Any]]


class Share(TypedDict):
    """What the workers of one kind did."""

    shards: int
    files: int
    bytes_in: int
    pids: list[int]


class Collected(TypedDict):
    """Outputs of collect."""

    results: Annotated[Artifact, Field(description="JSON list of {path, size_bytes, sha256, gzip_path, gzip_bytes}.")]
    files: int
    bytes_in: int
    bytes_out: Annotated[int, Field(description="Of the compressed contents; equal files count once.")]
    skipped: Annotated[list[LeftOut], Field(description="The first 100 that no worker could read, and why.")]
    skipped_count: int
    workers: Annotated[dict[str, Share], Field(description="By what a worker calls itself.")]
    manifest: Annotated[str, Field(description="The results for a person, as a file URI.")]


class Verified(TypedDict):
    """Outputs of verify."""

    verified: bool
    files: int
    bytes: int


class DeploymentAgent(Agent):
    """Plans, gathers and proves the work of a fleet."""

    name = "deployment"
    version = __version__

    @action(idempotent=True)
    def survey(
        self,
        ctx: Context,
        path: Annotated[str, Field(description="Folder whose files are the work.")] = ".",
        max_files: Annotated[int | None, Field(ge=0, description="Take the first files only, in order.")] = None,
        exclude: Annotated[list[str] | None, Field(description="Names of folders to pass over.")] = None,
    ) -> Surveyed:
        """List the files of a folder and their sizes."""
        root = open_folder(path)
        names = frozenset(os.fsencode(name) for name in (EXCLUDED if exclude is None else exclude))
        left_out: list[Skipped] = []
        files: list[tuple[str, int]] = []
        walk = Walk(os.fsencode(root), exclude=names)
        for found in walk.files(left_out.append) if max_files != 0 else ():
            ctx.check_cancelled()
            try:
                files.append((found.decode(), os.stat(os.path.join(walk.root, found)).st_size))
            except UnicodeDecodeError:
                left_out.append(Skipped(found, "the name is not UTF-8"))
            except OSError as error:
                left_out.append(Skipped(found, error.strerror or type(error).__name__))
            if len(files) == max_files:
                break
        ctx.progress(1.0, done=len(files), total=len(files), unit="files", message="listed")
        return {
            "root": shown(walk.root),
            "files": _artifact(ctx, files),
            "count": len(files),
            "total_bytes": sum(size for _, size in files),
            "skipped": [{"path": shown(one.path), "reason": one.reason} for one in left_out[:_SHOWN]],
            "skipped_count": len(left_out),
        }

    @action(idempotent=True)
    def distribute(
        self,
        ctx: Context,
        files: Annotated[Artifact, Field(description="What survey listed.")],
        workers: Annotated[list[str], Field(min_length=1, description="Agents that take turns.")],
        replicas: Annotated[int, Field(ge=1, description="How many of each there are.")] = 1,
    ) -> Distributed:
        """Cut the files into shards of about equal work, dealt out to the workers in turn."""
        listed: list[tuple[str, int]] = json.loads(ctx.artifacts.read(files))
        wanted = len(workers) * replicas * _SHARDS_PER_REPLICA
        shards = [piece for shard in _balanced(listed, wanted) for piece in _cut(shard)]
        dealt: list[Shard] = [
            {
                "number": number,
                "worker": workers[number % len(workers)],
                "files": _artifact(ctx, [{"path": path, "size": size} for path, size in shard]),
                "count": len(shard),
                "bytes": sum(size for _, size in shard),
            }
            for number, shard in enumerate(shards)
        ]
        costs = [sum(map(_cost, shard)) for shard in shards]
        imbalance = max(costs) * len(costs) / sum(costs) - 1 if costs else 0.0
        return {"shards": dealt, "imbalance": round(imbalance, 4)}

    @action(idempotent=True)
    def open_shard(self, ctx: Context, files: Artifact) -> Opened:
        """The files of a shard, as a worker takes them."""
        return {"files": json.loads(ctx.artifacts.read(files))}

    @action(idempotent=True)
    def collect(
        self,
        ctx: Context,
        results: Annotated[
            list[list[dict[str, Any] | None]],
            Field(description="What compress_files gave, a list for each kind of worker; null where it had no part."),
        ],
        expected: Annotated[int | None, Field(ge=0, description="How many files there must be.")] = None,
    ) -> Collected:
        """Merge what the workers gave, and write it as manifest.json for a person."""
        given = [result for kind in results for result in kind if result is not None]
        files: list[dict[str, Any]] = []
        skipped: list[LeftOut] = []
        workers: dict[str, Share] = {}
        for result in given:
            done, left_out = _listed(ctx, result.get("files")), _listed(ctx, result.get("skipped"))
            files += done
            skipped += [{"path": one["path"], "reason": one["reason"]} for one in left_out]
            share = workers.setdefault(result["worker"], {"shards": 0, "files": 0, "bytes_in": 0, "pids": []})
            share["shards"] += 1
            share["files"] += len(done)
            share["bytes_in"] += sum(one["size_bytes"] for one in done)
            share["pids"] = sorted({*share["pids"], result["pid"]})
        if expected is not None and len(files) + len(skipped) != expected:
            raise ActionFailed(
                "RESULTS_INCOMPLETE",
                f"{expected} files were given out, and the workers told of {len(files) + len(skipped)}",
                details={"expected": expected, "files": len(files), "skipped": len(skipped)},
            )
        files.sort(key=lambda one: one["path"])
        _settle_equal_files(files)
        sizes = {one["gzip_path"]: one["gzip_bytes"] for one in files}
        totals = {
            "files": len(files),
            "bytes_in": sum(o["size_bytes"] for o in files),
            "bytes_out": sum(sizes.values()),
        }
        document = json.dumps({**totals, "skipped": skipped, "results": files}, indent=1) + "\n"
        path = _manifest(ctx)
        write_whole(path, lambda file: _write(file, document))
        return {
            "results": _artifact(ctx, files),
            "files": totals["files"],
            "bytes_in": totals["bytes_in"],
            "bytes_out": totals["bytes_out"],
            "skipped": skipped[:_SHOWN],
            "skipped_count": len(skipped),
            "workers": workers,
            "manifest": path.as_uri(),
        }

    @action(idempotent=True)
    def verify(
        self,
        ctx: Context,
        root: Annotated[str, Field(description="Folder of the files.")],
        results: Annotated[Artifact, Field(description="What collect merged.")],
    ) -> Verified:
        """Hash every file and unpack every result, alone in this process, and compare."""
        listed: list[dict[str, Any]] = json.loads(ctx.artifacts.read(results))
        differences: list[str] = []
        unpacked: dict[str, tuple[str, int]] = {}
        total = 0
        for number, one in enumerate(listed, 1):
            claimed = (one["sha256"], one["size_bytes"])
            if (wrong := _difference(ctx, Path(root, one["path"]), one["gzip_path"], claimed, unpacked)) is not None:
                differences.append(f"{one['path']}: {wrong}")
            total += one["size_bytes"]
            ctx.progress(done=number, total=len(listed), unit="files", message="compared")
        if differences:
            raise ActionFailed(
                "RESULTS_DIFFER",
                f"{len(differences)} of {len(listed)} results are not what one process gets: {differences[0]}. "
                "Files that change while the work goes on give this too",
                details={"differences": differences[:_SHOWN]},
            )
        return {"verified": True, "files": len(listed), "bytes": total}


def _balanced(files: list[tuple[str, int]], shards: int) -> list[list[tuple[str, int]]]:
    """The files in at most so many shards: the largest first, each to the shard that has least (Graham's rule)."""
    found: list[list[tuple[str, int]]] = [[] for _ in range(min(shards, len(files)))]
    loads = [(0, number) for number in range(len(found))]
    for one in sorted(files, key=lambda file: (-file[1], file[0])):
        load, number = heapq.heappop(loads)
        found[number].append(one)
        heapq.heappush(loads, (load + _cost(one), number))
    return found


def _cut(shard: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """The shard in pieces whose lists are short enough to travel inline."""
    piece: list[tuple[str, int]] = []
    text_bytes = 0
    for one in shard:
        length = len(json.dumps(one[0])) + 40
        if piece and (len(piece) == _SHARD_FILES or text_bytes + length > _SHARD_TEXT_BYTES):
            yield piece
            piece, text_bytes = [], 0
        piece.append(one)
        text_bytes += length
    if piece:
        yield piece


def _cost(file: tuple[str, int]) -> int:
    return file[1] + _FILE_COST_BYTES


def _artifact(ctx: Context, value: Any) -> Artifact:
    return ctx.artifacts.create(json.dumps(value).encode(), _JSON)


def _listed(ctx: Context, value: Any) -> list[dict[str, Any]]:
    """A list that a worker gave: a large one was put into the artifact store on its way."""
    artifact = Artifact.from_json(value)
    if artifact is not None:
        value = json.loads(ctx.artifacts.read(artifact))
    return list(value or [])


def _settle_equal_files(files: list[dict[str, Any]]) -> None:
    """Two workers that meet the same content at once both write its result; what lies there is what counts."""
    seen: dict[str, int] = {}
    for one in files:
        path = one["gzip_path"]
        if seen.setdefault(path, one["gzip_bytes"]) != one["gzip_bytes"]:
            seen[path] = os.stat(path).st_size if os.path.exists(path) else seen[path]
    for one in files:
        one["gzip_bytes"] = seen[one["gzip_path"]]


def _manifest(ctx: Context) -> Path:
    return ctx.output_dir / "manifest.json"


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def _difference(
    ctx: Context, source: Path, packed: str, claimed: tuple[str, int], unpacked: dict[str, tuple[str, int]]
) -> str | None:
    """What is wrong with a result, or None. `unpacked` keeps what a compressed file has in it."""
    try:
        with open(source, "rb") as file:
            if (own := _digest(ctx, file)) != claimed:
                return (
                    f"the file has sha256 {own[0]} and {own[1]:,} bytes, the worker says {claimed[0]}, {claimed[1]:,}"
                )
        if packed not in unpacked:
            with gzip.open(packed, "rb") as content:
                unpacked[packed] = _digest(ctx, content)
    except (OSError, EOFError, zlib.error) as error:
        return f"{type(error).__name__}: {error}"
    return None if unpacked[packed] == claimed else f"{packed} has another content"


def _digest(ctx: Context, file: BinaryIO | gzip.GzipFile) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK_BYTES):
        ctx.check_cancelled()
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
