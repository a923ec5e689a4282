"""The processor's instruction sets against what llama.cpp's build needs, and what llama.cpp can compute on."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.engine.devices import LlamaBuild
from appliance.errors import ApplianceError
from appliance.hardware.cpu import Cpu
from appliance.hardware.memory_use import format_bytes
from appliance.models.subprocesses import JobFailed
from appliance.schemas.doctor import Finding
from appliance.service.doctor.subject import Subject

# ggml's names of its features (ggml-cpu.cpp), and what the kernel calls the instruction sets that they are.
_NEEDS = {
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "neon",
    "FP16_VA": "fp16",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "DOTPROD": "dotprod",
    "SME": "sme",
}
# Without these, a processor is several times slower than its clock promises.
_WANTED = {"x86_64": ("AVX2", "FMA"), "AMD64": ("AVX2", "FMA"), "aarch64": ("DOTPROD",), "arm64": ("DOTPROD",)}
_REBUILD = "build llama.cpp on this machine: make clean run; or for every processor: make clean run WHEEL=portable"


def check_processor(subject: Subject) -> Iterator[Finding]:
    machine, build = subject.machine, subject.build
    if isinstance(machine, ApplianceError):
        yield Finding(name="processor", status="failed", message=f"the machine can't be read: {machine.message}")
        return
    cpu = machine.cpu
    cores = f"{cpu.model}, {cpu.physical_cores} core{'s' if cpu.physical_cores != 1 else ''}"
    if cpu.quota is not None:
        cores += f" (a cgroup grants {cpu.quota:g} processors' time)"
    if isinstance(build, JobFailed) and build.signal_name == "SIGILL":
        yield Finding(
            name="processor",
            status="failed",
            message=f"{cores}: llama.cpp was built for another processor: SIGILL, an instruction that it lacks",
            remedy=_REBUILD,
        )
    elif isinstance(build, LlamaBuild):
        yield _instruction_sets(cores, cpu, build)
    else:
        yield Finding(name="processor", status="ok", message=cores)


def _instruction_sets(cores: str, cpu: Cpu, build: LlamaBuild) -> Finding:
    has, uses = set(cpu.instruction_sets), set(build.cpu_features)
    lacking = [name for name, kernel_name in _NEEDS.items() if name in uses and has and kernel_name not in has]
    if lacking:
        return Finding(
            name="processor",
            status="failed",
            message=f"{cores}: it lacks {', '.join(lacking)}, for which llama.cpp was built",
            remedy=_REBUILD,
        )
    wanted = _WANTED.get(cpu.architecture, ())
    unused = [name for name in wanted if name not in uses and _NEEDS[name] in has]
    if unused:
        return Finding(
            name="processor",
            status="warning",
            message=f"{cores}: llama.cpp was built without {', '.join(unused)}, which this processor has",
            remedy=_REBUILD,
        )
    if missing := [name for name in wanted if name not in uses]:
        return Finding(
            name="processor",
            status="warning",
            message=f"{cores}: it has no {', '.join(missing)}: everything works, several times slower than elsewhere",
        )
    used = ", ".join(name for name in build.cpu_features if name in _NEEDS) or "no instruction sets of its own"
    kind = f"portable build, its {build.variant} library" if build.variants else "native build"
    return Finding(name="processor", status="ok", message=f"{cores}; {kind}: {used}")


def check_llama(subject: Subject) -> Iterator[Finding]:
    build = subject.build
    if isinstance(build, ApplianceError):
        yield Finding(
            name="llama.cpp",
            status="failed",
            message=f"it does not start: {build.message}",
            remedy=_remedy(build.message),
        )
        return
    for backend, reason in build.not_loaded.items():
        yield Finding(
            name="llama.cpp",
            status="failed",
            message=f"its {backend.upper()} library can't be loaded, so it is not used: {reason}",
            remedy=_remedy(reason),
        )
    devices = [
        f"{device.name} ({device.description}"
        + (f", {format_bytes(device.free_bytes)} of {format_bytes(device.total_bytes)} free)" if device.is_gpu else ")")
        for device in build.devices
    ]
    status = "ok" if devices else "failed"
    message = f"{build.build}, computes on {', '.join(devices)}" if devices else f"{build.build} has no device at all"
    yield Finding(name="llama.cpp", status=status, message=message, remedy=None if devices else _REBUILD)


def _remedy(reason: str) -> str:
    if "libcuda.so" in reason:
        return (
            "the NVIDIA driver is not there: install it; in a container, give it the GPU "
            "(docker run --gpus all, with the NVIDIA Container Toolkit)"
        )
    if "libcudart" in reason or "libcublas" in reason:
        return "install the CUDA runtime that llama.cpp was built with, or build it anew: make clean run"
    if "SIGILL" in reason:
        return _REBUILD
    return "install the packages and llama.cpp anew: make clean run"
