"""Lines that tell what a benchmark does at the moment."""

from __future__ import annotations

import sys
import time


class Progress:
    """Writes lines to stderr, each with the minutes and seconds since the start."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    def __call__(self, message: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started_at), 60)
        sys.stderr.write(f"[{minutes:3d}:{seconds:02d}] {message}\n")
        sys.stderr.flush()
