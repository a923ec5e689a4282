"""What memory this machine has for models, and what they take of it, as ``serve`` and ``plan`` see it."""

from __future__ import annotations

import logging

import msgspec

from appliance import logs
from appliance.engine.build import engine_build
from appliance.errors import ConfigError
from appliance.hardware.cpu import read_cpu
from appliance.hardware.gpus import GPUProbe
from appliance.hardware.memory_use import parse_bytes
from appliance.hardware.repack import repacked_types
from appliance.models.subprocesses import run_quick_job
from appliance.settings import Settings
from appliance.state.measured import MeasuredMemory
from appliance.supervisor.machine_budget import ComputeDevice, MachineBudget
from appliance.supervisor.planner import Planner

log = logging.getLogger(__name__)

DEVICES_TIMEOUT_S = 30.0


def machine_budget(config: Settings, gpus: GPUProbe) -> MachineBudget:
    """Raises ConfigError for a limit that is no size."""
    return MachineBudget(
        gpus,
        lambda: compute_devices(gpus),
        ram_limit_bytes=_limit(config.ram_limit, "ram_limit"),
        gpu_limit_bytes=_limit(config.gpu_memory_limit, "gpu_memory_limit"),
    )


def planner(config: Settings, gpus: GPUProbe) -> Planner:
    def why_no_gpu() -> str:
        return gpus.read().missing or "llama.cpp finds none of this machine's; run `appliance doctor`"

    cpu = read_cpu()
    measured = MeasuredMemory(config.state_dir, engine_build())
    return Planner(measured, repacks=repacked_types(cpu.architecture, cpu.instruction_sets), why_no_gpu=why_no_gpu)


def compute_devices(gpus: GPUProbe) -> tuple[ComputeDevice, ...]:
    """The GPUs that llama.cpp computes on."""
    from appliance.engine.devices import LlamaBuild

    try:
        build = msgspec.convert(run_quick_job("devices", {}, timeout_s=DEVICES_TIMEOUT_S), LlamaBuild)
    except ConfigError as error:
        log.error(logs.event("gpus_not_usable", reason=error, remedy="run `appliance doctor`"))
        return ()
    unified = {gpu.pci_bus_id for gpu in gpus.read().usable if gpu.is_unified}
    return tuple(
        ComputeDevice(gpu.name, gpu.pci_bus_id, gpu.free_bytes, is_unified=gpu.pci_bus_id in unified)
        for gpu in build.gpus
    )


def _limit(text: str | None, name: str) -> int | None:
    return parse_bytes(text, name) if text is not None else None
