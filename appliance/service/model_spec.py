"""What the settings, those for all models and its own, make of a stored model."""

from __future__ import annotations

from appliance.engine.messages import MAX_EMBEDDED
from appliance.hardware.fit import Wanted
from appliance.models.gguf_header import TEXT
from appliance.models.store import StoredModel
from appliance.service.adapters import max_adapters, servable
from appliance.settings import ModelSettings, Settings
from appliance.supervisor.spec import ModelSpec

# Slots beside those of running sequences: the engine keeps ended ones in 32, and has one for itself.
N_EXTRA_SLOTS = 33


def model_spec(
    config: Settings,
    own: ModelSettings,
    stored: StoredModel,
    draft: StoredModel | None = None,
    *,
    is_pinned: bool = False,
) -> ModelSpec:
    """What the supervisor has to know of a model, by its own settings and those for all, and of its draft model."""
    max_running = own.max_running or config.max_running
    header = stored.record.header
    is_embedding = header.kind != TEXT
    n_ctx = own.n_ctx or config.n_ctx
    n_seq_max = MAX_EMBEDDED if is_embedding else max_running + N_EXTRA_SLOTS
    adapters = servable(config, own, stored)
    return ModelSpec(
        stored=stored,
        wanted=Wanted(
            n_ctx=min(n_ctx, header.n_ctx_train) if n_ctx is not None and is_embedding else n_ctx,
            n_gpu_layers=config.n_gpu_layers if own.n_gpu_layers is None else own.n_gpu_layers,
            n_seq_max=n_seq_max,
            n_outputs_max=0 if is_embedding else n_seq_max,
            n_batch=config.n_batch,
            type_k=own.type_k or config.type_k,
            type_v=own.type_v or config.type_v,
            is_embedding=is_embedding,
            n_contexts=1 + min(len(adapters), max_adapters(config, own)),
            adapter_bytes=sum(adapter.n_bytes for adapter in stored.adapters) if adapters else 0,
            draft=draft.record.shape if draft is not None else None,
        ),
        max_running=max_running,
        max_open=max_running + config.max_waiting,
        is_pinned=is_pinned,
        require_gpu=config.require_gpu if own.require_gpu is None else own.require_gpu,
        ttl_s=config.ttl_s if own.ttl_s is None else own.ttl_s,
        adapters=adapters,
        draft=draft,
    )
