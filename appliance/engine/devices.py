"""What llama.cpp says of this build of it and of what it can compute on, as its job gives it."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct, frozen=True):
    """``kind`` is ``cpu``, ``gpu``, ``igpu``, ``accel`` or ``meta``; ``pci_bus_id`` is as in 0000:c1:00.0.

    The CPU says that all its memory is free, whatever is.
    """

    name: str
    description: str
    kind: str
    backend: str
    total_bytes: int
    free_bytes: int
    pci_bus_id: str | None = None

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "igpu")


class LlamaBuild(msgspec.Struct, frozen=True):
    """``backends`` are those that started, ``not_loaded`` those that are installed and didn't, with the reason.

    ``variants`` are the CPU libraries of a portable build, ``variant`` the one that was taken; a native build has
    none. ``cpu_features`` are what the CPU code in use was compiled for, in ggml's words. ``cuda_runtime`` is the
    version of the CUDA runtime that was loaded.
    """

    build: str
    system_info: str
    backends: tuple[str, ...]
    devices: tuple[Device, ...]
    can_offload: bool
    cpu_features: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    variant: str | None = None
    not_loaded: dict[str, str] = {}
    cuda_runtime: str | None = None

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.is_gpu)

    @property
    def cpu_name(self) -> str:
        return next((device.description for device in self.devices if device.kind == "cpu"), "CPU")


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second of one sequence alone, of the prompt and of the answer. ``device`` says where, in words."""

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    device: str
    load_s: float
