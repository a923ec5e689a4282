"""What engines did with computed prefixes on disk, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from appliance.engine.kv_messages import WarmTierCounts
from appliance.engine.messages import Load

_COUNTERS: tuple[tuple[str, str, Callable[[WarmTierCounts], float]], ...] = (
    ("saved", "Computed prefixes that were written to the disk.", lambda now: now.n_saved),
    ("unsaved", "Computed prefixes that could not be.", lambda now: now.n_unsaved),
    ("restored", "Computed prefixes that were read from the disk and used.", lambda now: now.n_restored),
    ("restored_tokens", "Their tokens, which were not computed again.", lambda now: now.n_tokens_restored),
)


def kv_disk_metrics(loads: Mapping[str, Load]) -> Iterator[Metric]:
    """For Prometheus, by the names of the models that have an engine."""
    counts = {model: load.warm_tier for model, load in loads.items() if load.warm_tier is not None}
    for name, text, value in _COUNTERS:
        family = CounterMetricFamily(f"appliance_kv_disk_{name}", text, labels=["model_name"])
        for model, one in counts.items():
            family.add_metric([model], value(one))
        yield family
    rejected = CounterMetricFamily(
        "appliance_kv_disk_rejected", "Files that were not used, by the reason.", labels=["model_name", "reason"]
    )
    used = GaugeMetricFamily(
        "appliance_kv_disk_bytes", "What all models' files take, as this model's engine saw it.", labels=["model_name"]
    )
    for model, one in counts.items():
        used.add_metric([model], one.used_bytes)
        for reason, n_files in one.rejected.items():
            rejected.add_metric([model, reason], n_files)
    yield from (rejected, used)
