"""The wire types of the admin API."""

from __future__ import annotations

from pydantic import BaseModel

from appliance.schemas.cache import CacheStatus
from appliance.schemas.sampling import Text


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
    draft_tokens: int
    draft_tokens_accepted: int
    preemptions: int
    evictions: int


class DeviceMemory(BaseModel):
    """Bytes that a model takes of a device; ``overhead_bytes`` are its process's own and the driver's."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    overhead_bytes: int


class TotalMemory(DeviceMemory):
    total_bytes: int


class RunSettings(BaseModel):
    """How a model is run, in llama.cpp's words. ``n_gpu_layers`` -1: all; ``n_cpu_moe`` of the first layers keep their
    experts in RAM; ``tensor_split`` has each GPU's part of the layers, empty: equal parts. ``n_contexts`` of ``n_ctx``
    tokens each: the model's own, and one for each adapter that can be computed with at a time.
    """

    n_ctx: int
    n_seq_max: int
    n_batch: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    n_cpu_moe: int
    tensor_split: list[float]
    n_outputs_max: int
    n_contexts: int
    adapter_bytes: int


class DevicePlan(BaseModel):
    """What a model would take of a device. ``layers`` counts the output head. ``estimated`` None: nothing.

    ``measured`` is what it took when it was run so before; None: it wasn't. ``free_bytes`` are there for models now,
    ``free_then_bytes`` once it is loaded and others have made way.
    """

    device: str
    layers: int
    estimated: TotalMemory | None
    measured: TotalMemory | None
    free_bytes: int
    free_then_bytes: int


class ModelPlan(BaseModel):
    """What loading a model would do. Either it ``fits``, and ``run`` says how, or ``error`` says why it doesn't.

    ``model`` is its NAME@VERSION, ``evicted`` those of the models that would be unloaded for it. ``was_loaded``: it is
    in memory already, or about to be. ``devices``: RAM, then each GPU.
    """

    model: str
    quantization: str
    fits: bool
    error: str | None
    was_loaded: bool
    evicted: list[str]
    run: RunSettings | None
    reasons: list[str]
    devices: list[DevicePlan]


class EngineStatus(BaseModel):
    """A model's engine process. ``running`` and ``waiting`` count sequences: a request with n > 1 is several."""

    pid: int
    device: str | None
    build: str | None
    n_ctx: int
    n_gpu_layers: int
    slots: int | None
    running: int
    waiting: int
    kv_cache: KVCacheStatus | None
    work: EngineWork | None
    memory: dict[str, DeviceMemory]
    reasons: list[str]


class ModelStatus(BaseModel):
    """A version of a model that was asked for since the start.

    ``state`` is stored, loading, ready, draining or failed. ``requests`` have its engine, ``requests_waiting`` wait for
    it to be loaded. ``load_ratio`` says how far loading is, ``retry_in_s`` when a failed one is tried again.
    """

    name: str
    version: str
    gguf_sha256: str
    quantization: str
    state: str
    is_default: bool
    is_pinned: bool
    error: str | None
    load_ratio: float | None
    retry_in_s: float | None
    idle_s: float | None
    requests: int
    requests_waiting: int
    engine: EngineStatus | None


class Status(BaseModel):
    """``time_s`` is the wall clock's, since 1970; ``default`` the model of a request that names none, if any.

    ``started_s`` is when the server was started: where it has changed, log lines are numbered from 1 again.
    ``response_cache`` None: it is off.
    """

    time_s: float
    started_s: float
    default: str | None
    models: list[ModelStatus]
    requests_open: int
    latencies: Latencies
    response_cache: CacheStatus | None


class History(BaseModel):
    """Snapshots of the last minutes, oldest first, one every ``interval_s``."""

    interval_s: float
    snapshots: list[Snapshot]


class Snapshot(BaseModel):
    """What the server and its machine did at a moment. Counters run since the start; a rate is their difference.

    The network's run since the machine's start; None: the system doesn't say.
    """

    time_s: float
    requests_running: int
    requests_waiting: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    response_cache_hits: int
    response_cache_joins: int
    response_cache_misses: int
    kv_used_tokens: int
    kv_total_tokens: int
    ttft_p50_s: float | None
    tpot_p50_s: float | None
    cpu_ratio: float
    ram_used_bytes: int
    net_sent_bytes: int | None
    net_received_bytes: int | None
    gpus: list[GPUSnapshot]


class GPUSnapshot(BaseModel):
    """``use_ratio`` is how busy it was, from 0 to 1."""

    use_ratio: float | None
    used_bytes: int | None
    temperature_c: float | None
    power_w: float | None


class AdapterInfo(BaseModel):
    """A LoRA adapter: ``name`` is what requests ask for, ``problem`` why it can't be served."""

    name: str
    scale: float
    problem: str | None


class Version(BaseModel):
    """A version in models.lock. ``problem`` says why it can't be served; ``status`` is there once it was asked for.

    ``state`` is the status's, before that stored, or absent for one that can't be served. ``kind`` is text, embedding
    or rerank; None: it can't be told without the file. ``is_previous``: going back makes it current.
    """

    name: str
    version: str
    aliases: list[str]
    description: str
    license: str
    quantization: str
    size_bytes: int | None
    n_ctx_train: int | None
    n_params: int | None
    kl_divergence: float | None
    state: str
    is_current: bool
    is_previous: bool
    is_default: bool
    is_pinned: bool
    problem: str | None
    status: ModelStatus | None
    adapters: list[AdapterInfo] = []
    kind: str | None = None

    @property
    def may_write_text(self) -> bool:
        return self.kind in (None, "text")


class ModelList(BaseModel):
    models: list[Version]


class UseRequest(BaseModel):
    """``version``: the beginning of its hash, ``previous``, or empty for the newest."""

    version: Text = ""


class LogLine(BaseModel):
    number: int
    line: str


class LogLines(BaseModel):
    lines: list[LogLine]


class RequestStatus(BaseModel):
    """A prompt that waits or runs. ``id`` is that of its completion, ``request_id`` that of the HTTP request.

    ``state`` is waiting, prefill or decode. ``queue_place`` 1 is the next of those of its model that wait for the
    engine; None: it doesn't. ``cache`` is hit, joined, miss or bypass, or None while the response cache is asked.
    ``tokens_per_s`` is how fast its answer comes; None before its second piece, and where another request's is given.
    """

    id: str
    request_id: str
    key: str
    model: str
    state: str
    queue_place: int | None
    cache: str | None
    prompt_tokens: int
    prompt_tokens_computed: int
    completion_pieces: int
    tokens_per_s: float | None
    age_s: float


class EndedRequest(BaseModel):
    """A prompt whose answer has ended. ``outcome`` is stop, length, abort (its client left), or an error's code.

    ``cache`` None: it ended before the response cache had answered. ``queue_s`` None: nothing was computed for it, or
    not to its end; its counts are then what had become known. ``ended_s`` is the wall clock's, since 1970.
    """

    id: str
    request_id: str
    key: str
    model: str
    outcome: str
    cache: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_s: float | None
    ttft_s: float | None
    e2e_s: float
    ended_s: float


class RequestList(BaseModel):
    """``requests`` are open, oldest first; ``recent`` the latest that ended, newest first."""

    requests: list[RequestStatus]
    recent: list[EndedRequest]


class Cancelled(BaseModel):
    cancelled: str
