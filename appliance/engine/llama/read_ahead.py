"""Brings a model's file into the page cache before llama.cpp maps it.

llama.cpp lets the kernel read the whole file in one call. From a cold disk that is nearly all of the load, and while it
lasts nothing can be seen of it, and nothing can stop it.
"""

from __future__ import annotations

import os
import random

import psutil

from appliance.engine.backend import LoadCancelled, OnProgress
from appliance.errors import EngineFailed

CHUNK_BYTES = 2 << 20


def read_ahead(path: str, on_progress: OnProgress) -> bool:
    """Reads what of the file is not in the page cache; whether that was anything.

    A file that is there already costs a look at each chunk, some microseconds for a megabyte. Nothing is read if the
    system can't say what is there, or if the file would not fit: it would be read twice.

    Raises:
        EngineFailed: the disk can't read it.
        LoadCancelled: ``on_progress`` says so.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False  # llama.cpp says why
    try:
        n_bytes = os.fstat(file).st_size
        if not hasattr(os, "RWF_NOWAIT") or n_bytes > psutil.virtual_memory().available:
            return False
        starts = range(0, n_bytes, CHUNK_BYTES)
        # Anywhere in a chunk: what is asked for where it isn't there, the kernel brings, and only that.
        missing = [start for start in starts if not _is_cached(file, random.randrange(start, _end(start, n_bytes)))]
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # else it takes twice as long
        chunk = bytearray(CHUNK_BYTES)
        for number, start in enumerate(missing):
            if not on_progress(number / len(missing)):
                raise LoadCancelled
            os.preadv(file, [chunk], start)
        return bool(missing)
    except OSError as error:
        raise EngineFailed(f"{path} can't be read: {error.strerror}") from None
    finally:
        os.close(file)


def _end(start: int, n_bytes: int) -> int:
    return min(start + CHUNK_BYTES, n_bytes)


def _is_cached(file: int, position: int) -> bool:
    try:
        os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no answer, or no file
    return True
