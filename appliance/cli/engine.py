"""How an engine process is started for a model: what it is told of the settings, the model and its place in memory."""

from __future__ import annotations

from collections.abc import Callable

from appliance.engine.client import EngineProcess
from appliance.engine.kv_messages import WarmTierConfig
from appliance.engine.messages import EngineConfig
from appliance.hardware.cpu import physical_cores
from appliance.hardware.fit import Fit
from appliance.service import kv_disk
from appliance.settings import Settings
from appliance.supervisor.spec import ModelSpec, Spawn


def spawner(config: Settings, *, log_level: str, on_log: Callable[[str], None] = lambda line: None) -> Spawn:
    """Starts engine processes; ``on_log`` gets what they write, line by line. Raises ConfigError."""
    kv_disk_bytes = kv_disk.limit_bytes(config)

    def spawn(spec: ModelSpec, fit: Fit) -> EngineProcess:
        return EngineProcess(
            engine_config(config, spec, fit, kv_disk_bytes=kv_disk_bytes),
            log_level=log_level,
            log_format=config.log_format,
            on_log=on_log,
        )

    return spawn


def engine_config(config: Settings, spec: ModelSpec, fit: Fit, *, kv_disk_bytes: int) -> EngineConfig:
    """``kv_disk_bytes`` 0: it keeps no computed prefixes on disk."""
    warm_tier = WarmTierConfig(str(kv_disk.folder(config)), kv_disk_bytes, spec.stored.record.gguf_sha256)
    n_threads = config.n_threads or physical_cores()
    header = spec.stored.record.header
    return EngineConfig(
        model_path=str(spec.stored.path),
        tensor_types=header.tensor_types,
        longest_token_bytes=header.longest_token_bytes,
        n_ctx=fit.run.n_ctx,
        n_batch=config.n_batch,
        prompt_step_s=config.prompt_step_s,
        stream_interval_s=config.stream_interval_s,
        n_threads=n_threads,
        n_threads_batch=config.n_threads_batch or n_threads,
        poll=config.poll,
        n_gpu_layers=fit.run.n_gpu_layers,
        max_running=spec.max_running,
        prefix_reuse=config.prefix_reuse,
        speculation=config.speculation,
        type_k=fit.run.type_k,
        type_v=fit.run.type_v,
        n_cpu_moe=fit.run.n_cpu_moe,
        tensor_split=fit.run.tensor_split,
        warm_tier=warm_tier if kv_disk_bytes else None,
        pooling=header.pooling,
        adapters=spec.adapters,
        n_contexts=fit.run.n_contexts,
        draft_model_path=str(spec.draft.path) if spec.draft is not None else "",
    )
