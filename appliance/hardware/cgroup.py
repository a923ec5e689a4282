"""What the control groups around this process allow it: processor time and memory, in versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import msgspec

SYSTEM = Path("/")

# Version 1 writes "no limit" as a number near 2^63, rounded to pages.
_NO_LIMIT = 1 << 60


class GroupMemory(msgspec.Struct, frozen=True):
    """``limit_bytes`` None: the group sets no limit.

    ``used_bytes`` leaves out pages that are copies of files, mapped weights among them: the kernel takes those back
    when memory runs short.
    """

    limit_bytes: int | None
    used_bytes: int

    @property
    def room_bytes(self) -> int | None:
        """What may be allocated yet; None without a limit."""
        return None if self.limit_bytes is None else max(0, self.limit_bytes - self.used_bytes)


def cgroup_cpu_quota(root: Path = SYSTEM) -> float | None:
    """Processors' worth of time that the tightest cgroup around this process grants; None if none limits it.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), from the process's own group up. ``root`` is
    where ``/sys`` and ``/proc`` lie.
    """
    quotas = [quota for path in _folders(root, "cpu") if (quota := _quota(path)) is not None]
    return min(quotas, default=None)


def cgroup_memory(root: Path = SYSTEM) -> tuple[GroupMemory, ...]:
    """The groups around this process that count memory, its own one first, then outwards; empty without any.

    What a group uses includes what others in it use. Reads version 2 (``memory.max``) and version 1
    (``memory.limit_in_bytes``).
    """
    found = (_memory(path) for path in _folders(root, "memory"))
    return tuple(group for group in found if group is not None)


def _folders(root: Path, controller: str) -> list[Path]:
    """Where the groups of this process may be, its own one first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounts = [f"sys/fs/cgroup/{controller}", f"sys/fs/cgroup/{controllers}"] if controllers else ["sys/fs/cgroup"]
        group = Path(path.strip("/"))
        if ".." in group.parts:  # it lies outside this process's cgroup namespace
            group = Path()
        # In a container the group's own path may not be visible; its limit then stands at the mount.
        folders += [root / mount / part for mount in mounts for part in (group, *group.parents)]
    return list(dict.fromkeys(folders))


def _quota(folder: Path) -> float | None:
    try:
        if (limit := folder / "cpu.max").exists():
            quota, period = limit.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        return quota_us / int((folder / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError):
        return None


def _memory(folder: Path) -> GroupMemory | None:
    try:
        if (current := folder / "memory.current").exists():
            used_bytes, limit = int(current.read_text()), (folder / "memory.max").read_text().strip()
            names = ("active_file", "inactive_file")
        else:
            used_bytes = int((folder / "memory.usage_in_bytes").read_text())
            limit = (folder / "memory.limit_in_bytes").read_text().strip()
            names = ("total_active_file", "total_inactive_file")
        counted = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        file_bytes = sum(int(counted.get(name, 0)) for name in names)
        is_limited = limit != "max" and int(limit) < _NO_LIMIT
    except (OSError, ValueError):
        return None
    return GroupMemory(int(limit) if is_limited else None, max(0, used_bytes - file_bytes))
