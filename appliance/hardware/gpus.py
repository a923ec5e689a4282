"""The GPUs: NVIDIA's by NVML, and Apple's own."""

from __future__ import annotations

import contextlib
import importlib
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.hardware.cgroup import SYSTEM
from appliance.hardware.cpu import sysctl

# NVML's return codes, from nvml.h.
_LIBRARY_NOT_FOUND, _FUNCTION_NOT_FOUND, _GPU_IS_LOST, _RESET_REQUIRED, _UNKNOWN = 12, 13, 15, 16, 999
_REASONS = {
    4: "the NVIDIA driver refuses this user access",
    9: "the NVIDIA driver is not loaded",
    _LIBRARY_NOT_FOUND: "no NVIDIA driver (libnvidia-ml.so.1 is not there)",
    _FUNCTION_NOT_FOUND: "the NVIDIA driver is too old: its NVML lacks what is asked of it",
    _GPU_IS_LOST: "the GPU has fallen off the bus or was taken away",
    _RESET_REQUIRED: "the GPU must be reset",
    18: "the NVIDIA driver that runs and its library are of different versions: reboot, or restart the container",
    _UNKNOWN: "the NVIDIA driver gives no reason; a container that has lost its GPU says so: restart it",
}
# After these, a GPU computes nothing until NVML has been started again.
_LOST = {1, _GPU_IS_LOST, _RESET_REQUIRED, _UNKNOWN}
# nvmlTemperatureSensors_t, nvmlMemoryErrorType_t and nvmlEccCounterType_t.
_GPU_SENSOR, _UNCORRECTED, _VOLATILE = 0, 1, 0
_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"


class GPUProcess(msgspec.Struct, frozen=True):
    """``used_bytes`` None: the driver doesn't say."""

    pid: int
    used_bytes: int | None


class GPU(msgspec.Struct, frozen=True):
    """What the driver doesn't say is None.

    ``pci_bus_id`` is written as llama.cpp writes it, 0000:c1:00.0. ``ecc_errors`` are uncorrected ones since the
    driver was loaded. ``is_unified``: its memory is the machine's RAM. ``lost`` says why it is there no more.
    """

    name: str
    vendor: str
    uuid: str | None = None
    pci_bus_id: str | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    use_ratio: float | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    processes: tuple[GPUProcess, ...] | None = None
    ecc_errors: int | None = None
    is_unified: bool = False
    lost: str | None = None


