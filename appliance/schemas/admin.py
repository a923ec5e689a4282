"""The wire types of the admin API."""

from __future__ import annotations

from pydantic import BaseModel


class Percentiles(BaseModel):
    p50: float
    p90: float
    p99: float


class Latencies(BaseModel):
    """In seconds, over the latest requests; None while there were none. ``tpot_s`` is the time for one token more."""

    n_requests: int
    queue_s: Percentiles | None
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    e2e_s: Percentiles | None


class KVCacheStatus(BaseModel):
    """``retained`` sequences have ended and are kept for later prompts; their tokens count as used."""

    used_tokens: int
    total_tokens: int
    retained: int


class EngineWork(BaseModel):
    """What an engine has done since it was loaded; ``compute_s`` in seconds."""

    steps: int
    compute_s: float
    prompt_tokens_computed: int
    prompt_tokens_reused: int
    tokens_sampled: int
    preemptions: int
    evictions: int


class EngineStatus(BaseModel):
    """``running`` and ``waiting`` count sequences: a request with n > 1 is several."""

    state: str
    pid: int
    error: str | None
    device: str | None
    build: str | None
    n_ctx: int | None
    slots: int | None
    running: int
    waiting: int
    kv_cache: KVCacheStatus | None
    work: EngineWork | None


class ModelStatus(BaseModel):
    name: str
    gguf_sha256: str
    quantization: str


class Status(BaseModel):
    model: ModelStatus
    engine: EngineStatus
    requests_open: int
    latencies: Latencies


class RequestStatus(BaseModel):
    """A prompt that waits or runs. ``id`` is that of its completion, ``request_id`` that of the HTTP request."""

    id: str
    request_id: str
    key: str
    model: str
    state: str
    prompt_tokens: int
    prompt_tokens_computed: int
    completion_pieces: int
    age_s: float


class RequestList(BaseModel):
    requests: list[RequestStatus]


class Cancelled(BaseModel):
    cancelled: str
