"""How many processor cores there are to compute on."""

from __future__ import annotations

import os
from pathlib import Path

SYSTEM = Path("/")


def physical_cores(root: Path = SYSTEM) -> int:
    """Cores that this process may use, at least 1: hyperthreads of one core count once, and a cgroup's quota counts.

    Two threads on one core share its arithmetic units, and each waits for the slower one at every barrier.
    ``root`` is where ``/sys`` and ``/proc`` lie.
    """
    cpus = _allowed_cpus()
    cores = {_siblings(root, cpu) for cpu in cpus}
    quota = cgroup_cpu_quota(root)
    n_cores = len(cores) if quota is None else min(len(cores), int(quota))
    return max(1, n_cores)


def cgroup_cpu_quota(root: Path = SYSTEM) -> float | None:
    """Processors' worth of time that the tightest cgroup around this process grants; None if none limits it.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), from the process's own group up.
    """
    quotas = [quota for path in _cgroup_folders(root) if (quota := _quota(path)) is not None]
    return min(quotas, default=None)


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(root: Path, cpu: int) -> str:
    """The logical processors of the core that ``cpu`` belongs to, as the kernel writes them."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _cgroup_folders(root: Path) -> list[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        mounts = ["sys/fs/cgroup"] if not controllers else ["sys/fs/cgroup/cpu", f"sys/fs/cgroup/{controllers}"]
        for mount in mounts:
            # In a container the group's own path may not be visible; its limit then stands at the mount.
            group = Path(path.strip("/"))
            folders += [root / mount / part for part in (group, *group.parents)]
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return quota_us / int((folder / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError):
        return None
