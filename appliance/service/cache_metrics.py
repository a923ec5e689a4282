"""What the response cache did for each model, and what becomes of its file, for Prometheus and the admin API."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from appliance.cache.store import ResponseCache


@dataclass(slots=True)
class Counts:
    """Prompts by where their answers came from. ``saved_s`` is how long the engine took for what it gave only once."""

    n_hits: int = 0
    n_misses: int = 0
    n_joins: int = 0
    bypasses: Counter[str] = field(default_factory=Counter)
    saved_tokens: int = 0
    saved_s: float = 0.0


_COUNTERS: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("hits", "Prompts that were answered from the response cache.", lambda counts: counts.n_hits),
    ("misses", "Prompts that were computed, and whose answers are kept.", lambda counts: counts.n_misses),
    ("joins", "Prompts that were answered by a generation under way.", lambda counts: counts.n_joins),
    ("saved_tokens", "Tokens of prompts and answers of hits and joins.", lambda counts: counts.saved_tokens),
    ("saved_seconds", "How long hits and joins took when they were computed.", lambda counts: counts.saved_s),
)


class ResponseCacheMetrics(Collector):
    def __init__(self, cache: ResponseCache | None) -> None:
        self._cache = cache
        self._by_model: defaultdict[str, Counts] = defaultdict(Counts)

    def saw_hit(self, model: str) -> None:
        self._by_model[model].n_hits += 1

    def saw_miss(self, model: str) -> None:
        self._by_model[model].n_misses += 1

    def saw_join(self, model: str) -> None:
        self._by_model[model].n_joins += 1

    def saw_bypass(self, model: str, reason: str) -> None:
        self._by_model[model].bypasses[reason] += 1

    def saw_saved(self, model: str, n_tokens: int, compute_s: float) -> None:
        """Of a hit or a join that is complete."""
        self._by_model[model].saved_tokens += n_tokens
        self._by_model[model].saved_s += compute_s

    def total(self) -> Counts:
        """Of all models together."""
        total = Counts()
        for counts in self._by_model.values():
            total.n_hits += counts.n_hits
            total.n_misses += counts.n_misses
            total.n_joins += counts.n_joins
            total.bypasses += counts.bypasses
            total.saved_tokens += counts.saved_tokens
            total.saved_s += counts.saved_s
        return total

    def collect(self) -> Iterator[Metric]:
        for name, text, value in _COUNTERS:
            family = CounterMetricFamily(f"appliance_response_cache_{name}", text, labels=["model_name"])
            for model, counts in self._by_model.items():
                family.add_metric([model], value(counts))
            yield family
        bypasses = CounterMetricFamily(
            "appliance_response_cache_bypasses",
            "Prompts that passed by the response cache: off, sampled, no-cache, no-store.",
            labels=["model_name", "reason"],
        )
        for model, counts in self._by_model.items():
            for reason, n_bypasses in counts.bypasses.items():
                bypasses.add_metric([model, reason], n_bypasses)
        yield bypasses
        if self._cache is not None:
            yield from _of_the_file(self._cache)


def _of_the_file(cache: ResponseCache) -> Iterator[Metric]:
    gauges = (
        ("bytes", "Used bytes of the response cache's file.", cache.used_bytes),
        ("limit_bytes", "What its file may use.", cache.max_bytes),
        ("is_written", "1: answers are kept; 0: they can't be at the moment.", int(cache.problem is None)),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"appliance_response_cache_{name}", text, value)
    counters = (
        ("evictions", "Answers that made room for others.", cache.n_evicted),
        ("unkept", "Answers that could not be kept.", cache.n_unkept),
        ("unread", "Reads of its file that failed.", cache.n_unread),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"appliance_response_cache_{name}", text, value)
