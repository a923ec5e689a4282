"""Prometheus metrics, named after vLLM's with the prefix ``appliance_``. No label holds a key's name or a prompt."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from appliance.engine.messages import Finished, Load

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
    ("preemptions", "Times a running sequence made way for others.", lambda now: now.n_preempted),
    ("evictions", "Times a retained sequence made room.", lambda now: now.n_evicted),
)


class _EngineCounters(Collector):
    def __init__(self, model: str, load: Callable[[], Load | None]) -> None:
        self._model = model
        self._load = load

    def collect(self) -> Iterator[CounterMetricFamily]:
        now = self._load() or Load()
        for name, text, value in _ENGINE_COUNTERS:
            family = CounterMetricFamily(f"appliance_{name}", text, labels=["model_name"])
            family.add_metric([self._model], value(now))
            yield family


class _TokenGaps(Collector):
    """The histogram of the times between tokens, seen tens of thousands of times a second: one addition each."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._counts = [0] * (len(_TOKEN_SECONDS) + 1)
        self._sum_s = 0.0

    def observe(self, gap_s: float) -> None:
        self._counts[bisect_left(_TOKEN_SECONDS, gap_s)] += 1
        self._sum_s += gap_s

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(
            "appliance_inter_token_latency_seconds", "Between texts of one sequence.", labels=["model_name"]
        )
        bounds = [*map(floatToGoString, _TOKEN_SECONDS), "+Inf"]
        family.add_metric([self._model], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum_s)
        yield family


class Metrics:
    """``load`` gives the engine's load, None while there is no engine."""

    def __init__(self, model: str, load: Callable[[], Load | None]) -> None:
        self._registry = CollectorRegistry()
        self._model = model

        def gauge(name: str, text: str, value: Callable[[Load], float]) -> None:
            metric = Gauge(f"appliance_{name}", text, ["model_name"], registry=self._registry)
            metric.labels(model).set_function(lambda: value(load() or Load()))

        def counter(name: str, text: str) -> Counter:
            return Counter(f"appliance_{name}", text, ["model_name"], registry=self._registry).labels(model)

        def histogram(name: str, text: str) -> Histogram:
            metric = Histogram(f"appliance_{name}", text, ["model_name"], registry=self._registry, buckets=_SECONDS)
            return metric.labels(model)

        gauge("requests_running", "Sequences in the engine's steps.", lambda now: now.n_running)
        gauge("requests_waiting", "Sequences that wait for a slot.", lambda now: now.n_waiting)
        gauge("kv_cache_usage_ratio", "Used part of the KV cache.", lambda now: now.n_cells_used / now.n_cells)
        gauge("retained_sequences", "Ended sequences that are kept for later prompts.", lambda now: now.n_retained)
        self._registry.register(_EngineCounters(model, load))
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._cached_tokens = counter("prefix_cache_hits", "Prompt tokens that were not computed again.")
        self._completion_tokens = counter("generation_tokens", "Tokens that were generated.")
        self._ttft = histogram("time_to_first_token_seconds", "From the request's arrival to its first text.")
        self._itl = _TokenGaps(model)
        self._registry.register(self._itl)
        self._e2e = histogram("e2e_request_latency_seconds", "From the request's arrival to its end.")
        self._queue = histogram("request_queue_time_seconds", "Until the first step that computed for the request.")
        self._prefill = histogram("request_prefill_time_seconds", "From that step to the first token.")
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.")
        self._requests = Counter(
            "appliance_http_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self._finished = Counter(
            "appliance_request_outcomes",
            "Generations by how they ended: stop, length, abort, or an error's code.",
            ["model_name", "outcome"],
            registry=self._registry,
        )

    def saw_first_token(self, ttft_s: float) -> None:
        self._ttft.observe(ttft_s)

    def saw_next_token(self, gap_s: float) -> None:
        self._itl.observe(gap_s)

    def saw_end(self, outcome: str, finished: Finished | None, e2e_s: float) -> None:
        """A generation has ended; ``finished`` is None unless it was completed or aborted by the engine."""
        self._finished.labels(self._model, outcome).inc()
        self._e2e.observe(e2e_s)
        if finished is not None:
            self._prompt_tokens.inc(finished.n_prompt)
            self._cached_tokens.inc(finished.n_cached)
            self._completion_tokens.inc(finished.n_completion)
            self._queue.observe(finished.queue_s)
            self._prefill.observe(finished.prefill_s)
            self._decode.observe(finished.decode_s)

    def saw_response(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def render(self) -> bytes:
        """The exposition in Prometheus's text format."""
        return generate_latest(self._registry)