class GPUs(msgspec.Struct, frozen=True):
    """``reason`` says why NVML can't be used, if it can't. ``cuda_version`` is the newest that the driver supports.

    ``n_on_bus`` counts NVIDIA's GPUs on the PCI bus, which also a container sees that was given none.
    """

    devices: tuple[GPU, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    reason: str | None = None
    n_on_bus: int = 0

    @property
    def usable(self) -> tuple[GPU, ...]:
        return tuple(gpu for gpu in self.devices if gpu.lost is None)

    @property
    def lost(self) -> str | None:
        """Which GPUs are gone that were there before, and why; None if all are there."""
        gone = [
            f"{gpu.name} ({gpu.pci_bus_id or gpu.uuid}): {gpu.lost}" for gpu in self.devices if gpu.lost is not None
        ]
        return "; ".join(gone) or None

    @property
    def missing(self) -> str | None:
        """Why there is no GPU to compute on; None if there is one."""
        if self.usable:
            return None
        return self.lost or self.reason or "this machine has no GPU"


class GPUProbe:
    """Reads the GPUs again and again, and knows those that were there before. Any thread may call it.

    ``nvml`` is the module ``pynvml`` or what behaves like it.
    """

    def __init__(
        self,
        nvml: Any = None,
        *,
        root: Path = SYSTEM,
        apple: Callable[[], GPU | None] | None = None,
    ) -> None:
        """``root`` is where ``/sys`` lies."""
        self._nvml = nvml if nvml is not None else importlib.import_module("pynvml")
        self._root = root
        self._apple = (apple or apple_gpu)()
        self._is_open = False
        self._known: dict[str, GPU] = {}
        # The supervisor's watch and the admin API read from different threads, and NVML is closed and opened between.
        self._turn = threading.Lock()

    def read(self) -> GPUs:
        with self._turn:
            return self._read()

    def close(self) -> None:
        with self._turn:
            self._close()

    def _read(self) -> GPUs:
        nvml, driver, cuda = self._nvml, None, None
        n_on_bus = nvidia_on_bus(self._root)
        others = () if self._apple is None else (self._apple,)
        try:
            if not self._is_open:
                nvml.nvmlInit()
                self._is_open = True
            driver = self._try(nvml.nvmlSystemGetDriverVersion)
            cuda = self._try(nvml.nvmlSystemGetCudaDriverVersion)
            present, failures = self._present()
        except nvml.NVMLError as error:
            self._close()
            reason = _reason(error)
            return GPUs((*others, *self._gone({}, reason)), reason=reason, n_on_bus=n_on_bus)
        seen = {_key(gpu): gpu for gpu in present}
        gone = self._gone(seen, failures[0] if failures else "the NVIDIA driver does not list it any more")
        self._known |= {key: gpu for key, gpu in seen.items() if gpu.lost is None}
        if gone or any(gpu.lost for gpu in present):
            self._close()  # a GPU that comes back is seen only by a fresh start
        version = f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda is not None else None
        return GPUs((*others, *present, *gone), driver, version, n_on_bus=n_on_bus)

    def _present(self) -> tuple[list[GPU], list[str]]:
        """The GPUs that answer, and what was wrong with those that don't even say their name."""
        gpus, failures = [], []
        for number in range(self._nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(self._gpu(self._nvml.nvmlDeviceGetHandleByIndex(number)))
            except self._nvml.NVMLError as error:
                failures.append(_reason(error))
        return gpus, failures

    def _gpu(self, handle: Any) -> GPU:
        """Raises NVMLError if it can't even be named."""
        nvml = self._nvml
        pci = self._try(nvml.nvmlDeviceGetPciInfo, handle)
        known = GPU(
            name=_text(nvml.nvmlDeviceGetName(handle)),
            vendor="nvidia",
            uuid=self._try(nvml.nvmlDeviceGetUUID, handle),
            pci_bus_id=_bus_id(pci.busId) if pci is not None else None,
        )
        try:
            memory = self._try(nvml.nvmlDeviceGetMemoryInfo, handle)
            use = self._try(nvml.nvmlDeviceGetUtilizationRates, handle)
            power_mw = self._try(nvml.nvmlDeviceGetPowerUsage, handle)
            limit_mw = self._try(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
            running = self._try(nvml.nvmlDeviceGetComputeRunningProcesses, handle)
            return msgspec.structs.replace(
                known,
                total_bytes=memory.total if memory is not None else None,
                used_bytes=memory.used if memory is not None else None,
                free_bytes=memory.free if memory is not None else None,
                use_ratio=use.gpu / 100 if use is not None else None,
                temperature_c=self._try(nvml.nvmlDeviceGetTemperature, handle, _GPU_SENSOR),
                power_w=power_mw / 1000 if power_mw is not None else None,
                power_limit_w=limit_mw / 1000 if limit_mw is not None else None,
                processes=_processes(running) if running is not None else None,
                ecc_errors=self._try(nvml.nvmlDeviceGetTotalEccErrors, handle, _UNCORRECTED, _VOLATILE),
            )
        except nvml.NVMLError as error:
            return msgspec.structs.replace(known, lost=_reason(error))

    def _try(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """None where this GPU or driver can't say it. Raises NVMLError if the GPU is lost."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in _LOST:
                raise
            return None

    def _gone(self, seen: Mapping[str, GPU], reason: str) -> tuple[GPU, ...]:
        """Those that were there before."""
        missing = (gpu for key, gpu in self._known.items() if key not in seen)
        return tuple(GPU(gpu.name, gpu.vendor, gpu.uuid, gpu.pci_bus_id, lost=reason) for gpu in missing)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()


def nvidia_on_bus(root: Path = SYSTEM) -> int:
    """How many NVIDIA GPUs are on the PCI bus. ``root`` is where ``/sys`` lies."""
    n_found = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            is_nvidia = (device / "vendor").read_text().strip() == _NVIDIA
            n_found += is_nvidia and (device / "class").read_text().startswith(_DISPLAY_CLASS)
    return n_found


def apple_gpu() -> GPU | None:
    """The GPU of an Apple processor, whose memory is the machine's; None elsewhere."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return None
    found = sysctl("machdep.cpu.brand_string", "hw.memsize")
    total = found.get("hw.memsize")
    return GPU(
        name=found.get("machdep.cpu.brand_string", "Apple GPU"),
        vendor="apple",
        total_bytes=int(total) if total is not None else None,
        is_unified=True,
    )


def _reason(error: Any) -> str:
    return _REASONS.get(error.value, f"NVML says: {error}")


def _key(gpu: GPU) -> str:
    return gpu.uuid or gpu.pci_bus_id or gpu.name


def _bus_id(text: str | bytes) -> str:
    """NVML writes the PCI domain with eight digits, all others with four."""
    domain, _, rest = _text(text).lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _processes(running: list[Any]) -> tuple[GPUProcess, ...]:
    return tuple(GPUProcess(process.pid, process.usedGpuMemory) for process in running)
