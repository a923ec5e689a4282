from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.hardware.cpu import CpuUse, physical_cores, read_cpu
from tests.unit.machine_files import write


def topology(*siblings: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{text}\n"
        for cpu, text in enumerate(siblings)
    }


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


def test_hyperthreads_of_one_core_count_once(tmp_path: Path) -> None:
    assert physical_cores(write(tmp_path, topology("0,2", "1,3", "0,2", "1,3"))) == 2


def test_without_a_topology_each_processor_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path) == 4


def test_only_processors_that_may_be_used_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1}, raising=False)
    assert physical_cores(write(tmp_path, topology("0", "1", "2", "3"))) == 1


@pytest.mark.parametrize(
    ("limit", "wanted"), [("200000 100000", 2), ("350000 100000", 3), ("50000 100000", 1), ("max 100000", 4)]
)
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, limit: str, wanted: int) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/box\n", "sys/fs/cgroup/box/cpu.max": f"{limit}\n"})
    assert physical_cores(root) == wanted


X86 = """processor\t: 0
model name\t: AMD EPYC 9354
flags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2 avx512f avx512_vnni avx_vnni amx_int8 hypervisor

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve bf16 crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


def test_an_x86_processor_is_read_with_the_instruction_sets_that_ggml_uses(tmp_path: Path) -> None:
    cpu = read_cpu(write(tmp_path, {"proc/cpuinfo": X86}))
    assert cpu.model == "AMD EPYC 9354"
    wanted = "amx_int8 avx avx2 avx512_vnni avx512f avx_vnni bmi2 f16c fma sse4_2"
    assert cpu.instruction_sets == tuple(wanted.split())
    assert (cpu.physical_cores, cpu.logical_cpus, cpu.quota) == (4, 4, None)


def test_an_arm_processor_is_read_with_arms_own_names(tmp_path: Path) -> None:
    cpu = read_cpu(write(tmp_path, {"proc/cpuinfo": ARM}))
    assert cpu.model == "ARM implementer 0x41 part 0xd40"
    assert cpu.instruction_sets == ("bf16", "dotprod", "i8mm", "neon", "sve")


def test_a_processor_that_can_not_be_read_has_no_instruction_sets(tmp_path: Path) -> None:
    assert read_cpu(tmp_path).instruction_sets == ()


def test_how_busy_processors_are_is_between_nothing_and_all() -> None:
    ratios = CpuUse().ratios()
    assert ratios
    assert all(0.0 <= ratio <= 1.0 for ratio in ratios)
