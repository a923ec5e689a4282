"""How much of this machine's memory models may take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from appliance.hardware.cgroup import SYSTEM
from appliance.hardware.fit import Room
from appliance.hardware.gpus import GPU, GPUProbe, GPUs
from appliance.hardware.memory_use import RAM
from appliance.hardware.ram import read_ram
from appliance.supervisor.budget import Booking, booked

# Left alone for the gateway, the system and what grows: a part of the RAM, and what is enough of it in any case.
RAM_RESERVE_RATIO = 0.05
MAX_RAM_RESERVE_BYTES = 1 << 30
GPU_RESERVE_BYTES = 256 << 20


class ComputeDevice(msgspec.Struct, frozen=True):
    """A GPU as llama.cpp names it; ``pci_bus_id`` is where NVML finds the same one."""

    name: str
    pci_bus_id: str | None = None
    free_bytes: int = 0
    is_unified: bool = False


class MachineBudget:
    def __init__(
        self,
        gpus: GPUProbe,
        find_devices: Callable[[], Sequence[ComputeDevice]] = tuple,
        *,
        ram_limit_bytes: int | None = None,
        gpu_limit_bytes: int | None = None,
        root: Path = SYSTEM,
    ) -> None:
        """``find_devices`` asks llama.cpp what it computes on beside the processor, which takes a second.

        It is called only if the driver knows of GPUs, and again when others are there. Limits are for all models.
        """
        self._gpus = gpus
        self._find_devices = find_devices
        self._devices: tuple[ComputeDevice, ...] = ()
        self._asked_about: frozenset[str | None] = frozenset()
        self._look_for_devices(gpus.read())
        self._ram_limit_bytes = ram_limit_bytes
        self._gpu_limit_bytes = gpu_limit_bytes
        self._root = root

    def rooms(self, bookings: Sequence[Booking], freed: Sequence[Booking] = ()) -> tuple[Room, ...]:
        """See :class:`appliance.supervisor.budget.Budget`. GPUs that are lost are left out."""
        rooms = [Room(RAM, self._ram_room(bookings, freed))]
        seen = {gpu.pci_bus_id: gpu for gpu in self._gpus.read().usable} if self._devices else {}
        for device in self._devices:
            if device.is_unified:
                rooms.append(Room(device.name, rooms[0].free_bytes, is_unified=True))
            elif device.pci_bus_id is None or device.pci_bus_id in seen:
                rooms.append(Room(device.name, self._gpu_room(device, seen.get(device.pci_bus_id), bookings, freed)))
        return tuple(rooms)

    def lost_gpus(self) -> str | None:
        """See :class:`appliance.supervisor.budget.Budget`. Blocks while the driver answers."""
        gpus = self._gpus.read()
        if not self._devices:
            self._look_for_devices(gpus)
        return gpus.lost if self._devices else None

    def _look_for_devices(self, gpus: GPUs) -> None:
        there = frozenset(gpu.pci_bus_id for gpu in gpus.usable)
        if there != self._asked_about:
            self._asked_about = there
            self._devices = tuple(self._find_devices()) if there else ()

    def _ram_room(self, bookings: Sequence[Booking], freed: Sequence[Booking]) -> int:
        unified = [device.name for device in self._devices if device.is_unified]
        n_booked = sum(booked(bookings, device) for device in (RAM, *unified))
        ram = read_ram(self._root)
        reserve = min(int(ram.limit_bytes * RAM_RESERVE_RATIO), MAX_RAM_RESERVE_BYTES)
        # What engines have is booked. Weights are mapped files, which the kernel counts as available; the rest isn't.
        pids = [booking.pid for booking in (*bookings, *freed) if booking.pid is not None]
        own = sum(anonymous_bytes(self._root, pid) for pid in pids)
        room = min(ram.limit_bytes, ram.room_bytes + own) - reserve
        if self._ram_limit_bytes is not None:
            room = min(room, self._ram_limit_bytes)
        return room - n_booked

    def _gpu_room(
        self, device: ComputeDevice, gpu: GPU | None, bookings: Sequence[Booking], freed: Sequence[Booking]
    ) -> int:
        """What is free shows what loaded models have taken, but not what one that loads is about to take."""
        if gpu is None or gpu.free_bytes is None:  # all that is known is what was free at the start
            room = device.free_bytes - GPU_RESERVE_BYTES - booked(bookings, device.name)
        else:
            room = gpu.free_bytes + booked([b for b in freed if b.is_settled], device.name) - GPU_RESERVE_BYTES
            room -= booked([b for b in bookings if not b.is_settled], device.name)
        if self._gpu_limit_bytes is not None:
            room = min(room, self._gpu_limit_bytes - booked(bookings, device.name))
        return room


def anonymous_bytes(root: Path, pid: int) -> int:
    """What a process has in RAM that no file backs; 0 if it has gone, or the system doesn't say."""
    try:
        lines = (root / f"proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
