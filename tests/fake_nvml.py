"""A stand-in for the module pynvml: GPUs that can be lost, drivers that are missing or old. Errors are pynvml's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1 << 30


class FakeGPU:
    """``not_supported``: names of NVML functions that this GPU doesn't know. ``error``: what every call raises."""

    def __init__(self, number: int = 0, *, total_bytes: int = 24 * GIB, used_bytes: int = 0) -> None:
        self.name = f"NVIDIA Test {number}"
        self.uuid = f"GPU-{number}"
        self.bus_id = f"00000000:{0x41 + number:02X}:00.0"
        self.total_bytes = total_bytes
        self.used_bytes = used_bytes
        self.not_supported: set[str] = set()
        self.error: int | None = None


class FakeNVML:
    """``init_error``: what starting NVML raises. GPUs may be put in and taken out between two readings."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *gpus: FakeGPU, driver: str = "580.65.06", cuda: int = 13000) -> None:
        self.gpus = list(gpus)
        self.driver = driver
        self.cuda = cuda
        self.init_error: int | None = None
        self.n_starts = 0
        self._started: list[FakeGPU] | None = None

    def nvmlInit(self) -> None:
        self._raise(self.init_error)
        self.n_starts += 1
        self._started = list(self.gpus)

    def nvmlShutdown(self) -> None:
        self._started = None

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        if self._started is None:
            self._raise(pynvml.NVML_ERROR_UNINITIALIZED)
        assert self._started is not None
        return len(self._started)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> FakeGPU:
        assert self._started is not None
        gpu = self._started[number]
        self._raise(gpu.error if gpu in self.gpus else pynvml.NVML_ERROR_GPU_IS_LOST)
        return gpu

    def __getattr__(self, name: str) -> Any:
        """The functions that are asked about one GPU."""
        answers = {
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
            "nvmlDeviceGetPciInfo": lambda gpu: SimpleNamespace(busId=gpu.bus_id.encode()),
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(
                total=gpu.total_bytes, used=gpu.used_bytes, free=gpu.total_bytes - gpu.used_bytes
            ),
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=37, memory=5),
            "nvmlDeviceGetPowerUsage": lambda gpu: 71_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 350_000,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
                SimpleNamespace(pid=4242, usedGpuMemory=gpu.used_bytes)
            ],
            "nvmlDeviceGetTemperature": lambda gpu, sensor: 54,
            "nvmlDeviceGetTotalEccErrors": lambda gpu, kind, counter: 0,
        }

        def call(gpu: FakeGPU, *arguments: int) -> Any:
            if name in gpu.not_supported:
                self._raise(pynvml.NVML_ERROR_NOT_SUPPORTED)
            self._raise(gpu.error)
            return answers[name](gpu, *arguments)  # type: ignore[no-untyped-call]

        if name not in answers:
            raise AttributeError(name)
        return call

    @staticmethod
    def _raise(code: int | None) -> None:
        if code is not None:
            raise pynvml.NVMLError(code)
