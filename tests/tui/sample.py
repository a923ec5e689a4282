"""What a server may say: one builder for each noun. A field that matters to a test is given by its name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from appliance.schemas.admin import (
    EndedRequest,
    EngineStatus,
    History,
    KVCacheStatus,
    Latencies,
    LogLines,
    ModelList,
    ModelPlan,
    ModelStatus,
    Percentiles,
    RequestList,
    RequestStatus,
    Snapshot,
    Status,
    Version,
)
from appliance.schemas.cache import CacheContents, CachedAnswers, CacheStatus
from appliance.schemas.doctor import Diagnosis
from appliance.schemas.hardware import MachineStatus

# The clock of everything here: 2026-01-02 03:04:05 UTC.
NOW_S = 1767323045.0
MIB = 1 << 20
GIB = 1 << 30


def answers() -> dict[str, BaseModel]:
    """By path: two models, of which one is loaded, and nothing to do."""
    return {
        "/admin/status": status(),
        "/admin/models": models(),
        "/admin/requests": requests(),
        "/admin/history": history(),
        "/admin/hardware": machine(),
        "/admin/cache": cache(),
        "/admin/logs": LogLines(lines=[]),
        "/admin/doctor": Diagnosis.model_validate({"status": "ok", "findings": []}),
    }


def status(**fields: Any) -> Status:
    given = {
        "time_s": NOW_S,
        "started_s": NOW_S - 3600,
        "default": "small",
        "models": [model_status(name="small", is_default=True)],
        "requests_open": 0,
        "latencies": latencies(),
        "response_cache": cache_status(),
    }
    return Status.model_validate(given | fields)


def latencies(**fields: Any) -> Latencies:
    some = Percentiles(p50=0.25, p90=0.5, p99=1.0)
    given = {"n_requests": 12, "queue_s": some, "ttft_s": some, "tpot_s": some, "e2e_s": some}
    return Latencies.model_validate(given | fields)


def model_status(**fields: Any) -> ModelStatus:
    """A model that is ready; another ``state`` has no engine, unless one is given."""
    given = {
        "name": "small",
        "version": "111111111111",
        "gguf_sha256": "1" * 64,
        "quantization": "Q4_0",
        "state": "ready",
        "is_default": False,
        "is_pinned": False,
        "error": None,
        "load_ratio": None,
        "retry_in_s": None,
        "idle_s": 5.0,
        "requests": 0,
        "requests_waiting": 0,
        "engine": engine() if fields.get("state", "ready") in ("ready", "draining") else None,
    }
    return ModelStatus.model_validate(given | fields)


def engine(**fields: Any) -> EngineStatus:
    given = {
        "pid": 42,
        "device": "CPU",
        "build": "llama.cpp b1",
        "n_ctx": 8192,
        "n_gpu_layers": 0,
        "slots": 4,
        "running": 0,
        "waiting": 0,
        "kv_cache": KVCacheStatus(used_tokens=1024, total_tokens=8192, retained=2),
        "work": None,
        "memory": {
            "RAM": {
                "weights_bytes": 400 * MIB,
                "kv_bytes": 96 * MIB,
                "compute_bytes": 128 * MIB,
                "overhead_bytes": 64 * MIB,
            }
        },
        "reasons": ["n_ctx=8192: the model was trained for it"],
    }
    return EngineStatus.model_validate(given | fields)


def models() -> ModelList:
    """A default one that is loaded and has an older version, and a large one on the disk."""
    current = version(is_current=True, is_default=True, status=model_status(is_default=True))
    older = version(
        version="222222222222", quantization="Q8_0", kl_divergence=0.001, size_bytes=700 * MIB, is_previous=True
    )
    large = version(
        name="large",
        version="333333333333",
        aliases=[],
        description="Slow and good",
        quantization="Q4_K_M",
        size_bytes=5 * GIB,
        n_params=8_000_000_000,
        is_current=True,
    )
    return ModelList(models=[current, older, large])


def version(**fields: Any) -> Version:
    """One that is on the disk, and was never asked for."""
    given = {
        "name": "small",
        "version": "111111111111",
        "aliases": ["acme/small"],
        "description": "Quick and small",
        "license": "apache-2.0",
        "quantization": "Q4_0",
        "size_bytes": 400 * MIB,
        "n_ctx_train": 32768,
        "n_params": 494_000_000,
        "kl_divergence": 0.0123,
        "is_current": False,
        "is_default": False,
        "is_pinned": False,
        "is_previous": False,
        "state": fields["status"].state if fields.get("status") else "absent" if fields.get("problem") else "stored",
        "problem": None,
        "status": None,
    }
    return Version.model_validate(given | fields)


def plan(**fields: Any) -> ModelPlan:
    """Of the large model, which fits in RAM once the small one has made way; not ``fits``: it doesn't."""
    given = {
        "model": "large@333333333333",
        "quantization": "Q4_K_M",
        "fits": True,
        "error": None,
        "was_loaded": False,
        "evicted": ["small@111111111111"],
        "run": {
            "n_ctx": 8192,
            "n_seq_max": 37,
            "n_batch": 512,
            "type_k": "f16",
            "type_v": "f16",
            "n_gpu_layers": 0,
            "n_cpu_moe": 0,
            "tensor_split": [],
            "n_outputs_max": 37,
            "n_contexts": 1,
            "adapter_bytes": 0,
        },
        "reasons": ["n_ctx=8192: more does not fit beside its weights"],
        "devices": [device_plan(device="RAM", layers=33)],
    }
    return ModelPlan.model_validate(given | fields)


