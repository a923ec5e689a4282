"""Logging: one line an event, never a prompt, an answer or a key."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TextIO

MAX_LINE_CHARS = 8192
N_KEPT_LINES = 10_000
# Of all lines that are kept together: some 3 MB for as many as usual ones are, 16 MB for long ones in ASCII.
MAX_KEPT_CHARS = 16 << 20
FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


class Event(str):
    """A log message with its fields: ``event key=value`` on a console, keys of their own in JSON."""

    name: str
    fields: dict[str, object]


class JsonFormatter(logging.Formatter):
    """One JSON object a line; times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Event):
            line |= {"event": record.msg.name, **record.msg.fields}
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class RecentLines:
    """The latest lines of the log, numbered from 1 on, for those who look at them from afar."""

    def __init__(self, n_kept: int = N_KEPT_LINES, max_chars: int = MAX_KEPT_CHARS) -> None:
        self._lines: deque[tuple[int, str]] = deque()
        self._n_kept = n_kept
        self._max_chars = max_chars
        self._n_chars = 0
        self._n_lines = 0
        self._on_line: set[Callable[[], None]] = set()
        # Engines' lines come on a thread each.
        self._turn = threading.RLock()

    def add(self, line: str) -> None:
        """From any thread."""
        # Half of a surrogate pair can be printed, and in no JSON be sent.
        text = line[:MAX_LINE_CHARS].encode(errors="backslashreplace").decode()
        with self._turn:
            self._n_lines += 1
            self._lines.append((self._n_lines, text))
            self._n_chars += len(text)
            while len(self._lines) > self._n_kept or self._n_chars > self._max_chars:
                self._n_chars -= len(self._lines.popleft()[1])
            listeners = tuple(self._on_line)
        for notify in listeners:
            notify()

    @property
    def newest(self) -> int:
        """The number of the latest line; 0 if there was none."""
        return self._n_lines

    def after(self, number: int) -> list[tuple[int, str]]:
        """The lines that are kept with greater numbers."""
        with self._turn:
            # From the end: who follows wants the last one of thousands.
            newer = list(islice(reversed(self._lines), max(0, self._n_lines - number)))
        return newer[::-1]

    @contextlib.contextmanager
    def notified(self, notify: Callable[[], None]) -> Iterator[None]:
        """``notify`` is called at each line, on whatever thread wrote it, while the block lasts."""
        with self._turn:
            self._on_line.add(notify)
        try:
            yield
        finally:
            with self._turn:
                self._on_line.discard(notify)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr, and keeps what it wrote."""

    def __init__(self, recent: RecentLines | None) -> None:
        super().__init__(sys.stderr)
        self._recent = recent

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if self._recent is not None:
            self._recent.add(line)
        return line


def configure(level: str, form: str, recent: RecentLines | None = None) -> None:
    """Sends the records of the appliance, and warnings of its libraries, to stderr as ``console`` or ``json``.

    ``recent`` gets the same lines.
    """
    handler = _Handler(recent)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("appliance").setLevel(level.upper())


def event(name: str, **fields: object) -> Event:
    """A message of ``name`` and its fields; text with spaces or control characters is quoted."""
    message = Event(" ".join([name, *(f"{key}={_value(value)}" for key, value in fields.items())]))
    message.name, message.fields = name, fields
    return message


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)
