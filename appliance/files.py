"""Files that appear whole or not at all, and are written by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from appliance.errors import ConfigError

CHUNK_BYTES = 1 << 20
PART = ".part"


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file's content; its permissions stay. Raises ConfigError if it can't be written."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        with part.open("wb") as out:
            out.write(data)
            flush(out)
        with contextlib.suppress(FileNotFoundError):
            part.chmod(path.stat().st_mode & 0o777)
        rename(part, path)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def rename(part: Path, path: Path) -> None:
    """Gives a finished file its name, which also holds after a power cut."""
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def flush(file: BinaryIO) -> None:
    """To the disk itself: a file must be whole before it gets its name."""
    file.flush()
    os.fsync(file.fileno())


def sha256_of(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The file's SHA-256; ``on_bytes`` is called with the number of bytes that were read since its last call."""
    if on_bytes is None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


@contextmanager
def exclusive(folder: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds ``folder`` against other processes that ask the same, also after ``kill -9``.

    Waits for its turn or, with ``busy``, raises ConfigError with that text at once.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy is not None else 0))
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(busy or "") from None
    try:
        yield
    finally:
        os.close(descriptor)  # which unlocks it
