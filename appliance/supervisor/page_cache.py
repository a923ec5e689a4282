"""Files of unloaded models in the page cache: they make coming back quick, and take memory that others want."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path


class WarmFiles:
    """Keeps the files of models that were unloaded last, as many bytes as are allowed, and lets go of the others.

    The system gives such memory up by itself when a process wants it, but not before it has thrown out other files.
    """

    def __init__(self) -> None:
        self._sizes: OrderedDict[Path, int] = OrderedDict()  # those that were used last come last

    def unloaded(self, path: Path, n_bytes: int) -> None:
        """The file isn't in use any more, and stays warm for now."""
        self._sizes[path] = n_bytes
        self._sizes.move_to_end(path)

    def loaded(self, path: Path) -> None:
        """The file is in use again: its memory is its model's."""
        self._sizes.pop(path, None)

    def trim(self, max_bytes: int) -> list[Path]:
        """Lets go of those that were used longest ago until the others take at most ``max_bytes``; which they were."""
        dropped = []
        while self._sizes and sum(self._sizes.values()) > max_bytes:
            path, _ = self._sizes.popitem(last=False)
            _let_go(path)
            dropped.append(path)
        return dropped


def _let_go(path: Path) -> None:
    """Asks the system to forget a file's pages; those that a process has mapped stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return  # it was deleted
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
