"""Work in llama.cpp outside serving: a process of its own, since a crash in C must not be ours.

It gets one JSON argument and prints JSON lines: ``{"done": 3, "total": 272}`` as it goes on, and at its end
``{"result": ...}`` or ``{"error": "..."}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.engine.llama.library import lib, start
from appliance.errors import ApplianceError

_WARNING, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level in ggml.h


def say_progress(done: int, total: int) -> None:
    _print({"done": done, "total": total})


class LlamaLog:
    """llama.cpp's messages while it works. It keeps the last warnings, and shows each line to ``on_line``."""

    def __init__(self, on_line: Callable[[str], None] | None = None) -> None:
        self._on_line = on_line
        self._warnings: deque[str] = deque(maxlen=5)
        self._line = ""
        self._level = 0
        self._callback = lib.llama_log_callback(self._take)  # kept: llama.cpp has its address only
        lib.llama_log_set(self._callback, None)

    @property
    def warnings(self) -> str:
        return "; ".join(self._warnings) or "llama.cpp says no more"

    def _take(self, level: int, text: bytes, user_data: object) -> None:
        # A line comes in pieces, each with its level.
        self._line += text.decode("utf-8", "replace")
        if level != _CONTINUED:
            self._level = max(self._level, level)
        if not self._line.endswith("\n"):
            return
        line, is_warning = self._line.strip(), self._level in (_WARNING, _ERROR)
        self._line, self._level = "", 0
        if is_warning:
            self._warnings.append(line)
        if self._on_line is not None:
            self._on_line(line)


def run_job(work: Callable[[dict[str, Any]], Any]) -> None:
    """The process's main function."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    start()
    try:
        result = work(json.loads(sys.argv[1]))
    except ApplianceError as error:
        _print({"error": error.message})
        sys.exit(1)
    _print({"result": result})


def _print(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
