"""How much memory there is, and how much of it this process may have."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from appliance.hardware.cgroup import SYSTEM, cgroup_memory


class Ram(msgspec.Struct, frozen=True):
    """``total_bytes`` and ``available_bytes`` are the machine's, ``limit_bytes`` is the least of it and all cgroups.

    ``cgroup_limit_bytes`` None: no cgroup sets a limit. ``used_bytes`` is what the tightest cgroup (without a limit,
    the process's own one) uses, without copies of files; None where there is none. ``room_bytes`` may be allocated
    until a limit is met.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int
    cgroup_limit_bytes: int | None
    used_bytes: int | None
    room_bytes: int


def read_ram(root: Path = SYSTEM) -> Ram:
    """``root`` is where ``/sys`` and ``/proc`` lie."""
    total_bytes, available_bytes = _machine(root)
    groups = cgroup_memory(root)
    limited = [group for group in groups if group.limit_bytes is not None]
    tightest = min(limited, key=lambda group: group.limit_bytes or 0, default=groups[0] if groups else None)
    limit = tightest.limit_bytes if tightest is not None else None
    return Ram(
        total_bytes=total_bytes,
        available_bytes=available_bytes,
        limit_bytes=total_bytes if limit is None else min(total_bytes, limit),
        cgroup_limit_bytes=limit,
        used_bytes=tightest.used_bytes if tightest is not None else None,
        room_bytes=min([available_bytes, *(group.room_bytes or 0 for group in limited)]),
    )


def _machine(root: Path) -> tuple[int, int]:
    """Total and available bytes."""
    if sys.platform != "linux":
        import psutil

        memory = psutil.virtual_memory()
        return memory.total, memory.available
    lines = (root / "proc/meminfo").read_text().splitlines()
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    # Kernels before 3.14 have no MemAvailable.
    return kib["MemTotal"] * 1024, kib.get("MemAvailable", kib["MemFree"]) * 1024
