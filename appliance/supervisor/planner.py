"""Where a model would lie in memory: estimated from its header, or as it was measured when it was loaded before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from appliance.engine.messages import Buffer, Ready
from appliance.errors import DoesNotFit, GPUMissing
from appliance.hardware import fit as fitting
from appliance.hardware.estimate import RunShape, estimate
from appliance.hardware.fit import Fit, Room
from appliance.hardware.memory_use import RAM, DeviceMemory, MemoryUse
from appliance.hardware.repack import REPACKED_TYPES
from appliance.supervisor.spec import ModelSpec

_PLENTY = 1 << 62
_MAX_CORRECTIONS = 4
# Buffer types of llama.cpp that lie in RAM begin or end so: CPU, CPU_Mapped, CPU_REPACK, CUDA_Host.
_RAM_PREFIXES, _RAM_SUFFIX = ("CPU", "AMX", "BLAS"), "_Host"
_MAPPED = "CPU_Mapped"


class Measurements(Protocol):
    """What models took when they were loaded; ``appliance.state.measured`` keeps it."""

    def get(self, weights_sha256: str, run: RunShape) -> MemoryUse | None: ...

    def put(self, weights_sha256: str, run: RunShape, memory: MemoryUse) -> None: ...


class Planner:
    def __init__(
        self,
        measurements: Measurements | None = None,
        *,
        repacks: frozenset[str] = REPACKED_TYPES,
        why_no_gpu: Callable[[], str] = lambda: "there is none",
    ) -> None:
        """``repacks``: types of weights that llama.cpp keeps a second time, in an order for this processor.

        ``why_no_gpu`` is asked when a model wants a GPU and there is none.
        """
        self._measurements = measurements
        self._repacks = repacks
        self._why_no_gpu = why_no_gpu

    def fit(self, spec: ModelSpec, rooms: tuple[Room, ...]) -> Fit:
        """How the model is run in what is left.

        Raises:
            DoesNotFit: with the numbers; GPUMissing if it wants a GPU and there is none.
        """
        if spec.require_gpu and len(rooms) == 1:
            raise GPUMissing(f"{spec.stored.name} wants a GPU (require_gpu): {self._why_no_gpu()}")
        try:
            return self._fit(spec, rooms)
        except DoesNotFit as error:
            raise DoesNotFit(f"{spec.stored.name}: {error.message}") from None

    def _fit(self, spec: ModelSpec, rooms: tuple[Room, ...]) -> Fit:
        shape = spec.stored.record.shape
        plenty = tuple(msgspec.structs.replace(room, free_bytes=_PLENTY) for room in rooms)
        whole = fitting.fit(shape, spec.wanted, plenty, repacks=self._repacks)
        found, left = whole, rooms
        # What was measured for one way to run it corrects the estimates of others, until one of them has room.
        for _ in range(_MAX_CORRECTIONS):
            if (measured := self._measured(spec, found)) is not None:
                if _has_room(measured, rooms):
                    return msgspec.structs.replace(found, memory=measured)
                left = _corrected(rooms, found.memory, measured)
            elif found is not whole:
                return found
            found = fitting.fit(shape, spec.wanted, left, repacks=self._repacks)
        return msgspec.structs.replace(found, memory=self._measured(spec, found) or found.memory)

    def step_down(self, spec: ModelSpec, last: Fit, rooms: tuple[Room, ...]) -> Fit | None:
        """The next smaller way, after an out-of-memory; None when nothing automatic is left to lower."""
        return fitting.step_down(spec.stored.record.shape, spec.wanted, last, rooms, repacks=self._repacks)

    def sides(self, spec: ModelSpec, fit: Fit, gpus: tuple[str, ...]) -> tuple[MemoryUse, MemoryUse | None]:
        """What a way to run a model is estimated to take, and what was measured of it; None: it wasn't."""
        estimated = estimate(spec.stored.record.shape, fit.run, gpus, self._repacks, spec.wanted.draft)
        return estimated, self._measured(spec, fit)

    def note(self, spec: ModelSpec, fit: Fit, info: Ready) -> MemoryUse:
        """What the model that was just loaded takes, which is remembered; the estimate if llama.cpp didn't say."""
        if not info.buffers:
            return fit.memory
        measured = measured_memory(info, fit.memory)
        if self._measurements is not None:
            self._measurements.put(spec.weights_sha256, fit.run, measured)
        return measured

    def _measured(self, spec: ModelSpec, fit: Fit) -> MemoryUse | None:
        if self._measurements is None:
            return None
        return self._measurements.get(spec.weights_sha256, fit.run)


def measured_memory(info: Ready, estimated: MemoryUse) -> MemoryUse:
    """By device, from llama.cpp's buffers; a GPU's overhead is the driver's and stays as it was estimated."""
    found: MemoryUse = {RAM: DeviceMemory()}
    for buffer in info.buffers:
        device = _device(buffer, estimated)
        before = found.get(device, DeviceMemory())
        field = {"weights": "weights_bytes", "kv": "kv_bytes"}.get(buffer.kind, "compute_bytes")
        found[device] = msgspec.structs.replace(before, **{field: getattr(before, field) + buffer.n_bytes})
    in_ram = sum(b.n_bytes for b in info.buffers if _device(b, estimated) == RAM and b.device != _MAPPED)
    for device, memory in found.items():
        overhead = estimated[device].overhead_bytes if device in estimated else 0
        if device == RAM and info.anonymous_bytes:
            overhead = max(0, info.anonymous_bytes - in_ram)
        found[device] = msgspec.structs.replace(memory, overhead_bytes=overhead)
    return found


def _device(buffer: Buffer, estimated: MemoryUse) -> str:
    if buffer.device.startswith(_RAM_PREFIXES) or buffer.device.endswith(_RAM_SUFFIX):
        return RAM
    # A GPU may have several types of buffers: Metal has Metal_Mapped and Metal_Private beside it.
    return next((device for device in estimated if buffer.device.startswith(f"{device}_")), buffer.device)


def _has_room(memory: MemoryUse, rooms: tuple[Room, ...]) -> bool:
    n_bytes = {device: use.total_bytes for device, use in memory.items()}
    shared = sum(n_bytes.get(room.device, 0) for room in rooms if room.is_unified)
    n_bytes[RAM] = n_bytes.get(RAM, 0) + shared
    free = {room.device: room.free_bytes for room in rooms}
    return all(wanted <= free.get(device, 0) for device, wanted in n_bytes.items())


def _corrected(rooms: tuple[Room, ...], estimated: MemoryUse, measured: MemoryUse) -> tuple[Room, ...]:
    """Rooms that are smaller by what the estimate was too small for; a GPU that is unified has RAM's."""

    def missing(device: str) -> int:
        guess = estimated[device].total_bytes if device in estimated else 0
        return max(0, measured[device].total_bytes - guess) if device in measured else 0

    shared = missing(RAM) + sum(missing(room.device) for room in rooms if room.is_unified)
    return tuple(
        msgspec.structs.replace(
            room,
            free_bytes=room.free_bytes - (shared if room.is_unified or room.device == RAM else missing(room.device)),
        )
        for room in rooms
    )
