"""What an engine process writes to stdout and stderr: it goes into the gateway's log, to the very last line."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO

from appliance.engine.out_of_memory import is_out_of_memory

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 13
N_KEPT = 20
_MAX_LAST_WORDS = 300
_STDERR = 2
# Records of the engine's log that are no errors, in both formats (appliance/logs.py).
_NO_ERROR = re.compile(r'^\d{4}-\d\d-\d\d \S+ (DEBUG|INFO|WARNING) |"level": "(debug|info|warning)"')


class EngineOutput:
    """Reads the process's output on a thread of its own, until the last who may write to it has ended.

    A thread, since an engine writes before there is an event loop, and since our stderr may be read slowly.
    """

    def __init__(self, pipe: IO[bytes], on_line: Callable[[str], None] = lambda line: None) -> None:
        """``on_line`` is called on that thread, and must not raise. Longer lines are cut at ``MAX_LINE_BYTES``."""
        self._pipe = pipe
        self._on_line = on_line
        self._kept: deque[str] = deque(maxlen=N_KEPT)
        self._thread = threading.Thread(target=self._read, name="engine-output", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Blocks until all was read; at most ``timeout_s``, should another process hold the pipe open."""
        self._thread.join(timeout_s)

    @property
    def last_words(self) -> str:
        """The last line that may say why the process ended; empty if there is none."""
        return next(self._errors(), "")[:_MAX_LAST_WORDS]

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether an error among the last lines says so."""
        return any(map(is_out_of_memory, self._errors()))

    def _errors(self) -> Iterator[str]:
        """Among the last lines, what is no error's record in the log may still be one of C. The latest first."""
        return (line.strip() for line in reversed(list(self._kept)) if line.strip() and not _NO_ERROR.search(line))

    def _read(self) -> None:
        rest = b""
        with self._pipe as pipe:
            while data := pipe.read(READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
                while len(rest) > MAX_LINE_BYTES:
                    self._take(rest[:MAX_LINE_BYTES])
                    rest = rest[MAX_LINE_BYTES:]
            if rest:
                self._take(rest)

    def _take(self, line: bytes) -> None:
        for start in range(0, max(1, len(line)), MAX_LINE_BYTES):
            part = line[start : start + MAX_LINE_BYTES]
            _write_all(part + b"\n")
            text = part.decode("utf-8", "replace")
            self._kept.append(text)
            self._on_line(text)


def _write_all(data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads our log: no reason to stop the engine
        while data:
            data = data[os.write(_STDERR, data) :]
