"""Prometheus metrics, named after vLLM's with the prefix ``appliance_``. No label holds a key's name or a prompt."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from appliance.cache.store import ResponseCache
from appliance.engine.messages import Finished, Load
from appliance.service.cache_metrics import ResponseCacheMetrics
from appliance.service.kv_disk_metrics import kv_disk_metrics
from appliance.supervisor.events import ModelEvent

# A second series for each, with the time of its creation, which nobody asked for.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5)


# Counted by the engine since it was loaded; they begin again at 0 with a new engine.
_ENGINE_COUNTERS: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
    ("engine_steps", "Steps that the engine has computed.", lambda now: now.n_steps),
    ("engine_compute_seconds", "Time that the steps took.", lambda now: now.compute_s),
    ("engine_prompt_tokens_computed", "Prompt tokens in the steps.", lambda now: now.n_prompt_computed),
    ("engine_prompt_tokens_reused", "Prompt tokens taken from computed prefixes.", lambda now: now.n_prompt_reused),
    ("engine_tokens_sampled", "Tokens that the steps gave.", lambda now: now.n_sampled),
    ("engine_draft_tokens", "Tokens that were guessed.", lambda now: now.n_drafted),
    ("engine_draft_tokens_accepted", "Guessed tokens that were right.", lambda now: now.n_draft_accepted),
    ("preemptions", "Times a running sequence made way for others.", lambda now: now.n_preempted),
    ("evictions", "Times a retained sequence made room.", lambda now: now.n_evicted),
)


_ENGINE_GAUGES: tuple[tuple[str, str, Callable[[Load], float]], ...] = (
    ("requests_running", "Sequences in the engine's steps.", lambda now: now.n_running),
    ("requests_waiting", "Sequences that wait for a slot.", lambda now: now.n_waiting),
    ("kv_cache_usage_ratio", "Used part of the KV cache.", lambda now: now.n_cells_used / now.n_cells),
    ("retained_sequences", "Ended sequences that are kept for later prompts.", lambda now: now.n_retained),
)
# By the names of the models that have an engine.
Loads = Callable[[], Mapping[str, Load]]


class _EngineFigures(Collector):
    """What the engines say of themselves, read when it is asked for."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        loads = self._loads()
        yield from kv_disk_metrics(loads)
        for kind, figures in ((GaugeMetricFamily, _ENGINE_GAUGES), (CounterMetricFamily, _ENGINE_COUNTERS)):
            for name, text, value in figures:
                family = kind(f"appliance_{name}", text, labels=["model_name"])
                for model, load in loads.items():
                    family.add_metric([model], value(load))
                yield family


class _Gaps:
    """Times between tokens, seen tens of thousands of times a second: one addition each."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_TOKEN_SECONDS) + 1)
        self.sum_s = 0.0


class _TokenGaps(Collector):
    """The histogram of the times between tokens."""

    def __init__(self) -> None:
        self.by_model: dict[str, _Gaps] = {}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "appliance_inter_token_latency_seconds", "Between texts of one sequence.", labels=["model_name"]
        )
        bounds = [*map(floatToGoString, _TOKEN_SECONDS), "+Inf"]
        for model, gaps in self.by_model.items():
            family.add_metric([model], list(zip(bounds, accumulate(gaps.counts), strict=True)), gaps.sum_s)
        yield family


class Metrics:
    """``loads`` gives the load of each model that has an engine. ``cache`` None: the response cache is off."""

    def __init__(self, loads: Loads, cache: ResponseCache | None = None) -> None:
        self._registry = CollectorRegistry()
        self.response_cache = ResponseCacheMetrics(cache)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"appliance_{name}", text, labels or ["model_name"], registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"appliance_{name}", text, ["model_name"], registry=self._registry, buckets=_SECONDS)

        self._registry.register(_EngineFigures(loads))
        self._registry.register(self.response_cache)
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = counter("prefix_cache_hits", "Prompt tokens that were not computed again.")
        self._completion_tokens = counter("generation_tokens", "Tokens that were generated.")
        self._ttft = histogram("time_to_first_token_seconds", "From the request's arrival to its first text.")
        self._itl = _TokenGaps()
        self._registry.register(self._itl)
        self._e2e = histogram("e2e_request_latency_seconds", "From the request's arrival to its end.")
        self._queue = histogram("request_queue_time_seconds", "Until the first step that computed for the request.")
        self._prefill = histogram("request_prefill_time_seconds", "From that step to the first token.")
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.")
        self._requests = counter("http_requests", "Requests by route and status.", "route", "status")
        self._finished = counter(
            "request_outcomes",
            "Generations by how they ended: stop, length, abort, or an error's code.",
            "model_name",
            "outcome",
        )
        self._violations = counter("schema_violations", "Texts that were not as their JSON schema wants them.")
        self._loaded = counter("model_loads", "Loads of a model: ok, failed, or refused.", "model_name", "outcome")
        self._unloaded = counter("model_unloads", "Times a model was unloaded, by the reason.", "model_name", "reason")
        self._load_s = histogram("model_load_seconds", "From the start of an engine process to its readiness.")

    def saw_first_token(self, model: str, ttft_s: float) -> None:
        self._ttft.labels(model).observe(ttft_s)

    def saw_next_tokens(self, model: str, gap_s: float, n_tokens: int) -> None:
        gaps = self._itl.by_model.get(model)
        if gaps is None:
            gaps = self._itl.by_model[model] = _Gaps()
        gaps.counts[bisect_left(_TOKEN_SECONDS, gap_s)] += n_tokens
        gaps.sum_s += gap_s * n_tokens

    def saw_end(self, model: str, outcome: str, e2e_s: float) -> None:
        """A generation has ended for the request that it was begun for."""
        self._finished.labels(model, outcome).inc()
        self._e2e.labels(model).observe(e2e_s)

    def saw_computed(self, model: str, finished: Finished) -> None:
        """An engine has completed a generation, whoever still listens."""
        self._prompt_tokens.labels(model).inc(finished.n_prompt)
        self._cached_tokens.labels(model).inc(finished.n_cached)
        self._completion_tokens.labels(model).inc(finished.n_completion)
        self._queue.labels(model).observe(finished.queue_s)
        self._prefill.labels(model).observe(finished.prefill_s)
        self._decode.labels(model).observe(finished.decode_s)

    def saw_schema_violation(self, model: str) -> None:
        self._violations.labels(model).inc()

    def saw_model(self, event: ModelEvent) -> None:
        """A model was loaded, could not be, or was unloaded."""
        match event.kind:
            case "ready":
                self._loaded.labels(event.model, "ok").inc()
                self._load_s.labels(event.model).observe(event.fields["load_s"])
            case "failed" | "refused":
                self._loaded.labels(event.model, event.kind).inc()
            case "unloaded":
                self._unloaded.labels(event.model, event.fields["reason"]).inc()

    def saw_response(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def add(self, collector: Collector) -> None:
        """Further figures, which are read when they are asked for."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """The exposition in Prometheus's text format."""
        return generate_latest(self._registry)
