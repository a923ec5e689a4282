"""``python -m appliance.engine.llama.memory_probe``: what a context would take, without weights (see ``job``).

llama.cpp lays everything out and allocates only what is small: a third of a second and 60 MB for any model. Its log
has the sizes of the compute and output buffers, and that of the KV cache as a whole, which is divided here among the
devices by their layers.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from typing import Any

from appliance.engine.llama.context import CACHE_TYPES
from appliance.engine.llama.job import LlamaLog, run_job
from appliance.engine.llama.library import has_gpu, lib
from appliance.engine.llama.load_log import buffer_in
from appliance.engine.llama.model import _experts_on_cpu, _tensor_split
from appliance.errors import ConfigError

_MIB = 1 << 20
# llama-kv-cache.cpp and llama-memory-recurrent.cpp
_CACHE = re.compile(r"(?:llama_kv_cache|llama_memory_recurrent).*: size = +([\d.]+) MiB \( *(\d+) cells")
_LAYER = re.compile(r"(?:llama_kv_cache.*:|llama_memory_recurrent,) layer +\d+: dev = (\S+)")
_NONE_MODE = 0  # LLAMA_LOAD_MODE_NONE: without weights there is nothing to map


class _Sizes:
    """What the log says, line by line."""

    def __init__(self) -> None:
        self.n_cells = 0
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._layers: Counter[str] = Counter()

    def take(self, line: str) -> None:
        if match := _LAYER.search(line):
            self._layers[match[1]] += 1
        elif match := _CACHE.search(line):
            self.n_cells = max(self.n_cells, int(match[2]))
            n_layers = self._layers.total() or 1
            for device, count in self._layers.items():
                self._bytes[device, "kv"] += round(float(match[1]) * _MIB * count / n_layers)
            self._layers.clear()
        elif (buffer := buffer_in(line)) is not None and buffer.kind in ("compute", "output"):
            self._bytes[buffer.device, buffer.kind] += buffer.n_bytes

    @property
    def buffers(self) -> list[tuple[str, str, int]]:
        return [(device, kind, n_bytes) for (device, kind), n_bytes in self._bytes.items()]


def _probe(request: dict[str, Any]) -> dict[str, Any]:
    sizes = _Sizes()
    log = LlamaLog(sizes.take)
    model = _load(request)
    if not model:
        raise ConfigError(f"llama.cpp can't load {request['path']}: {log.warnings}")
    context = lib.llama_init_from_model(model, _context_params(request))
    if not context:
        raise ConfigError(f"llama.cpp can't make such a context of {request['path']}: {log.warnings}")
    lib.llama_free(context)
    lib.llama_model_free(model)
    return {"n_cells": sizes.n_cells, "buffers": sizes.buffers}


def _load(request: dict[str, Any]) -> Any:
    params = lib.llama_model_default_params()
    params.no_alloc = True
    params.load_mode = _NONE_MODE
    params.n_gpu_layers = request["n_gpu_layers"]
    # Both are kept until llama.cpp has returned.
    overrides = _experts_on_cpu(request["n_cpu_moe"]) if request["n_cpu_moe"] else None
    parts = _tensor_split(tuple(request["tensor_split"])) if request["tensor_split"] else None
    if overrides is not None:
        params.tensor_buft_overrides = ctypes.addressof(overrides)
    if parts is not None:
        params.tensor_split = parts
    return lib.llama_model_load_from_file(request["path"].encode(), params)


def _context_params(request: dict[str, Any]) -> Any:
    """As ``Context`` has them."""
    if request["n_batch"] < request["n_seq_max"] and not request["n_outputs_max"]:
        raise ConfigError(
            f"n_batch={request['n_batch']}: llama.cpp wants at least one token for each of "
            f"n_seq_max={request['n_seq_max']} sequences"
        )
    params = lib.llama_context_default_params()
    params.n_ctx = request["n_ctx"]
    params.n_batch = params.n_ubatch = request["n_batch"]
    params.n_seq_max = request["n_seq_max"]
    params.n_outputs_max = request["n_outputs_max"]
    params.type_k, params.type_v = CACHE_TYPES[request["type_k"]], CACHE_TYPES[request["type_v"]]
    params.op_offload = request["n_gpu_layers"] != 0 and has_gpu()
    params.kv_unified = True
    return params


if __name__ == "__main__":
    run_job(_probe)
