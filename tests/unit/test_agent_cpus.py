"""How many CPUs there are for workers, as cgroups of both versions say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cpus import too_many_workers, usable_cpus


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A root directory with these files; cgroup: of this process."""
    for name, content in {"proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


V1 = "12:pids:/d/1\n4:cpu,cpuacct:/d/1\n1:name=systemd:/d/1\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        pytest.param("0::/\n", {}, 8.0, id="no limit anywhere"),
        pytest.param("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5, id="v2, the limit is above"),
        pytest.param("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0, id="v2, within a container"),
        pytest.param(
            "0::/a/b\n",
            {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000"},
            3.0,
            id="v2, only one has a limit",
        ),
        pytest.param("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "9900000 100000\n"}, 8.0, id="more than there are"),
        pytest.param(
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/d/1/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/d/1/cpu.cfs_period_us": "100000\n",
            },
            2.5,
            id="v1",
        ),
        pytest.param(
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            1.0,
            id="v1, within a container",
        ),
        pytest.param(
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/d/1/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/d/1/cpu.cfs_period_us": "100000\n",
            },
            8.0,
            id="v1 without a limit",
        ),
        pytest.param("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "many few\n"}, 8.0, id="garbage"),
        pytest.param("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "100000 0\n"}, 8.0, id="no period"),
        pytest.param("nonsense", {}, 8.0, id="a file of another form"),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], cpus: float) -> None:
    assert usable_cpus(machine(tmp_path, cgroup, files), allowed=8) == cpus


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, allowed=3) == 3.0
    assert usable_cpus() > 0


def test_more_workers_than_cpus_are_warned_of_with_what_to_do() -> None:
    assert too_many_workers(2, 2.0) is None
    warning = too_many_workers(2, 1.5)
    assert warning is not None
    for word in ("2 workers", "1.5 CPUs", "WORKER_CONCURRENCY", "TOTAL_CPUS"):
        assert word in warning
