"""What llama.cpp tells only in its log: the sizes of its buffers, and why it can't load something."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from types import TracebackType
from typing import Any, Self

from appliance.engine.llama.library import lib
from appliance.engine.messages import Buffer
from appliance.engine.out_of_memory import is_out_of_memory
from appliance.errors import EngineFailed, EngineOutOfMemory

_ERROR = 4  # GGML_LOG_LEVEL_ERROR in ggml.h
_MIB = 1 << 20
_MAX_REASON = 500

# llama-model.cpp, llama-adapter.cpp, llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-kv-cache-dsv4.cpp,
# llama-context.cpp
_BUFFER = re.compile(r"(\S+) +(model|LoRA|KV|RS|DSV4 .*state|compute|output) buffer size = +([\d.]+) MiB")
_KINDS = {"model": "weights", "LoRA": "weights", "compute": "compute", "output": "output"}
_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
_FUNCTION = re.compile(r"^\w+: +")
# Said behind each reason.
_NO_REASON = "failed to load model"


def buffer_in(line: str) -> Buffer | None:
    """The buffer that a line of the log is about."""
    match = _BUFFER.search(line)
    if match is None:
        return None
    return Buffer(match[1], _KINDS.get(match[2], "kv"), round(float(match[3]) * _MIB))


class LoadLog:
    """Hears llama.cpp's log while something is loaded; use with ``with``. Who heard it before still does."""

    def __init__(self) -> None:
        self.n_gpu_layers = 0
        self._sizes: Counter[tuple[str, str]] = Counter()
        self._errors: list[str] = []
        self._before = lib.llama_log_callback()
        self._before_data = ctypes.c_void_p()
        self._callback = lib.llama_log_callback(self._take)  # kept: llama.cpp has its address only

    def __enter__(self) -> Self:
        get: Any = lib._lib.llama_log_get  # not in the binding
        get.argtypes = [ctypes.POINTER(lib.llama_log_callback), ctypes.POINTER(ctypes.c_void_p)]
        get.restype = None
        get(ctypes.byref(self._before), ctypes.byref(self._before_data))
        lib.llama_log_set(self._callback, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lib.llama_log_set(self._before, self._before_data)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """What was allocated, one for each device and kind."""
        return tuple(Buffer(device, kind, n_bytes) for (device, kind), n_bytes in self._sizes.items())

    def error(self, what: str) -> EngineFailed:
        """The error to raise after llama.cpp has said no. ``what`` could not be done."""
        reason = "; ".join(dict.fromkeys(line for line in self._errors if line != _NO_REASON))[:_MAX_REASON]
        kind = EngineOutOfMemory if any(map(is_out_of_memory, self._errors)) else EngineFailed
        return kind(f"{what}: {reason or 'llama.cpp gives no reason'}")

    def _take(self, level: int, text: bytes, user_data: object) -> None:
        if level == _ERROR:
            self._errors.append(_FUNCTION.sub("", text.decode("utf-8", "replace").strip()))
        elif b" buffer size = " in text:
            if (buffer := buffer_in(text.decode("utf-8", "replace"))) is not None:
                self._sizes[buffer.device, buffer.kind] += buffer.n_bytes
        elif b"offloaded" in text and (match := _OFFLOADED.search(text.decode("utf-8", "replace"))) is not None:
            self.n_gpu_layers = int(match[1])
        if self._before:
            self._before(level, text, self._before_data)
