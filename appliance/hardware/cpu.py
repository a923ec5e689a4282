"""The processor: its cores, what it can compute with, and how busy it is."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from appliance.hardware.cgroup import SYSTEM, cgroup_cpu_quota

# What ggml has kernels for, by the kernel's names.
_X86 = ("sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni")
_X86_PREFIXES = ("avx512", "amx_")
_ARM = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
_APPLE = {"FEAT_FP16": "fp16", "FEAT_DotProd": "dotprod", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16", "FEAT_SME": "sme"}
_SYSCTL_TIMEOUT_S = 5.0


class Cpu(msgspec.Struct, frozen=True):
    """``physical_cores`` and ``logical_cpus`` are those that this process may use.

    ``quota`` is how many processors' time the cgroups grant, None: as much as there is. ``instruction_sets`` are
    those that ggml has kernels for, as Linux spells them (ARM's: as ARM does). ``use_ratios`` is how busy each logical
    processor of the machine was lately, from 0 to 1; empty if it wasn't measured.
    """

    model: str
    architecture: str
    physical_cores: int
    logical_cpus: int
    quota: float | None
    instruction_sets: tuple[str, ...]
    use_ratios: tuple[float, ...] = ()


def read_cpu(root: Path = SYSTEM) -> Cpu:
    """``root`` is where ``/sys`` and ``/proc`` lie."""
    model, found = _darwin() if sys.platform == "darwin" else _linux(root)
    return Cpu(
        model=model,
        architecture=platform.machine(),
        physical_cores=physical_cores(root),
        logical_cpus=len(_allowed_cpus()),
        quota=cgroup_cpu_quota(root),
        instruction_sets=found,
    )


class CpuUse:
    """How busy each processor has been since the last look. (psutil's own function keeps that by thread.)"""

    def __init__(self) -> None:
        self._last = psutil.cpu_times(percpu=True)

    def ratios(self) -> tuple[float, ...]:
        now = psutil.cpu_times(percpu=True)
        before, self._last = self._last, now
        return tuple(map(_busy, before, now)) if len(before) == len(now) else ()


def physical_cores(root: Path = SYSTEM) -> int:
    """Cores that this process may use, at least 1: hyperthreads of one core count once, and a cgroup's quota counts.

    Two threads on one core share its arithmetic units, and each waits for the slower one at every barrier.
    ``root`` is where ``/sys`` and ``/proc`` lie.
    """
    cpus = _allowed_cpus()
    cores = {_siblings(root, cpu) for cpu in cpus}
    quota = cgroup_cpu_quota(root)
    n_cores = len(cores) if quota is None else min(len(cores), int(quota))
    return max(1, n_cores)


def _allowed_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(root: Path, cpu: int) -> str:
    """The logical processors of the core that ``cpu`` belongs to, as the kernel writes them."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _linux(root: Path) -> tuple[str, tuple[str, ...]]:
    """The processor's name, and its instruction sets."""
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown", ()
    lines = (line.partition(":") for line in text.splitlines())
    fields: dict[str, str] = {}
    for name, _, value in lines:
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    sets = [flag for flag in flags if flag in _X86 or flag.startswith(_X86_PREFIXES)]
    sets += [_ARM[flag] for flag in fields.get("Features", "").split() if flag in _ARM]
    # ARM kernels give numbers of the maker and the part only; a board may say its name.
    model = fields.get("model name") or fields.get("Model") or _arm_part(fields)
    return model, tuple(sorted(sets))


def _arm_part(fields: dict[str, str]) -> str:
    maker, part = fields.get("CPU implementer"), fields.get("CPU part")
    return f"ARM implementer {maker} part {part}" if maker and part else platform.processor() or "unknown"


def _darwin() -> tuple[str, tuple[str, ...]]:
    found = sysctl("machdep.cpu", "hw.optional.arm")
    x86 = f"{found.get('machdep.cpu.features', '')} {found.get('machdep.cpu.leaf7_features', '')}".lower()
    names = x86.replace("avx1.0", "avx").replace("sse4.2", "sse4_2").split()
    sets = [name for name in names if name in _X86 or name.startswith(_X86_PREFIXES)]
    if platform.machine() == "arm64":
        sets += ["neon", *(name for feature, name in _APPLE.items() if found.get(f"hw.optional.arm.{feature}") == "1")]
    return found.get("machdep.cpu.brand_string", "unknown"), tuple(sorted(sets))


def sysctl(*names: str) -> dict[str, str]:
    """What macOS says of itself below these names; empty elsewhere."""
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=_SYSCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _busy(before: Any, now: Any) -> float:
    spent = {name: getattr(now, name) - getattr(before, name) for name in now._fields}
    # Linux counts a guest's time as its host's, too.
    total = sum(max(0.0, value) for name, value in spent.items() if not name.startswith("guest"))
    idle = max(0.0, spent["idle"]) + max(0.0, spent.get("iowait", 0.0))
    return min(1.0, max(0.0, (total - idle) / total)) if total > 0 else 0.0
