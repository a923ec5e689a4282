"""The machine's figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from appliance.schemas.admin import GPUSnapshot, Snapshot
from appliance.service.machine_metrics import MachineMetrics


def told(snapshot: Snapshot | None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(MachineMetrics(lambda: snapshot))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_nothing_is_told_before_the_first_snapshot() -> None:
    assert told(None) == []


def test_ram_and_each_gpu_are_told_but_not_what_a_driver_does_not_say() -> None:
    silent = GPUSnapshot(use_ratio=None, used_bytes=None, temperature_c=None, power_w=None)
    busy = GPUSnapshot(use_ratio=0.5, used_bytes=1024, temperature_c=None, power_w=None)
    snapshot = Snapshot.model_construct(ram_used_bytes=4096, cpu_ratio=0.25, gpus=[silent, busy])
    assert told(snapshot) == [
        "appliance_machine_ram_used_bytes 4096.0",
        "appliance_machine_cpu_ratio 0.25",
        'appliance_gpu_memory_used_bytes{gpu="1"} 1024.0',
        'appliance_gpu_use_ratio{gpu="1"} 0.5',
    ]
