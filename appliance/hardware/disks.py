"""The disks that the appliance's folders lie on."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from appliance.hardware.cgroup import SYSTEM

_READ_BYTES = 4 << 20
_OCTAL = re.compile(r"\\([0-7]{3})")


class Disk(msgspec.Struct, frozen=True):
    """Of one of the appliance's folders. ``file_system`` is the kernel's name of its type, None if that isn't known.

    ``free_bytes`` are those that this process may take. ``exists``: else the figures are those of the folder above
    that does. ``problem`` says why there are no figures.
    """

    name: str
    path: str
    exists: bool
    total_bytes: int = 0
    free_bytes: int = 0
    file_system: str | None = None
    is_read_only: bool = False
    problem: str | None = None


def read_disks(folders: Mapping[str, Path | None], root: Path = SYSTEM) -> tuple[Disk, ...]:
    """One for each folder by its name; None is passed over. ``root`` is where ``/proc`` lies."""
    mounts = _mounts(root)
    return tuple(_disk(name, path, mounts) for name, path in folders.items() if path is not None)


def read_speed(path: Path, *, max_bytes: int, max_s: float, clock: Callable[[], float] = time.monotonic) -> float:
    """Bytes a second at which a file comes from its disk, not from memory, as far as the system lets that be told.

    Reads its beginning, until ``max_bytes`` or ``max_s`` are reached. Raises OSError.
    """
    buffer = mmap.mmap(-1, _READ_BYTES)  # its address suits O_DIRECT
    descriptor, is_direct = _open_uncached(path)
    try:
        if not is_direct and hasattr(os, "posix_fadvise"):
            # What a running engine has mapped stays in memory all the same, and seems to be read at once.
            os.posix_fadvise(descriptor, 0, max_bytes, os.POSIX_FADV_DONTNEED)
        n_read, started = 0, clock()
        while n_read < max_bytes and clock() - started < max_s and (n := os.readv(descriptor, [buffer])):
            n_read += n
        return n_read / max(clock() - started, 1e-6)
    finally:
        os.close(descriptor)
        buffer.close()


def _open_uncached(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether reading from it goes past the page cache."""
    if hasattr(os, "O_DIRECT"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError:  # not on this file system
            return os.open(path, os.O_RDONLY), False
        try:
            os.pread(descriptor, 0, 0)
        except OSError:
            os.close(descriptor)
            return os.open(path, os.O_RDONLY), False
        return descriptor, True
    descriptor = os.open(path, os.O_RDONLY)
    if hasattr(fcntl, "F_NOCACHE"):  # macOS
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
        return descriptor, True
    return descriptor, False


def _disk(name: str, path: Path, mounts: dict[str, str]) -> Disk:
    try:
        here = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        status = os.statvfs(here)
        real = here.resolve()
    except OSError as error:
        return Disk(name, str(path), exists=False, problem=error.strerror)
    return Disk(
        name=name,
        path=str(path),
        exists=here == path,
        total_bytes=status.f_blocks * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        file_system=next((mounts[str(p)] for p in (real, *real.parents) if str(p) in mounts), None),
        is_read_only=bool(status.f_flag & os.ST_RDONLY),
    )


def _mounts(root: Path) -> dict[str, str]:
    """The types of the file systems by where they are mounted; what was mounted last hides what was there before."""
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        before, _, behind = line.partition(" - ")
        # Spaces and the like are written as octal numbers.
        found[_OCTAL.sub(lambda match: chr(int(match[1], 8)), before.split()[4])] = behind.split()[0]
    return found
