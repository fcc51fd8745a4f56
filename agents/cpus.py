"""How many CPUs this daemon and its workers may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/"), allowed: int | None = None) -> float:
    """The fewest that the machine, the scheduler's affinity and the cgroups above this process allow; at least a part
    of one, since a cgroup may allow less than a whole CPU.

    allowed: what the affinity allows, if not that of this process.
    """
    cpus = float(allowed if allowed is not None else len(os.sched_getaffinity(0)))
    return min((cpus, *_quotas(root)))


def too_many_workers(count: int, cpus: float) -> str | None:
    """What people should know about so many workers; None if there are CPUs for all."""
    if count <= cpus:
        return None
    return (
        f"{count} workers share {cpus:g} CPUs, which makes each of them slower: give fewer with --workers or "
        "WORKER_CONCURRENCY, or the true number of CPUs with TOTAL_CPUS"
    )


def _quotas(root: Path) -> Iterator[float]:
    """What each cgroup with a limit allows, in CPUs."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        read = _quota_v1 if controllers else _quota_v2
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        # A limit above holds as well. In a container the path may be the host's, and only the topmost is to be seen.
        for path in (PurePosixPath(group), *PurePosixPath(group).parents):
            quota = read(mount / str(path).lstrip("/"))
            if quota is not None:
                yield quota


def _quota_v2(directory: Path) -> float | None:
    words = _words(directory / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return _share(words[0], words[1])


def _quota_v1(directory: Path) -> float | None:
    quota, period = _words(directory / "cpu.cfs_quota_us"), _words(directory / "cpu.cfs_period_us")
    return _share(quota[0], period[0]) if len(quota) == len(period) == 1 else None


def _share(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None  # -1: no limit


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
