"""The folder of computed prefixes: in it one for each model, engine build and KV type, with a file for each prefix.

Several processes may use it at once. All of it together is bounded; the files that were used longest ago make room,
whoever wrote them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance import logs
from appliance.engine.kv_file import SUFFIX, Header, KVKey, Prefix, Rejected, read, read_header, write
from appliance.files import PART, exclusive

log = logging.getLogger(__name__)

# Left free on the disk for all else that is written there.
MIN_FREE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """A prefix that is there, as far as is known."""

    path: Path
    header: Header


@dataclass(frozen=True, slots=True)
class Usage:
    n_files: int
    n_bytes: int


class KVFolder:
    """One model's files. Nothing here is called on an engine's own thread."""

    def __init__(self, root: Path, key: KVKey, *, max_bytes: int, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self.max_bytes = max_bytes
        # What all files take together, as it was seen last. May be read on another thread.
        self.used_bytes = 0
        self.key = key
        self.root = root
        self._folder = root / key.folder
        self._min_free_bytes = min_free_bytes

    def scan(self, on_rejected: Callable[[Path, Rejected], None]) -> Iterator[Stored]:
        """What is there of this model; whatever can't be used is removed, and told."""
        _remove_left_parts(self.root)
        self.used_bytes = usage(self.root).n_bytes
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                header = read_header(path, self.key)
                if header.prefix.file_name != path.name:
                    raise Rejected("foreign", "its name is not that of what it holds")
            except Rejected as error:
                self.reject(path, error)
                on_rejected(path, error)
                continue
            yield Stored(path, header)

    def read(self, stored: Stored) -> memoryview:
        """The payload. Raises Rejected; the file is removed then."""
        try:
            payload = read(stored.path, stored.header)
        except Rejected as error:
            self.reject(stored.path, error)
            raise
        except OSError as error:
            raise Rejected("unread", f"there is no memory for it: {error.strerror}") from None
        with contextlib.suppress(OSError):
            os.utime(stored.path)  # it was used now
        return memoryview(payload)

    def write(self, prefix: Prefix, payload: memoryview, between: Callable[[], None] = lambda: None) -> Stored:
        """``between`` is called after each piece of it. Raises OSError; nothing is left of it then."""
        header = Header(self.key, prefix, len(payload))
        path = self._folder / prefix.file_name
        part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
        for folder in (self.root, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # Not flushed to the disk: what a power cut leaves of it is found out when it is read.
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # it is being written: nobody takes it for one that was left behind
                with exclusive(self.root):  # two that make room at once could each count on the other's
                    self._make_room(header.file_bytes, keep=part)
                    os.posix_fallocate(file.fileno(), 0, header.file_bytes)
                write(file, header, payload, between)
                file.flush()
                os.replace(part, path)
                self.used_bytes += header.file_bytes
        finally:
            part.unlink(missing_ok=True)
        return Stored(path, header)

    def remove(self, stored: Stored) -> None:
        with contextlib.suppress(OSError):
            stored.path.unlink()
            self.used_bytes -= stored.header.file_bytes

    def reject(self, path: Path, error: Rejected) -> None:
        """Removes a file that can't be used, and says why."""
        if error.reason != "gone":
            log.warning(logs.event("kv_file_rejected", file=path.name, reason=error.reason, detail=str(error)))
        if error.reason != "unread":  # that may be the disk's, and pass
            with contextlib.suppress(OSError):
                path.unlink()

    def _make_room(self, n_bytes: int, keep: Path) -> None:
        """Removes files until there is room for one more. Raises OSError if there can't be."""
        if n_bytes > self.max_bytes:
            raise OSError(errno.EFBIG, f"{n_bytes} bytes are more than kv_disk_limit allows for all files together")
        found = sorted(_files(self.root), key=lambda entry: entry[1].st_mtime_ns)
        n_used = sum(status.st_size for path, status in found if path != keep)
        for path, status in found:
            if n_used + n_bytes <= self.max_bytes:
                break
            if path.suffix == SUFFIX:
                path.unlink(missing_ok=True)
                n_used -= status.st_size
        if n_used + n_bytes > self.max_bytes:
            raise OSError(errno.ENOSPC, "what others are writing fills kv_disk_limit")
        disk = os.statvfs(self.root)
        if disk.f_bavail * disk.f_frsize < n_bytes + self._min_free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.used_bytes = n_used


def usage(root: Path) -> Usage:
    """Of all models' files."""
    sizes = [status.st_size for path, status in _files(root) if path.suffix == SUFFIX]
    return Usage(len(sizes), sum(sizes))


def purge(root: Path) -> Usage:
    """Removes all models' files; what there was. Engines that run go on without them."""
    removed = usage(root)
    for folder in _folders(root):
        shutil.rmtree(folder, ignore_errors=True)
    return removed


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Files that are there and those that are being written. One that goes meanwhile is left out."""
    for folder in _folders(root):
        try:
            paths = list(folder.iterdir())
        except OSError:
            continue
        for path in paths:
            if path.suffix in (SUFFIX, PART):
                with contextlib.suppress(OSError):
                    yield path, path.lstat()


def _remove_left_parts(root: Path) -> None:
    """What processes that were killed had begun to write."""
    for path, _ in _files(root):
        if path.suffix == PART:
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while it is being written
                path.unlink()
