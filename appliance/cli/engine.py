"""What an engine is told of the settings and the model that it loads."""

from __future__ import annotations

from appliance.engine.messages import EngineConfig
from appliance.hardware.cpu import physical_cores
from appliance.models.store import StoredModel
from appliance.settings import Settings


def engine_config(config: Settings, stored: StoredModel) -> EngineConfig:
    n_threads = config.n_threads or physical_cores()
    return EngineConfig(
        model_path=str(stored.path),
        tensor_types=stored.record.header.tensor_types,
        longest_token_bytes=stored.record.header.longest_token_bytes,
        n_ctx=config.n_ctx or 0,
        n_batch=config.n_batch,
        prompt_step_s=config.prompt_step_s,
        stream_interval_s=config.stream_interval_s,
        n_threads=n_threads,
        n_threads_batch=config.n_threads_batch or n_threads,
        poll=config.poll,
        n_gpu_layers=config.n_gpu_layers,
        max_running=config.max_running,
        prefix_reuse=config.prefix_reuse,
    )
