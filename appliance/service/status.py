"""What an administrator sees: the models, their engines, and how long requests take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec

from appliance.cache.store import ResponseCache
from appliance.engine.messages import Load
from appliance.models.lock import Version as LockedVersion
from appliance.schemas.admin import (
    AdapterInfo,
    DeviceMemory,
    EngineStatus,
    EngineWork,
    KVCacheStatus,
    Latencies,
    ModelStatus,
    Percentiles,
    Status,
    Version,
)
from appliance.service.activity import Activity
from appliance.service.adapters import listed as listed_adapters
from appliance.service.cache_status import cache_status
from appliance.service.catalog import Catalog, Listed, ServedModel
from appliance.supervisor.host import ModelHost
from appliance.supervisor.supervisor import Supervisor


def snapshot(catalog: Catalog, supervisor: Supervisor, activity: Activity, cache: ResponseCache | None) -> Status:
    default = catalog.default_if_any
    supervisor.ledger.recheck_all()
    return Status(
        time_s=time.time(),
        started_s=activity.started_s,
        default=default,
        models=[model_status(host, default) for host in supervisor.hosts.values()],
        requests_open=len(activity.running()),
        latencies=latencies(activity),
        response_cache=cache_status(cache, activity.metrics.response_cache) if cache is not None else None,
    )


def versions(catalog: Catalog, supervisor: Supervisor) -> list[Version]:
    """Every version of models.lock, and what becomes of it."""
    default = catalog.default_if_any
    supervisor.ledger.recheck_all()
    return [_version(listed, supervisor, default) for listed in catalog.all()]


def model_status(host: ModelHost, default: str | None) -> ModelStatus:
    now = asyncio.get_running_loop().time()
    record = host.spec.stored.record
    return ModelStatus(
        name=record.name,
        version=record.version,
        gguf_sha256=record.gguf_sha256,
        quantization=record.quantization,
        state=host.state,
        is_default=record.name == default,
        is_pinned=host.spec.is_pinned,
        error=host.error.message if host.error is not None else None,
        load_ratio=host.load_progress,
        retry_in_s=max(0.0, host.retry_at - now) if host.state == "failed" else None,
        idle_s=now - host.last_used_at if host.state == "ready" and not host.n_users else None,
        requests=host.n_users,
        requests_waiting=host.n_waiting,
        engine=_engine(host),
    )


def latencies(activity: Activity) -> Latencies:
    recent = list(activity.latencies)
    return Latencies(
        n_requests=len(recent),
        queue_s=percentiles([one.queue_s for one in recent]),
        ttft_s=percentiles([one.ttft_s for one in recent if one.ttft_s is not None]),
        e2e_s=percentiles([one.e2e_s for one in recent]),
        tpot_s=percentiles([one.decode_s / (one.n_completion - 1) for one in recent if one.n_completion > 1]),
    )


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """None if there are no values."""
    if not values:
        return None
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    return Percentiles(p50=at(0.5), p90=at(0.9), p99=at(0.99))


def _engine(host: ModelHost) -> EngineStatus | None:
    client, fit, info = host.client, host.fit, host.info
    if client is None or fit is None:
        return None
    load = client.load
    return EngineStatus(
        pid=client.pid,
        device=info.device if info else None,
        build=info.build if info else None,
        n_ctx=info.n_ctx if info else fit.run.n_ctx,
        n_gpu_layers=info.n_gpu_layers if info else fit.run.n_gpu_layers,
        slots=info.n_seq_max if info else None,
        running=load.n_running if load else 0,
        waiting=load.n_waiting if load else 0,
        kv_cache=_kv_cache(load) if load and not host.spec.wanted.is_embedding else None,
        work=_work(load) if load else None,
        memory={device: DeviceMemory(**msgspec.structs.asdict(use)) for device, use in host.memory.items()},
        reasons=list(fit.reasons),
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
        draft_tokens=load.n_drafted,
        draft_tokens_accepted=load.n_draft_accepted,
        preemptions=load.n_preempted,
        evictions=load.n_evicted,
    )


def _version(listed: Listed, supervisor: Supervisor, default: str | None) -> Version:
    entry, version, served = listed.entry, listed.version, listed.served
    # Also of one whose file has gone since: its engine serves on.
    host = supervisor.hosts.get(f"{entry.name}@{version.short}")
    return Version(
        name=entry.name,
        version=version.short,
        aliases=list(served.aliases if served is not None else entry.aliases),
        description=entry.description,
        license=entry.license,
        quantization=version.quantization,
        size_bytes=version.gguf.size_bytes if version.gguf is not None else None,
        n_ctx_train=version.gguf.n_ctx_train if version.gguf is not None else None,
        n_params=version.gguf.n_params if version.gguf is not None else None,
        kl_divergence=version.quality.kl_divergence if version.quality is not None else None,
        state=host.state if host is not None else "stored" if served is not None else "absent",
        is_current=listed.is_current,
        is_previous=listed.is_previous,
        is_default=listed.is_current and entry.name == default,
        is_pinned=served.spec.is_pinned if served is not None else False,
        problem=listed.problem,
        status=model_status(host, default) if host is not None else None,
        adapters=_adapters(version, served) if served is not None else [],
        kind=served.stored.record.header.kind if served is not None else None,
    )


def _adapters(version: LockedVersion, served: ServedModel) -> list[AdapterInfo]:
    found = listed_adapters(version, served.stored, served.spec.adapters)
    return [AdapterInfo(name=each.name, scale=each.scale, problem=each.problem) for each in found]