def device_plan(**fields: Any) -> dict[str, Any]:
    """Of a device that the model lies on; ``estimated`` None: it lies elsewhere."""
    given = {
        "device": "RAM",
        "layers": 33,
        "estimated": {
            "weights_bytes": 5 * GIB,
            "kv_bytes": GIB,
            "compute_bytes": 300 * MIB,
            "overhead_bytes": 100 * MIB,
            "total_bytes": 6 * GIB + 400 * MIB,
        },
        "measured": None,
        "free_bytes": 6 * GIB,
        "free_then_bytes": 200 * MIB,
    }
    return given | fields


def requests(*open_ones: RequestStatus, **fields: Any) -> RequestList:
    return RequestList.model_validate({"requests": list(open_ones), "recent": []} | fields)


def request(**fields: Any) -> RequestStatus:
    """One that is answered at the moment."""
    given = {
        "id": "chatcmpl-1",
        "request_id": "req-1",
        "key": "app",
        "model": "small",
        "state": "decode",
        "prompt_tokens": 100,
        "prompt_tokens_computed": 100,
        "completion_pieces": 20,
        "age_s": 2.0,
        "queue_place": None,
        "tokens_per_s": 12.5,
        "cache": "miss",
    }
    return RequestStatus.model_validate(given | fields)


def ended(**fields: Any) -> EndedRequest:
    """One that was computed to its end."""
    given = {
        "id": "chatcmpl-0",
        "request_id": "req-0",
        "key": "app",
        "model": "small",
        "outcome": "stop",
        "cache": "miss",
        "prompt_tokens": 100,
        "cached_tokens": 64,
        "completion_tokens": 40,
        "queue_s": 0.01,
        "ttft_s": 0.3,
        "e2e_s": 2.5,
        "ended_s": NOW_S - 10,
    }
    return EndedRequest.model_validate(given | fields)


def history(*snapshots: Snapshot) -> History:
    return History(interval_s=1.0, snapshots=list(snapshots))


def moment(**fields: Any) -> Snapshot:
    """A snapshot of the history; of a machine with no GPU that does nothing."""
    given = {
        "time_s": NOW_S,
        "requests_running": 0,
        "requests_waiting": 0,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cached_tokens": 0,
        "response_cache_hits": 0,
        "response_cache_joins": 0,
        "response_cache_misses": 0,
        "kv_used_tokens": 1024,
        "kv_total_tokens": 8192,
        "ttft_p50_s": 0.25,
        "tpot_p50_s": 0.05,
        "cpu_ratio": 0.1,
        "ram_used_bytes": GIB,
        "net_sent_bytes": 0,
        "net_received_bytes": 0,
        "gpus": [],
    }
    return Snapshot.model_validate(given | fields)


def machine(**fields: Any) -> MachineStatus:
    given = {
        "cpu": {
            "model": "A processor",
            "architecture": "x86_64",
            "physical_cores": 2,
            "logical_cpus": 4,
            "quota": None,
            "instruction_sets": ["avx2"],
            "use_ratios": [0.1, 0.2, 0.3, 0.4],
        },
        "ram": {
            "total_bytes": 16 * GIB,
            "available_bytes": 12 * GIB,
            "limit_bytes": 8 * GIB,
            "cgroup_limit_bytes": 8 * GIB,
            "used_bytes": 2 * GIB,
            "room_bytes": 6 * GIB,
        },
        "disks": [disk()],
        "gpus": {"devices": [], "driver_version": None, "cuda_version": None, "reason": "no driver", "n_on_bus": 0},
        "net_sent_bytes": 0,
        "net_received_bytes": 0,
    }
    return MachineStatus.model_validate(given | fields)


def disk(**fields: Any) -> dict[str, Any]:
    given = {
        "name": "models_dir",
        "path": "/models",
        "exists": True,
        "total_bytes": 100 * GIB,
        "free_bytes": 60 * GIB,
        "file_system": "ext4",
        "is_read_only": False,
        "problem": None,
    }
    return given | fields


def gpu(**fields: Any) -> dict[str, Any]:
    """A device of ``machine(gpus=...)``."""
    given = {
        "name": "A GPU",
        "vendor": "NVIDIA",
        "uuid": "GPU-1",
        "pci_bus_id": "00000000:01:00.0",
        "total_bytes": 24 * GIB,
        "used_bytes": 6 * GIB,
        "free_bytes": 18 * GIB,
        "use_ratio": 0.5,
        "temperature_c": 55,
        "power_w": 120.0,
        "power_limit_w": 300.0,
        "processes": [],
        "ecc_errors": 0,
        "is_unified": False,
        "lost": None,
    }
    return given | fields


def cache(*contents: CachedAnswers, **fields: Any) -> CacheContents:
    return CacheContents.model_validate({"status": cache_status(), "contents": list(contents)} | fields)


def cached_answers(**fields: Any) -> CachedAnswers:
    given = {
        "model": "small",
        "version": "111111111111",
        "key": "app",
        "answers": 30,
        "tokens": 3000,
        "oldest_s": NOW_S - 86400,
    }
    return CachedAnswers.model_validate(given | fields)


def cache_status(**fields: Any) -> CacheStatus:
    given = {
        "path": "/state/responses.sqlite",
        "used_bytes": 3 * MIB,
        "limit_bytes": 100 * MIB,
        "ttl_s": None,
        "problem": None,
        "hits": 30,
        "joins": 10,
        "misses": 60,
        "bypasses": {"temperature": 5},
        "evictions": 0,
        "unkept": 0,
        "unread": 0,
        "saved_tokens": 4000,
        "saved_s": 80.0,
    }
    return CacheStatus.model_validate(given | fields)
