"""A machine, a build of llama.cpp and a store for the doctor, each made up as a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.engine.devices import Device, LlamaBuild, Speed
from appliance.hardware.cpu import Cpu
from appliance.hardware.disks import Disk
from appliance.hardware.gpus import GPU, GPUs
from appliance.hardware.machine import Machine
from appliance.hardware.memory_use import GIB
from appliance.hardware.ram import Ram
from appliance.schemas.doctor import Finding
from appliance.service.doctor.examine import examine_each
from appliance.service.doctor.subject import Tools
from appliance.settings import Settings
from tests.fake_models import HEADER, publish_fakes, shape

CPU = Cpu("Test CPU", "x86_64", 4, 8, None, ("avx", "avx2", "bmi2", "f16c", "fma", "sse4_2"))
RAM = Ram(32 * GIB, 30 * GIB, 32 * GIB, None, None, 30 * GIB)
CPU_DEVICE = Device("CPU", "Test CPU", "cpu", "CPU", 32 * GIB, 32 * GIB)
CARD = GPU("NVIDIA Test 0", "nvidia", pci_bus_id="0000:41:00.0", total_bytes=24 * GIB, free_bytes=23 * GIB)
CARD_DEVICE = Device("CUDA0", "NVIDIA Test 0", "gpu", "CUDA", 24 * GIB, 23 * GIB, "0000:41:00.0")
NO_DRIVER = GPUs(reason="no NVIDIA driver")
WITH_CARD = GPUs((CARD,), driver_version="580.65.06", cuda_version="13.0", n_on_bus=1)

Job = Callable[..., Any]


def machine(*, cpu: Cpu = CPU, ram: Ram = RAM, gpus: GPUs = NO_DRIVER, disks: tuple[Disk, ...] = ()) -> Machine:
    return Machine(cpu=cpu, ram=ram, disks=disks, gpus=gpus)


def cpu_build(**changes: Any) -> LlamaBuild:
    build = LlamaBuild(
        build="llama-cpp-python-0",
        system_info="",
        backends=("CPU",),
        devices=(CPU_DEVICE,),
        can_offload=False,
        cpu_features=("AVX", "AVX2", "F16C", "FMA", "BMI2", "REPACK"),
    )
    return msgspec.structs.replace(build, **changes)


def cuda_build(*gpus: Device, **changes: Any) -> LlamaBuild:
    devices = (*gpus, CPU_DEVICE)
    return cpu_build(backends=("CUDA", "CPU"), devices=devices, can_offload=bool(gpus), **changes)


def jobs(build: LlamaBuild | Exception, speed: Speed | Exception | None = None) -> Job:
    """Stands in for the processes that ask llama.cpp."""
    answers = {"devices": build, "speed": speed or Speed(400.0, 100.0, "CPU", 0.1)}

    def run(module: str, request: dict[str, Any], *, timeout_s: float) -> Any:
        answer = answers[module]
        if isinstance(answer, Exception):
            raise answer
        return msgspec.to_builtins(answer)

    return run


def store(folder: Path, *, n_bytes: int = 1 << 20, **settings: Any) -> Settings:
    """A lock file with one model, published in ``folder``, and the settings that name them."""
    publish_fakes(folder, {"fake": HEADER}, shapes={"fake": shape(n_bytes)})
    places = {"models_lock": folder / "models.lock", "models_dir": folder, "state_dir": folder / "state"}
    return Settings(**{**places, "port": 0, **settings})


def examined(
    config: Settings,
    *,
    found: Machine | None = None,
    job: Job | None = None,
    holder: int | None = None,
    serving: bool = False,
    speed: bool = False,
    set_floor: bool = False,
) -> list[Finding]:
    tools = Tools(
        probe=lambda config: found or machine(),
        run_job=job or jobs(cpu_build()),
        holder_of_port=lambda port: holder,
    )
    return list(examine_each(config, serving=serving, speed=speed, set_floor=set_floor, tools=tools))


def named(name: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.name == name]
