"""The job that asks llama.cpp what it can compute on, with the real library."""

from __future__ import annotations

import platform

import msgspec
import pytest

from appliance.engine.build import engine_build
from appliance.engine.devices import Device, LlamaBuild
from appliance.engine.llama.devices import cpu_features
from appliance.hardware.cpu import read_cpu
from appliance.models.subprocesses import run_quick_job


@pytest.fixture(scope="module")
def build() -> LlamaBuild:
    return msgspec.convert(run_quick_job("devices", {}, timeout_s=100), LlamaBuild)


def test_the_processor_is_a_device_with_the_machines_memory(build: LlamaBuild) -> None:
    (cpu,) = (device for device in build.devices if device.kind == "cpu")
    assert (cpu.name, cpu.backend, cpu.pci_bus_id) == ("CPU", "CPU", None)
    assert cpu.total_bytes >= cpu.free_bytes > 1 << 28
    assert build.cpu_name == cpu.description


def test_the_build_says_what_it_is(build: LlamaBuild) -> None:
    assert build.build == engine_build()
    assert "CPU" in build.backends
    assert "CPU : " in build.system_info
    assert (build.variant in build.variants) == bool(build.variants)
    assert bool(build.gpus) == build.can_offload


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86's instruction sets")
def test_what_the_build_uses_the_processor_has(build: LlamaBuild) -> None:
    has = read_cpu().instruction_sets
    for feature, instruction_set in (("AVX2", "avx2"), ("FMA", "fma"), ("AVX512", "avx512f")):
        assert feature not in build.cpu_features or instruction_set in has


def test_features_of_the_processor_stand_beside_those_of_other_backends() -> None:
    text = "CUDA : ARCHS = 900 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 0 | SVE_CNT = 32 | "
    assert cpu_features(text) == ("SSE3", "SVE_CNT")
    assert cpu_features("CPU : AVX = 1 | CUDA : ARCHS = 900 | ") == ("AVX",)
    assert cpu_features("") == ()


def test_gpus_are_told_from_other_devices() -> None:
    devices = tuple(Device(f"D{kind}", "", kind, "X", 1, 1) for kind in ("cpu", "gpu", "igpu", "accel"))
    assert [device.name for device in LlamaBuild("", "", (), devices, True).gpus] == ["Dgpu", "Digpu"]
