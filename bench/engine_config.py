"""An engine's configuration as ``appliance serve`` would make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.engine.messages import EngineConfig
from appliance.models.gguf_header import GGUFHeader, read_header
from appliance.settings import Settings


def engine_config(gguf: Path, *, n_ctx: int, n_threads: int, max_running: int) -> EngineConfig:
    """For a model's file, computed on the processor."""
    return config_for(read_header(gguf), str(gguf), n_ctx=n_ctx, n_threads=n_threads, max_running=max_running)


def config_for(header: GGUFHeader, path: str, *, n_ctx: int, n_threads: int, max_running: int) -> EngineConfig:
    """For a model whose header is known. What isn't named here has the settings' defaults."""
    fields: dict[str, Any] = {
        name: field.default for name, field in Settings.model_fields.items() if name in EngineConfig.__struct_fields__
    }
    fields |= {
        "model_path": path,
        "tensor_types": header.tensor_types,
        "longest_token_bytes": header.longest_token_bytes,
        "n_ctx": n_ctx,
        "n_threads": n_threads,
        "n_threads_batch": n_threads,
        "n_gpu_layers": 0,
        "max_running": max_running,
    }
    return EngineConfig(**fields)
