"""What this machine, or the container on it, really lets this process use."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["host_resources"]


def host_resources(root: Path = Path("/"), *, affinity: int | None = None) -> dict[str, float]:
    """Processor cores and memory that this process may use.

    Reads cgroup v2, then v1, CPU affinity and /proc/meminfo; the smallest limit counts.

    Args:
        root: Where `proc` and `sys` are found; a fixture folder in tests.
        affinity: Cores that the scheduler lets this process use; None asks the system.

    Returns:
        `cpu` in cores (may be a fraction), `memory` in bytes (0 where it is not known), `gpu` always 0: declare a
        `gpu` pool where there are some.
    """
    cores = float(_affinity() if affinity is None else affinity)
    folders = _cgroup_folders(root)
    quotas = [quota for folder in folders for quota in (_cpu_quota(folder),) if quota is not None]
    limits = [limit for folder in folders for limit in (_memory_limit(folder),) if limit is not None]
    total = _memory_total(root)
    if total:
        limits.append(total)
    return {"cpu": min([cores, *quotas]), "memory": float(min(limits, default=0)), "gpu": 0.0}


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _cgroup_folders(root: Path) -> list[Path]:
    """The cgroup folders of this process and their ancestors: a limit of any of them holds."""
    mount = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            bases = [mount, mount / "unified"]
        elif {"cpu", "memory"} & set(controllers.split(",")):
            bases = [mount / controllers, *(mount / name for name in controllers.split(","))]
        else:
            continue
        for base in bases:
            folder = base / path.lstrip("/")
            # Inside a container the path may be that of the host: then the mount itself is this process's cgroup.
            found.extend(_upwards(folder if folder.is_dir() else base, base))
    return found or [mount]


def _upwards(folder: Path, base: Path) -> list[Path]:
    found = [folder]
    while folder != base and base in folder.parents:
        folder = folder.parent
        found.append(folder)
    return found


def _cpu_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not quota.lstrip("-").isdigit() or not period.isdigit() or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def _memory_limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        text = _read(folder / name)
        # cgroup v1 writes "no limit" as a number near 2^63.
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def _memory_total(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
