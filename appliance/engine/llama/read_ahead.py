"""Brings a model's file into the page cache before llama.cpp maps it.

llama.cpp lets the kernel read the whole file in one call. From a cold disk that is nearly all of the load, and while it
lasts nothing can be seen of it, and nothing can stop it.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys

from appliance.engine.backend import LoadCancelled, OnProgress
from appliance.errors import EngineFailed
from appliance.hardware.ram import read_ram

# At a time: as fast as all at once, and a tenth of a second on a slow disk.
CHUNK_BYTES = 16 << 20
# How far apart the places are where it is looked whether the file is there already.
_LOOK_BYTES = 2 << 20
_MADV_POPULATE_READ = 22  # of Linux 5.14; not in Python's mmap


def read_ahead(path: str, on_progress: OnProgress) -> bool:
    """Reads the file; False if it is in the page cache already, or this system can't do it.

    A file for which there is no room is left to llama.cpp: it would be read twice.

    Raises:
        EngineFailed: the disk can't read it.
        LoadCancelled: ``on_progress`` says so.
    """
    if sys.platform != "linux":
        return False
    try:
        with open(path, "rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if _is_cached(file.fileno(), n_bytes) or n_bytes > read_ram().room_bytes:
                return False
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError):
        return False  # llama.cpp says why
    with mapped:
        for start in range(0, n_bytes, CHUNK_BYTES):
            if not on_progress(start / n_bytes):
                raise LoadCancelled
            try:
                mapped.madvise(_MADV_POPULATE_READ, start, min(CHUNK_BYTES, n_bytes - start))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return False  # an older kernel
                raise EngineFailed(f"{path} can't be read: {error.strerror}") from None
    return True


def _is_cached(file: int, n_bytes: int) -> bool:
    """Whether it seems to be; False too where the file system doesn't say."""
    byte = bytearray(1)
    try:
        # Up to the first place where it isn't: to look at one makes the kernel bring it.
        for start in range(0, n_bytes, _LOOK_BYTES):
            os.preadv(file, [byte], start, os.RWF_NOWAIT)
    except OSError:
        return False
    return True
