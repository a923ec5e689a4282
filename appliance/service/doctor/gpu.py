"""The GPUs: what the driver sees against what llama.cpp sees, and the driver against the CUDA runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from appliance.engine.devices import LlamaBuild
from appliance.errors import ApplianceError
from appliance.hardware.gpus import GPU, GPUs
from appliance.schemas.doctor import Finding, FindingStatus
from appliance.service.doctor.subject import Subject

# A GPU slows itself down from about here on.
_HOT_C = 88
# ggml's backends that compute on the processor, or elsewhere.
_NO_GPU = {"CPU", "BLAS", "RPC", "ZENDNN", "ZenDNN"}
_BUILD_FOR_CUDA = "build llama.cpp for it: CMAKE_ARGS=-DGGML_CUDA=ON make clean run"
_GIVE_GPU = (
    "install the NVIDIA driver; in a container, give it the GPU (docker run --gpus all, with the NVIDIA Container "
    "Toolkit), and restart one that has lost it"
)


def check_gpu(subject: Subject, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    machine, build = subject.machine, subject.build
    if isinstance(machine, ApplianceError):
        return
    gpus, wanted = machine.gpus, subject.config.require_gpu
    if gpus.lost is not None:
        yield _finding("failed", f"lost: {gpus.lost}", _GIVE_GPU)
    if isinstance(build, ApplianceError):
        yield from _without_llama(gpus, wanted)
    elif gpus.usable and not build.gpus:
        yield _unused(gpus, build, environment, wanted)
    elif not gpus.usable and not build.gpus:
        yield _none(gpus, build, wanted)
    else:
        yield _used(gpus, build, environment)
    for gpu in gpus.usable:
        yield from _health(gpu)


def check_cuda(subject: Subject) -> Iterator[Finding]:
    machine, build = subject.machine, subject.build
    if not isinstance(build, LlamaBuild) or build.cuda_runtime is None or isinstance(machine, ApplianceError):
        return
    driver = machine.gpus.cuda_version
    if driver is None:
        return  # there is no driver, which check_gpu says
    runtime, newest = _version(build.cuda_runtime), _version(driver)
    supports = f"the driver ({machine.gpus.driver_version}) supports CUDA {driver}"
    text = f"{supports}, llama.cpp's runtime is {build.cuda_runtime}"
    if newest[0] < runtime[0]:
        remedy = f"update the NVIDIA driver to one for CUDA {build.cuda_runtime}, or build with CUDA {newest[0]}"
        yield Finding(name="CUDA", status="failed", message=text, remedy=remedy)
    elif newest < runtime:
        # Within a major version, code that was compiled for the GPU runs; code that the driver must compile doesn't.
        remedy = f"update the NVIDIA driver if llama.cpp fails with PTX or unsupported-toolchain errors ({driver})"
        yield Finding(name="CUDA", status="warning", message=text, remedy=remedy)
    else:
        yield Finding(name="CUDA", status="ok", message=text)


def _unused(gpus: GPUs, build: LlamaBuild, environment: Mapping[str, str], wanted: bool) -> Finding:
    """The driver has GPUs that llama.cpp doesn't see."""
    names = ", ".join(gpu.name for gpu in gpus.usable)
    if not _has_gpu_code(build):
        return _finding(
            "failed" if wanted else "warning",
            f"{names}: not used, since this build of llama.cpp computes on the processor only",
            _BUILD_FOR_CUDA,
        )
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return _finding(
            "failed",
            f"{names}: llama.cpp sees none of them, with CUDA_VISIBLE_DEVICES={visible}",
            "unset CUDA_VISIBLE_DEVICES, or name the GPUs that may be used (0,1)",
        )
    return _finding(
        "failed",
        f"{names}: the driver sees it, llama.cpp ({', '.join(build.backends)}) doesn't: everything is computed on the "
        "processor",
        "look at the lines on llama.cpp and CUDA; in a container, /dev/nvidia* must be there: restart it",
    )


def _none(gpus: GPUs, build: LlamaBuild, wanted: bool) -> Finding:
    """Nobody sees a GPU."""
    is_expected = wanted or _has_gpu_code(build)
    remedy = _GIVE_GPU if _has_gpu_code(build) else f"{_GIVE_GPU}; then {_BUILD_FOR_CUDA}"
    if gpus.n_on_bus:
        return _finding(
            "failed" if is_expected else "warning",
            f"this machine has {_count(gpus.n_on_bus)} from NVIDIA that can't be reached: {gpus.missing}",
            remedy,
        )
    if wanted:
        return _finding("failed", f"require_gpu is set, and there is none: {gpus.missing}", remedy)
    if is_expected:
        backends = ", ".join([name for name in build.backends if name != "CPU"] + [n.upper() for n in build.not_loaded])
        return _finding(
            "warning", f"llama.cpp was built for {backends}, and there is no GPU: {gpus.missing}", _GIVE_GPU
        )
    return _finding("ok", f"none ({gpus.missing}): models are computed on the processor")


def _used(gpus: GPUs, build: LlamaBuild, environment: Mapping[str, str]) -> Finding:
    seen = ", ".join(f"{device.description} as {device.name}" for device in build.gpus)
    named = {device.pci_bus_id for device in build.gpus}
    hidden = [gpu.name for gpu in gpus.usable if gpu.pci_bus_id not in named]
    if not hidden or None in named:
        return _finding("ok", f"llama.cpp uses {seen}")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _finding("ok", f"llama.cpp uses {seen}; CUDA_VISIBLE_DEVICES={visible} hides {', '.join(hidden)}")
    return _finding(
        "warning",
        f"llama.cpp uses {seen}, but not {', '.join(hidden)}",
        "a GPU may be too old for this build: add it to CMAKE_CUDA_ARCHITECTURES",
    )


def _without_llama(gpus: GPUs, wanted: bool) -> Iterator[Finding]:
    if gpus.usable:
        names = ", ".join(gpu.name for gpu in gpus.usable)
        yield _finding("ok", f"the driver sees {names}; whether llama.cpp does can't be said")
    elif wanted and gpus.lost is None:
        yield _finding("failed", f"require_gpu is set, and there is none: {gpus.missing}", _GIVE_GPU)


def _health(gpu: GPU) -> Iterator[Finding]:
    if gpu.ecc_errors:
        yield _finding(
            "warning",
            f"{gpu.name} has had {gpu.ecc_errors} memory errors that could not be corrected: answers may be wrong",
            "reset or replace it (nvidia-smi -q -d ECC)",
        )
    if gpu.temperature_c is not None and gpu.temperature_c >= _HOT_C:
        yield _finding(
            "warning", f"{gpu.name} is at {gpu.temperature_c} °C and slows itself down", "look to its cooling"
        )


def _has_gpu_code(build: LlamaBuild) -> bool:
    return bool(_gpu_backends(build))


def _gpu_backends(build: LlamaBuild) -> list[str]:
    """Also those that can't be loaded."""
    return [name for name in (*build.backends, *map(str.upper, build.not_loaded)) if name not in _NO_GPU]


def _count(n_gpus: int) -> str:
    return "a GPU" if n_gpus == 1 else f"{n_gpus} GPUs"


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _finding(status: FindingStatus, message: str, remedy: str | None = None) -> Finding:
    return Finding(name="GPU", status=status, message=message, remedy=remedy)
