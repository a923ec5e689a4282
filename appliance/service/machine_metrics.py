"""What the machine has to do, for Prometheus: from the latest snapshot of the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from appliance.schemas.admin import GPUSnapshot, Snapshot

_OF_MACHINE: tuple[tuple[str, str, Callable[[Snapshot], float | None]], ...] = (
    ("machine_ram_used_bytes", "RAM in use.", lambda now: now.ram_used_bytes),
    ("machine_cpu_ratio", "How busy the processors are.", lambda now: now.cpu_ratio),
)
_OF_GPU: tuple[tuple[str, str, Callable[[GPUSnapshot], float | None]], ...] = (
    ("gpu_memory_used_bytes", "Memory in use, of each GPU.", lambda gpu: gpu.used_bytes),
    ("gpu_use_ratio", "How busy each GPU is.", lambda gpu: gpu.use_ratio),
)


class MachineMetrics(Collector):
    def __init__(self, latest: Callable[[], Snapshot | None]) -> None:
        """``latest`` gives None before the first snapshot. What isn't known, then or of a driver, is not told."""
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        now = self._latest()
        for name, text, of_machine in _OF_MACHINE:
            family = GaugeMetricFamily(f"appliance_{name}", text)
            if now is not None and (value := of_machine(now)) is not None:
                family.add_metric([], value)
            yield family
        for name, text, of_gpu in _OF_GPU:
            family = GaugeMetricFamily(f"appliance_{name}", text, labels=["gpu"])
            for number, gpu in enumerate(now.gpus if now is not None else ()):
                if (value := of_gpu(gpu)) is not None:
                    family.add_metric([str(number)], value)
            yield family
