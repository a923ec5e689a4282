"""One snapshot of what the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from appliance.engine.messages import Load
from appliance.models.store import StoredModel
from appliance.schemas.admin import (
    EngineStatus,
    EngineWork,
    KVCacheStatus,
    Latencies,
    ModelStatus,
    Percentiles,
    RequestStatus,
    Status,
)
from appliance.service.activity import Activity
from appliance.service.generation import Generation
from appliance.supervisor.supervisor import Supervisor


def snapshot(model: StoredModel, supervisor: Supervisor, activity: Activity) -> Status:
    load = supervisor.load
    info = supervisor.info
    recent = list(activity.recent)
    engine = EngineStatus(
        state=supervisor.state,
        pid=supervisor.pid,
        error=supervisor.error.message if supervisor.error else None,
        device=info.device if info else None,
        build=info.build if info else None,
        n_ctx=info.n_ctx if info else None,
        slots=info.n_seq_max if info else None,
        running=load.n_running if load else 0,
        waiting=load.n_waiting if load else 0,
        kv_cache=_kv_cache(load) if load else None,
        work=_work(load) if load else None,
    )
    record = model.record
    return Status(
        model=ModelStatus(name=model.name, gguf_sha256=record.gguf_sha256, quantization=record.quantization),
        engine=engine,
        requests_open=len(activity.running()),
        latencies=Latencies(
            n_requests=len(recent),
            queue_s=_percentiles([ended.queue_s for ended in recent]),
            ttft_s=_percentiles([ended.ttft_s for ended in recent if ended.ttft_s is not None]),
            e2e_s=_percentiles([ended.e2e_s for ended in recent]),
            tpot_s=_percentiles(
                [ended.decode_s / (ended.n_completion - 1) for ended in recent if ended.n_completion > 1]
            ),
        ),
    )


def _kv_cache(load: Load) -> KVCacheStatus:
    return KVCacheStatus(used_tokens=load.n_cells_used, total_tokens=load.n_cells, retained=load.n_retained)


def _work(load: Load) -> EngineWork:
    return EngineWork(
        steps=load.n_steps,
        compute_s=load.compute_s,
        prompt_tokens_computed=load.n_prompt_computed,
        prompt_tokens_reused=load.n_prompt_reused,
        tokens_sampled=load.n_sampled,
        preemptions=load.n_preempted,
        evictions=load.n_evicted,
    )


def open_requests(activity: Activity) -> list[RequestStatus]:
    """Those that wait and run, oldest first."""
    now = asyncio.get_running_loop().time()
    return [_request(generation, now) for generation in activity.running()]


def _request(generation: Generation, now: float) -> RequestStatus:
    context = generation.context
    return RequestStatus(
        id=generation.submit.request_id,
        request_id=context.request_id,
        key=context.key,
        model=context.model,
        state=generation.state,
        prompt_tokens=generation.n_prompt,
        prompt_tokens_computed=generation.n_prompt if generation.state == "decode" else generation.n_computed,
        completion_pieces=generation.n_pieces,
        age_s=now - context.arrived_at,
    )


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    if not values:
        return None
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return Percentiles(p50=at(0.5), p90=at(0.9), p99=at(0.99))
